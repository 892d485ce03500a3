//! The work that `instructions.sh` counts the instructions of: `instructions WORK COUNT`.

mod house;

use gateway::hub::Encoder as _;
use house::House;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let work = arguments.next().unwrap_or_default();
    // `cargo test --benches` and `cargo bench` start it with flags: that is no order.
    let Some(count) = arguments.next().and_then(|count| count.parse().ok()) else {
        return Ok(());
    };
    match work.as_str() {
        "encode" => {
            let (encoder, event) = (house::encoder(), house::event(1));
            let mut out = Vec::with_capacity(4096);
            for _ in 0..count {
                out.clear();
                encoder.event(&mut out, std::hint::black_box(&event));
            }
            std::hint::black_box(out);
        }
        "append" => {
            House::new(1, 256)?.append(count)?;
        }
        "sweep" => {
            let mut house = House::new(256, 1024)?;
            for _ in 0..count {
                house.sweep()?;
            }
        }
        other => anyhow::bail!("no such work: {other}"),
    }
    Ok(())
}
