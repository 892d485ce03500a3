//! What one event costs: its encoding, its place in a room log, and its way to 1,000 sockets.

mod house;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gateway::hub::Encoder as _;
use house::House;

const SUBSCRIBERS: usize = 1_000;
const EVENTS: usize = 64;

fn encode(criterion: &mut Criterion) {
    let (encoder, event) = (house::encoder(), house::event(1));
    let mut out = Vec::with_capacity(4096);
    criterion.bench_function("encode one event", |bencher| {
        bencher.iter(|| {
            out.clear();
            encoder.event(&mut out, std::hint::black_box(&event))
        });
    });
}

fn append(criterion: &mut Criterion) {
    // A log of 256 events: every fourth batch or so evicts.
    let mut house = House::new(1, 256).expect("a shard");
    let mut group = criterion.benchmark_group("append to a room log");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("64 events", |bencher| {
        bencher.iter_custom(|rounds| timed(rounds, || house.append(EVENTS)));
    });
    group.finish();
}

fn sweep(criterion: &mut Criterion) {
    let mut house = House::new(SUBSCRIBERS, 1024).expect("a shard and 2,000 descriptors");
    let mut group = criterion.benchmark_group("sweep");
    group.throughput(Throughput::Elements(SUBSCRIBERS as u64));
    group.sample_size(20);
    group.bench_function("one event to 1,000 sockets", |bencher| {
        bencher.iter_custom(|rounds| timed(rounds, || house.sweep()));
    });
    group.finish();
}

fn timed(rounds: u64, mut one: impl FnMut() -> anyhow::Result<Duration>) -> Duration {
    (0..rounds).map(|_| one().expect("the shard works")).sum()
}

criterion_group!(benches, encode, append, sweep);
criterion_main!(benches);
