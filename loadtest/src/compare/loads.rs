//! The loads of a comparison, and what is read from each.

mod exposed;

use super::bench::{Bench, Numbers};
use super::{CompareError, Measured, Value};
use crate::peer::System;
use crate::report::model::{Better, Report};

/// Which systems a load is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Those that keep events in memory.
    Memory,
    /// Those on Redis.
    Redis,
    /// These.
    Only(&'static [&'static str]),
}

/// One load.
pub(super) struct LoadKind {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) kind: Kind,
    pub(super) measure: fn(&Bench, &LoadKind, &System) -> Result<Measured, CompareError>,
}

/// All loads.
pub(super) const LOADS: &[LoadKind] = &[
    LoadKind {
        name: "fanout",
        about: "10,000 streams of one room, 5 events/s of 200 bytes",
        kind: Kind::Memory,
        measure: fanout,
    },
    LoadKind {
        name: "firehose",
        about: "10,000 streams of one room, 100 events/s of 200 bytes: a million deliveries a second",
        kind: Kind::Memory,
        measure: firehose,
    },
    LoadKind {
        name: "flood",
        about: "10,000 streams of one room, 400 events/s of 200 bytes: more than can be delivered",
        kind: Kind::Memory,
        measure: flood,
    },
    LoadKind {
        name: "idle",
        about: "5,000, 10,000 and 18,000 streams of one room; then 100 events each",
        kind: Kind::Memory,
        measure: idle,
    },
    LoadKind {
        name: "accept",
        about: "10,000 streams of one room, opened as fast as they are answered",
        kind: Kind::Memory,
        measure: accept,
    },
    LoadKind {
        name: "rooms",
        about: "5,000 streams in 1,000 rooms, 1,000 events/s of 200 bytes, published over HTTP",
        kind: Kind::Memory,
        measure: rooms,
    },
    LoadKind {
        name: "rooms-redis",
        about: "5,000 streams in 1,000 rooms, 1,000 events/s of 200 bytes, through Redis",
        kind: Kind::Redis,
        measure: rooms,
    },
    LoadKind {
        name: "events",
        about: "1,000 rooms with one stream each, 4,000 events/s of 200 bytes through Redis",
        kind: Kind::Only(&["gateway-redis", "relay", "subscriber"]),
        measure: events,
    },
    LoadKind {
        name: "herd",
        about: "18,000 streams in 100 rooms, 100 events/s through Redis, all cut and back within 10 s",
        kind: Kind::Only(&["gateway-redis"]),
        measure: herd,
    },
    LoadKind {
        name: "stalled",
        about: "1,000 streams of one room, 50 events/s of 2,000 bytes (publish rate: 400 events/s); the same with one that stalls",
        kind: Kind::Only(&["gateway", "nchan"]),
        measure: stalled,
    },
    LoadKind {
        name: "many-rooms",
        about: "18,000 rooms with one stream each; the same in one room",
        kind: Kind::Only(&["gateway", "nchan"]),
        measure: many_rooms,
    },
    LoadKind {
        name: "tokens",
        about: "10,000 streams of one room, opened as fast as they are answered; open to all, then with a token and a user each, shown before",
        kind: Kind::Only(&["gateway"]),
        measure: exposed::tokens,
    },
    LoadKind {
        name: "tls",
        about: "10,000 streams of one room over TLS, 5 events/s of 200 bytes",
        kind: Kind::Only(&["gateway"]),
        measure: exposed::tls,
    },
    LoadKind {
        name: "http2",
        about: "10,000 streams of one room, 5 events/s of 200 bytes; each on a connection of its own, then on 100 that speak HTTP/2",
        kind: Kind::Only(&["gateway"]),
        measure: exposed::http2,
    },
    LoadKind {
        name: "shards",
        about: "10,000 streams of one room, 5 events/s of 200 bytes; one shard and two, on both cores",
        kind: Kind::Only(&["gateway"]),
        measure: shards,
    },
];

fn value(name: &'static str, unit: &'static str, better: Better, value: f64) -> Value {
    Value {
        name,
        unit,
        better,
        value,
    }
}

fn lower(name: &'static str, unit: &'static str, of: f64) -> Value {
    value(name, unit, Better::Lower, of)
}

fn higher(name: &'static str, unit: &'static str, of: f64) -> Value {
    value(name, unit, Better::Higher, of)
}

fn cpu_seconds(report: &Report) -> f64 {
    report
        .processes
        .iter()
        .map(|p| p.cpu_user + p.cpu_system)
        .sum()
}

fn cpu_per_delivery(report: &Report) -> f64 {
    cpu_seconds(report) * 1e6 / (report.delivering.received as f64).max(1.0)
}

/// Memory of the system beyond what it had without clients.
fn memory(report: &Report, after_events: bool) -> f64 {
    let grown = report.processes.iter().map(|process| {
        let now = if after_events {
            process.rss_after
        } else {
            process.rss_connected
        };
        now as f64 - process.rss_before as f64
    });
    grown.sum()
}

