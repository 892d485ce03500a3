//! The ratios that a release has to keep: what is divided by what, and the bounds.

use crate::report::model::{Better, Figure, Ratio, median};

/// One side of a ratio: a system's figure under a load.
struct Side {
    load: &'static str,
    figure: &'static str,
    system: &'static str,
}

struct Spec {
    name: &'static str,
    of: Side,
    to: Option<Side>,
    /// What is taken off `of` first.
    less: Option<Side>,
    better: Better,
    must: f64,
    aim: f64,
}

const fn side(load: &'static str, figure: &'static str, system: &'static str) -> Side {
    Side {
        load,
        figure,
        system,
    }
}

const fn spec(name: &'static str, of: Side, to: Side, better: Better, must: f64, aim: f64) -> Spec {
    Spec {
        name,
        of,
        to: Some(to),
        less: None,
        better,
        must,
        aim,
    }
}

const fn plain(name: &'static str, of: Side, must: f64, aim: f64) -> Spec {
    Spec {
        name,
        of,
        to: None,
        less: None,
        better: Better::Lower,
        must,
        aim,
    }
}

const CPU: &str = "CPU per delivery";
const RATE: &str = "deliveries";
const P50: &str = "latency p50";
const P99: &str = "latency p99";
const GW: &str = "gateway";
const GWR: &str = "gateway-redis";
const IDLE: &str = "memory per stream at 10,000";
const SLOPE: &str = "memory per stream, slope from 5,000 to 18,000";
const USED: &str = "memory per stream after 100 events";
const OPENED: &str = "streams opened per second of CPU";
const READS: &str = "range reads per room";
const ROOM: &str = "memory per room beyond the stream";

const SPECS: &[Spec] = &[
    spec(
        "CPU per delivery, fan-out, to floor",
        side("fanout", CPU, GW),
        side("fanout", CPU, "floor"),
        Better::Lower,
        1.08,
        0.98,
    ),
    spec(
        "CPU per delivery, fan-out, to an earlier gateway",
        side("fanout", CPU, GW),
        side("fanout", CPU, "gateway-before"),
        Better::Lower,
        1.03,
        1.0,
    ),
    spec(
        "CPU per delivery, fan-out, to Nchan",
        side("fanout", CPU, GW),
        side("fanout", CPU, "nchan"),
        Better::Lower,
        0.9,
        0.8,
    ),
    spec(
        "deliveries/s, flood, to Nchan",
        side("flood", RATE, GW),
        side("flood", RATE, "nchan"),
        Better::Higher,
        10.0,
        15.0,
    ),
    spec(
        "p99 at a million a second, to a tenth",
        side("firehose", P99, GW),
        side("firehose", "latency p99 at a tenth", GW),
        Better::Lower,
        3.0,
        1.5,
    ),
    plain(
        "memory per idle stream at 10,000, bytes",
        side("idle", IDLE, GW),
        1_024.0,
        614.0,
    ),
    plain(
        "memory per idle stream, slope, bytes",
        side("idle", SLOPE, GW),
        307.0,
        154.0,
    ),
    spec(
        "memory after 100 events, to idle",
        side("idle", USED, GW),
        side("idle", IDLE, GW),
        Better::Lower,
        1.1,
        1.1,
    ),
    spec(
        "p50 through Redis, small rooms, to relay",
        side("rooms-redis", P50, GWR),
        side("rooms-redis", P50, "relay"),
        Better::Lower,
        1.5,
        1.1,
    ),
    spec(
        "p99 through Redis, small rooms, to relay",
        side("rooms-redis", P99, GWR),
        side("rooms-redis", P99, "relay"),
        Better::Lower,
        1.5,
        1.1,
    ),
    Spec {
        name: "CPU per event without the write, to a bare subscriber",
        of: side("events", "CPU per event", GWR),
        less: Some(side("events", "CPU per write", "relay")),
        to: Some(side("events", "CPU per event", "subscriber")),
        better: Better::Lower,
        must: 3.0,
        aim: 1.5,
    },
    spec(
        "streams accepted per second and core, to floor",
        side("accept", OPENED, GW),
        side("accept", OPENED, "floor"),
        Better::Higher,
        0.8,
        1.1,
    ),
    plain(
        "herd of 18,000: seconds from the last connect to all caught up",
        side("herd", "caught up after the last connect", GWR),
        2.0,
        0.5,
    ),
    plain(
        "herd of 18,000: range reads per room",
        side("herd", READS, GWR),
        5.0,
        1.0,
    ),
    spec(
        "publish rate beside a stalled client",
        side("stalled", "published, one stalled", GW),
        side("stalled", "published", GW),
        Better::Higher,
        0.95,
        1.0,
    ),
    spec(
        "p99 beside a stalled client",
        side("stalled", "latency p99, one stalled", GW),
        side("stalled", P99, GW),
        Better::Lower,
        1.1,
        1.0,
    ),
    plain(
        "memory per room beyond the stream, bytes",
        side("many-rooms", ROOM, GW),
        2_048.0,
        1_024.0,
    ),
    spec(
        "two shards on two cores, to one",
        side(
            "shards",
            "deliveries per second of two cores, two shards",
            GW,
        ),
        side("shards", "deliveries per second of CPU, one shard", GW),
        Better::Higher,
        1.7,
        1.9,
    ),
    spec(
        "streams accepted with known HS256 tokens, to open rooms",
        side("tokens", "streams opened per second of CPU, HS256", GW),
        side("tokens", "streams opened per second of CPU, open rooms", GW),
        Better::Higher,
        0.8,
        0.9,
    ),
    spec(
        "streams accepted with known ES256 tokens, to open rooms",
        side("tokens", "streams opened per second of CPU, ES256", GW),
        side("tokens", "streams opened per second of CPU, open rooms", GW),
        Better::Higher,
        0.8,
        0.9,
    ),
    Spec {
        name: "memory per idle stream for token and user, bytes",
        of: side("tokens", "memory per stream, HS256", GW),
        less: Some(side("tokens", "memory per stream, open rooms", GW)),
        to: None,
        better: Better::Lower,
        must: 150.0,
        aim: 100.0,
    },
    plain(
        "memory per idle TLS stream, bytes",
        side("tls", "memory per stream, TLS", GW),
        10_240.0,
        8_192.0,
    ),
    plain(
        "memory per idle stream, 100 on an HTTP/2 connection, bytes",
        side("http2", "memory per stream, HTTP/2", GW),
        2_048.0,
        1_536.0,
    ),
    spec(
        "CPU per delivery, HTTP/2, to HTTP/1.1",
        side("http2", "CPU per delivery, HTTP/2", GW),
        side("http2", "CPU per delivery, HTTP/1.1", GW),
        Better::Lower,
        1.3,
        1.0,
    ),
    spec(
        "p50, fan-out, to Nchan",
        side("fanout", P50, GW),
        side("fanout", P50, "nchan"),
        Better::Lower,
        1.0,
        0.9,
    ),
    spec(
        "p99, fan-out, to Nchan",
        side("fanout", P99, GW),
        side("fanout", P99, "nchan"),
        Better::Lower,
        1.0,
        0.9,
    ),
    spec(
        "streams accepted per second and core, to Nchan",
        side("accept", OPENED, GW),
        side("accept", OPENED, "nchan"),
        Better::Higher,
        1.0,
        1.1,
    ),
    spec(
        "p50 over HTTP, small rooms, to Nchan",
        side("rooms", P50, GW),
        side("rooms", P50, "nchan"),
        Better::Lower,
        1.0,
        0.9,
    ),
    spec(
        "p99 over HTTP, small rooms, to Nchan",
        side("rooms", P99, GW),
        side("rooms", P99, "nchan"),
        Better::Lower,
        1.0,
        0.9,
    ),
    spec(
        "CPU per delivery over HTTP, small rooms, to Nchan",
        side("rooms", CPU, GW),
        side("rooms", CPU, "nchan"),
        Better::Lower,
        1.0,
        0.9,
    ),
    spec(
        "p50 through Redis, small rooms, to Nchan on Redis",
        side("rooms-redis", P50, GWR),
        side("rooms-redis", P50, "nchan-redis"),
        Better::Lower,
        1.0,
        0.9,
    ),
    spec(
        "p99 through Redis, small rooms, to Nchan on Redis",
        side("rooms-redis", P99, GWR),
        side("rooms-redis", P99, "nchan-redis"),
        Better::Lower,
        1.0,
        0.9,
    ),
    spec(
        "CPU per delivery through Redis, small rooms, to Nchan on Redis",
        side("rooms-redis", CPU, GWR),
        side("rooms-redis", CPU, "nchan-redis"),
        Better::Lower,
        1.0,
        0.9,
    ),
];

