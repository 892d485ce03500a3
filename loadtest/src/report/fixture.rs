//! Made-up findings for the tests of the views.

use std::collections::BTreeMap;

use super::model::{
    Better, Checking, Comparison, Connecting, Delivering, Fault, FaultKind, Figure, KernelMemory,
    Machine, ProcessCost, Publishing, Quantiles, Ratio, RedisCost, Report, Resuming, Sample,
    ToolCost, Values,
};

/// Leaves a view where somebody can look at it: `REPORT_PAGES=/tmp cargo test -p loadtest report`.
pub fn keep(name: &str, text: &str) {
    if let Some(folder) = std::env::var_os("REPORT_PAGES") {
        std::fs::write(std::path::Path::new(&folder).join(name), text).unwrap();
    }
}

/// Quantiles around a median, in microseconds.
pub fn times(p50: u64, count: u64) -> Quantiles {
    Quantiles {
        count,
        mean: p50 as f64 * 1.25,
        p50,
        p90: p50 * 2,
        p99: p50 * 5,
        p999: p50 * 14,
        p9999: p50 * 60,
        max: p50 * 91,
    }
}

fn machine() -> Machine {
    Machine {
        cpu: "AMD EPYC 7B13 64-Core <Processor>".to_owned(),
        cpus: 16,
        memory: 64 << 30,
        kernel: "6.8.0-45-generic".to_owned(),
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(owned).collect()
}

fn commands(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
    of.iter()
        .map(|&(name, calls)| (name.to_owned(), calls))
        .collect()
}

/// A storm in which something of everything happened.
pub fn run() -> Report {
    Report {
        scenario: "storm".to_owned(),
        system: "gateway".to_owned(),
        version: "0.1.0".to_owned(),
        command: "sse-loadtest storm --clients 10000 --rooms 100 --rate 50 --cut all".to_owned(),
        began: 1_795_246_864,
        machine: machine(),
        load: pairs(&[
            ("clients", "10,000"),
            ("rooms", "100, 100 clients each"),
            ("events", "50/s of 512 bytes"),
        ]),
        duration: 60.0,
        connecting: Connecting {
            wanted: 10_000,
            opened: 10_000,
            failed: 2,
            per_second: 4_120.0,
            time: times(900, 10_000),
        },
        publishing: Publishing {
            rate: 5_000.0,
            offered: 300_000,
            accepted: 299_990,
            failed: 4,
            unsent: 6,
            lateness: times(12, 300_000),
            confirm: times(210, 299_990),
        },
        delivering: Delivering {
            expected: 29_999_000,
            received: 29_998_997,
            per_second: 499_983.0,
            bytes_per_second: 300_123_456.0,
            latency: times(480, 29_998_997),
        },
        checking: checking(),
        resuming: vec![Resuming {
            cause: "all streams cut".to_owned(),
            cut: 10_000,
            returned: 10_000,
            spread: 2.0,
            last_connect: 2.31,
            caught_up: 0.012,
            time: times(1_800, 10_000),
            connect: times(1_100, 10_000),
            rooms: 100,
            redis: commands(&[("XRANGE", 212), ("EVALSHA", 100)]),
        }],
        processes: vec![process(4711, 1.0), process(4712, 1.1)],
        kernel: Some(KernelMemory {
            slab_before: 180 << 20,
            slab_connected: 260 << 20,
            tcp_connected: 3 << 20,
        }),
        redis: Some(RedisCost {
            cpu: 6.1,
            commands: commands(&[("EVALSHA", 299_990), ("PUBLISH", 299_990), ("PING", 24)]),
        }),
        tool: ToolCost {
            workers: 4,
            busiest: 0.97,
            cpu: 143.0,
            deliveries_per_read: 1.31,
            saturated: true,
        },
        remarks: vec![
            "The load tool and the server share 16 processors; more clients would measure the \
             tool."
                .to_owned(),
            "Publishing & <delivering> are on one clock.".to_owned(),
        ],
        samples: (0..120).map(sample).collect(),
    }
}

fn checking() -> Checking {
    let fault = |kind, client, what: &str| Fault {
        kind,
        client,
        room: "<b>room</b>".to_owned(),
        what: what.to_owned(),
    };
    Checking {
        lost: 3,
        repeated: 1,
        closed: 10_000,
        first: vec![
            fault(FaultKind::Lost, 17, "event 4711 never came"),
            fault(
                FaultKind::Repeated,
                18,
                "event 12 came again after \"13\" & 14",
            ),
        ],
        ..Checking::default()
    }
}

fn process(pid: u32, by: f64) -> ProcessCost {
    ProcessCost {
        pid,
        name: "gateway".to_owned(),
        cpu_user: 8.1 * by,
        cpu_system: 12.6 * by,
        cpu_connecting: 0.62,
        rss_before: 9 << 20,
        rss_connected: 31 << 20,
        rss_after: 38 << 20,
        rss_peak: 44 << 20,
        descriptors: 5_021,
    }
}

fn sample(index: u64) -> Sample {
    // Enough wobble to see that lines are drawn where they should be, and the same every time.
    let wobble = (index * 7919 % 101) as f64 / 101.0;
    let running = index >= 6;
    let open = (index * 2_000).min(10_000);
    let cut = (62..66).contains(&index);
    Sample {
        at: 0.5 * (index + 1) as f64,
        open: if cut { (index - 61) * 2_000 } else { open },
        deliveries: if running {
            495_000.0 + wobble * 9_000.0
        } else {
            0.0
        },
        published: if running { 5_000.0 } else { 0.0 },
        latency: if running && !cut {
            times(430 + (wobble * 90.0) as u64, 250_000)
        } else {
            Quantiles::default()
        },
        rss: (18 << 20) + open * 4_400 + index * 9_000,
        cpu: if running { 0.72 + wobble * 0.05 } else { 0.1 },
        descriptors: open + 21,
        slab: (180 << 20) + open * 8_100,
    }
}

fn figure(load: &str, name: &str, unit: &str, better: Better, medians: &[(&str, f64)]) -> Figure {
    let values = |&(system, median): &(&str, f64)| Values {
        system: system.to_owned(),
        rounds: vec![median * 0.94, median, median * 1.08],
    };
    Figure {
        load: load.to_owned(),
        name: name.to_owned(),
        unit: unit.to_owned(),
        better,
        values: medians.iter().map(values).collect(),
    }
}

fn ratio(name: &str, value: f64, must: Option<f64>, aim: Option<f64>) -> Ratio {
    Ratio {
        name: name.to_owned(),
        value,
        rounds: vec![value * 0.97, value, value * 1.04],
        must,
        aim,
        better: Better::Lower,
    }
}

/// A comparison of four systems under two loads.
pub fn comparison() -> Comparison {
    let mut clean = run();
    clean.checking = Checking::default();
    clean.tool.saturated = false;
    let runs = ["gateway", "floor", "nchan", "mercure"].map(|system| Report {
        system: system.to_owned(),
        scenario: "run".to_owned(),
        resuming: Vec::new(),
        ..clean.clone()
    });
    let lower = |load, name, unit, medians| figure(load, name, unit, Better::Lower, medians);
    Comparison {
        version: "0.1.0".to_owned(),
        command: "sse-loadtest compare --rounds 3".to_owned(),
        began: 1_795_246_864,
        machine: machine(),
        rounds: 3,
        loads: pairs(&[
            ("fanout", "1 room with 10,000 clients, 50 events a second"),
            (
                "rooms",
                "1,000 rooms with 10 clients each, 5,000 events a second",
            ),
        ]),
        systems: pairs(&[
            ("gateway", "sse-gateway 0.1.0, one process"),
            (
                "floor",
                "the least that a server can do: write(2) of ready bytes to each socket",
            ),
            ("nchan", "nginx 1.24 with nchan 1.3.6 <module>"),
            ("mercure", "Mercure 0.16"),
        ]),
        figures: vec![
            lower(
                "fanout",
                "CPU per delivery",
                "µs",
                &[
                    ("gateway", 1.41),
                    ("floor", 1.22),
                    ("nchan", 2.6),
                    ("mercure", 11.2),
                ],
            ),
            lower(
                "fanout",
                "latency p99",
                "µs",
                &[
                    ("gateway", 2_400.0),
                    ("floor", 2_100.0),
                    ("nchan", 4_900.0),
                    ("mercure", 61_000.0),
                ],
            ),
            lower(
                "fanout",
                "memory per stream",
                "B",
                &[
                    ("gateway", 4_400.0),
                    ("floor", 900.0),
                    ("nchan", 5_100.0),
                    ("mercure", 51_000.0),
                ],
            ),
            figure(
                "fanout",
                "most deliveries",
                "1/s",
                Better::Higher,
                &[
                    ("gateway", 702_000.0),
                    ("floor", 811_000.0),
                    ("nchan", 381_000.0),
                ],
            ),
            lower(
                "rooms",
                "CPU per delivery",
                "µs",
                &[("gateway", 3.3), ("nchan", 6.1), ("mercure", 14.7)],
            ),
        ],
        ratios: vec![
            ratio("CPU per delivery, to floor", 1.15, Some(1.5), Some(1.25)),
            ratio("latency p99, to nchan", 0.49, Some(1.0), Some(0.4)),
            ratio("memory per stream, to floor", 4.9, Some(3.0), None),
            ratio("latency p50, to plain", 1.02, None, None),
        ],
        remarks: vec!["mercure had no time left at 5,000 events a second.".to_owned()],
        runs: runs.into(),
    }
}