fn latencies(report: &Report) -> [Value; 2] {
    let latency = &report.delivering.latency;
    [
        lower("latency p50", "µs", latency.p50 as f64),
        lower("latency p99", "µs", latency.p99 as f64),
    ]
}

fn fanout(bench: &Bench, load: &LoadKind, system: &System) -> Result<Measured, CompareError> {
    let report = bench.run(
        load,
        system,
        Numbers {
            clients: 10_000,
            seconds: 15.0,
            ..Numbers::default()
        },
    )?;
    let mut values = vec![lower("CPU per delivery", "µs", cpu_per_delivery(&report))];
    values.extend(latencies(&report));
    Ok(Measured {
        values,
        runs: vec![report],
    })
}

fn firehose(bench: &Bench, load: &LoadKind, system: &System) -> Result<Measured, CompareError> {
    let numbers = Numbers {
        clients: 10_000,
        rate: 100.0,
        ..Numbers::default()
    };
    let tenth = bench.run(
        load,
        system,
        Numbers {
            rate: 10.0,
            ..numbers
        },
    )?;
    let whole = bench.run(load, system, numbers)?;
    let mut values = vec![
        higher("deliveries", "1/s", whole.delivering.per_second),
        lower("CPU per delivery", "µs", cpu_per_delivery(&whole)),
    ];
    values.extend(latencies(&whole));
    values.push(lower(
        "latency p99 at a tenth",
        "µs",
        tenth.delivering.latency.p99 as f64,
    ));
    Ok(Measured {
        values,
        runs: vec![tenth, whole],
    })
}

fn flood(bench: &Bench, load: &LoadKind, system: &System) -> Result<Measured, CompareError> {
    let report = bench.run(
        load,
        system,
        Numbers {
            clients: 10_000,
            rate: 400.0,
            ..Numbers::default()
        },
    )?;
    Ok(Measured {
        values: vec![
            higher("deliveries", "1/s", report.delivering.per_second),
            lower("CPU per delivery", "µs", cpu_per_delivery(&report)),
        ],
        runs: vec![report],
    })
}

fn idle(bench: &Bench, load: &LoadKind, system: &System) -> Result<Measured, CompareError> {
    let mut runs = Vec::new();
    for clients in [5_000, 10_000, 18_000] {
        runs.push(bench.run(
            load,
            system,
            Numbers {
                clients,
                // 100 events each, at 10,000.
                rate: if clients == 10_000 { 20.0 } else { 1.0 },
                seconds: if clients == 10_000 { 5.0 } else { 1.0 },
                ..Numbers::default()
            },
        )?);
    }
    let clients = |at: usize| runs[at].connecting.wanted as f64;
    let kernel = |report: &Report| {
        let kernel = report.kernel.unwrap_or_default();
        kernel.slab_connected as f64 - kernel.slab_before as f64
    };
    let slope = (memory(&runs[2], false) - memory(&runs[0], false)) / (clients(2) - clients(0));
    let values = vec![
        lower(
            "memory per stream at 10,000",
            "B",
            memory(&runs[1], false) / clients(1),
        ),
        lower("memory per stream, slope from 5,000 to 18,000", "B", slope),
        lower(
            "memory per stream after 100 events",
            "B",
            memory(&runs[1], true) / clients(1),
        ),
        lower(
            "kernel memory per stream, both ends",
            "B",
            kernel(&runs[2]) / clients(2),
        ),
    ];
    Ok(Measured { values, runs })
}

fn accept(bench: &Bench, load: &LoadKind, system: &System) -> Result<Measured, CompareError> {
    let report = bench.run(
        load,
        system,
        Numbers {
            clients: 10_000,
            rate: 1.0,
            seconds: 1.0,
            ..Numbers::default()
        },
    )?;
    Ok(Measured {
        values: vec![
            higher("streams opened", "1/s", report.connecting.per_second),
            higher(
                "streams opened per second of CPU",
                "1/s",
                opened_per_second_of_cpu(&report),
            ),
        ],
        runs: vec![report],
    })
}

fn opened_per_second_of_cpu(report: &Report) -> f64 {
    let cpu: f64 = report.processes.iter().map(|p| p.cpu_connecting).sum();
    report.connecting.opened as f64 / cpu.max(0.01)
}

fn rooms(bench: &Bench, load: &LoadKind, system: &System) -> Result<Measured, CompareError> {
    let report = bench.run(
        load,
        system,
        Numbers {
            clients: 5_000,
            rooms: 1_000,
            rate: 1_000.0,
            ..Numbers::default()
        },
    )?;
    let mut values: Vec<Value> = latencies(&report).into();
    values.push(lower("CPU per delivery", "µs", cpu_per_delivery(&report)));
    Ok(Measured {
        values,
        runs: vec![report],
    })
}