/// The ratios whose figures were measured.
pub(super) fn ratios(figures: &[Figure]) -> Vec<Ratio> {
    SPECS
        .iter()
        .filter_map(|spec| ratio(spec, figures))
        .collect()
}

fn rounds(figures: &[Figure], side: &Side) -> Option<Vec<f64>> {
    let figure = figures
        .iter()
        .find(|figure| figure.load == side.load && figure.name == side.figure)?;
    let values = figure.values.iter().find(|v| v.system == side.system)?;
    Some(values.rounds.clone())
}

fn ratio(spec: &Spec, figures: &[Figure]) -> Option<Ratio> {
    let mut rounds_of = rounds(figures, &spec.of)?;
    if let Some(less) = &spec.less {
        let less = rounds(figures, less)?;
        rounds_of
            .iter_mut()
            .zip(less)
            .for_each(|(of, less)| *of -= less);
    }
    if let Some(to) = &spec.to {
        let to = rounds(figures, to)?;
        rounds_of.iter_mut().zip(to).for_each(|(of, to)| *of /= to);
    }
    Some(Ratio {
        name: spec.name.to_owned(),
        value: median(&rounds_of),
        rounds: rounds_of,
        must: Some(spec.must),
        aim: Some(spec.aim),
        better: spec.better,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Values;

    #[test]
    fn a_ratio_is_the_median_of_the_rounds() {
        let values = |system: &str, rounds: [f64; 3]| Values {
            system: system.to_owned(),
            rounds: rounds.into(),
        };
        let figures = [Figure {
            load: "fanout".to_owned(),
            name: CPU.to_owned(),
            unit: "µs".to_owned(),
            better: Better::Lower,
            values: vec![
                values(GW, [10.0, 12.0, 30.0]),
                values("floor", [10.0, 10.0, 10.0]),
            ],
        }];
        let found = ratios(&figures);
        assert_eq!(found.len(), 1);
        assert!((found[0].value - 1.2).abs() < 1e-9 && !found[0].is_kept());
    }
}