fn events(bench: &Bench, load: &LoadKind, system: &System) -> Result<Measured, CompareError> {
    // As many rooms as the subscriber has, in a quick look too.
    let numbers = Numbers {
        clients: 1_000,
        rooms: 1_000,
        rate: 4_000.0,
        prefix: "events-",
        ..Numbers::default()
    };
    let stage = bench.start(system, &numbers)?;
    let name = "CPU per event";
    if system.name == "subscriber" {
        let cpu = bench.publish_only(&stage, load, system, numbers)?;
        return Ok(Measured {
            values: vec![lower(name, "µs", cpu)],
            runs: Vec::new(),
        });
    }
    let report = bench.run_on(&stage, load, system, numbers)?;
    let cpu = cpu_per_delivery(&report);
    let mut values = vec![lower(name, "µs", cpu)];
    if system.name == "relay" {
        // The relay stays subscribed when its clients are gone: what is missing then is the writing.
        let without = bench.publish_only(&stage, load, system, numbers)?;
        values.push(lower("CPU per write", "µs", cpu - without));
    }
    Ok(Measured {
        values,
        runs: vec![report],
    })
}

fn herd(bench: &Bench, load: &LoadKind, system: &System) -> Result<Measured, CompareError> {
    let report = bench.run(
        load,
        system,
        Numbers {
            clients: 18_000,
            rooms: 100,
            rate: 100.0,
            seconds: 5.0,
            cut: Some(10.0),
            ..Numbers::default()
        },
    )?;
    let Some(back) = report.resuming.first() else {
        return Ok(Measured::default());
    };
    let calls = |command: &str| back.redis.get(command).copied().unwrap_or(0);
    // The publish function reads the newest id by itself, once a call.
    let reads = (calls("xrange") + calls("xrevrange")).saturating_sub(calls("fcall"));
    Ok(Measured {
        values: vec![
            lower("caught up after the last connect", "s", back.caught_up),
            lower("range reads per room", "", reads as f64 / back.rooms as f64),
            lower("resume p99", "µs", back.time.p99 as f64),
        ],
        runs: vec![report],
    })
}

fn stalled(bench: &Bench, load: &LoadKind, system: &System) -> Result<Measured, CompareError> {
    let run = |rate, stalled| {
        let numbers = Numbers {
            clients: 1_000,
            rate,
            seconds: 6.0,
            size: 2_000,
            stalled,
            ..Numbers::default()
        };
        bench.run(load, system, numbers)
    };
    // Latency where the system is half busy: near its limit, chance alone would move the p99. The order makes up
    // for a machine that becomes faster or slower.
    let runs = vec![
        run(50.0, 0)?,
        run(50.0, 1)?,
        run(50.0, 1)?,
        run(50.0, 0)?,
        // More than can be delivered: a publisher that had to wait for a client would show.
        run(400.0, 0)?,
        run(400.0, 1)?,
    ];
    let p99 = |a: usize, b: usize| {
        let of = |at: usize| runs[at].delivering.latency.p99 as f64;
        (of(a) + of(b)) / 2.0
    };
    let rate = |at: usize| runs[at].publishing.accepted as f64 / runs[at].duration.max(0.001);
    Ok(Measured {
        values: vec![
            higher("published", "1/s", rate(4)),
            higher("published, one stalled", "1/s", rate(5)),
            lower("latency p99", "µs", p99(0, 3)),
            lower("latency p99, one stalled", "µs", p99(1, 2)),
        ],
        runs,
    })
}

fn many_rooms(bench: &Bench, load: &LoadKind, system: &System) -> Result<Measured, CompareError> {
    let numbers = Numbers {
        clients: 18_000,
        rate: 1.0,
        seconds: 1.0,
        ..Numbers::default()
    };
    let one = bench.run(load, system, numbers)?;
    let many = bench.run(
        load,
        system,
        Numbers {
            rooms: 18_000,
            ..numbers
        },
    )?;
    let rooms = many.connecting.wanted as f64;
    let more = memory(&many, false) - memory(&one, false);
    Ok(Measured {
        values: vec![lower(
            "memory per room beyond the stream",
            "B",
            more / rooms,
        )],
        runs: vec![one, many],
    })
}

fn shards(bench: &Bench, load: &LoadKind, system: &System) -> Result<Measured, CompareError> {
    let numbers = Numbers {
        clients: 10_000,
        both_cores: true,
        ..Numbers::default()
    };
    let one = bench.run(load, system, numbers)?;
    let two = bench.run(
        load,
        system,
        Numbers {
            shards: 2,
            ..numbers
        },
    )?;
    // The clients run on the same two cores, so what counts is how much a core's second delivers. At this rate
    // each delivery is one write: a shard that is kept waiting cannot make up for it by carrying more in each.
    let per_core =
        |report: &Report| report.delivering.received as f64 / cpu_seconds(report).max(0.01);
    Ok(Measured {
        values: vec![
            higher(
                "deliveries per second of CPU, one shard",
                "1/s",
                per_core(&one),
            ),
            higher(
                "deliveries per second of two cores, two shards",
                "1/s",
                2.0 * per_core(&two),
            ),
        ],
        runs: vec![one, two],
    })
}
