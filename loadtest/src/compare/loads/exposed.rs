//! What tokens, TLS and HTTP/2 cost.

use jsonwebtoken::Algorithm;

use super::{LoadKind, cpu_per_delivery, higher, lower, memory, opened_per_second_of_cpu};
use crate::compare::bench::{Bench, Numbers};
use crate::compare::{CompareError, Measured};
use crate::peer::System;
use crate::report::model::Report;

pub(super) fn tokens(
    bench: &Bench,
    load: &LoadKind,
    open: &System,
) -> Result<Measured, CompareError> {
    let closed = System::known("gateway-tokens")?;
    let (mut values, mut runs) = (Vec::new(), Vec::new());
    for (system, tokens, opened, memory_of) in [
        (
            open,
            None,
            "streams opened per second of CPU, open rooms",
            Some("memory per stream, open rooms"),
        ),
        (
            &closed,
            Some(Algorithm::HS256),
            "streams opened per second of CPU, HS256",
            Some("memory per stream, with token and user"),
        ),
        (
            &closed,
            Some(Algorithm::ES256),
            "streams opened per second of CPU, ES256",
            None,
        ),
    ] {
        let numbers = bench.scaled(Numbers {
            clients: 10_000,
            rate: 1.0,
            seconds: 1.0,
            tokens,
            ..Numbers::default()
        });
        let stage = bench.start(system, &numbers)?;
        // The first time each token is new, and so is the memory; the second time every decision is known, as it is
        // to a node whose clients come back.
        let first = bench.run_on(&stage, load, system, numbers)?;
        let second = bench.run_on(&stage, load, system, numbers)?;
        values.push(higher(opened, "1/s", opened_per_second_of_cpu(&second)));
        if let Some(name) = memory_of {
            let streams = first.connecting.wanted as f64;
            values.push(lower(name, "B", memory(&first, false) / streams));
        }
        runs.extend([first, second]);
    }
    Ok(Measured { values, runs })
}

pub(super) fn tls(bench: &Bench, load: &LoadKind, _: &System) -> Result<Measured, CompareError> {
    let report = bench.run(
        load,
        &System::known("gateway-tls")?,
        Numbers {
            clients: 10_000,
            ..Numbers::default()
        },
    )?;
    let streams = report.connecting.wanted as f64;
    Ok(Measured {
        values: vec![
            lower(
                "memory per stream, TLS",
                "B",
                memory(&report, false) / streams,
            ),
            lower(
                "memory per stream after events, TLS",
                "B",
                memory(&report, true) / streams,
            ),
            higher(
                "streams opened per second of CPU, TLS",
                "1/s",
                opened_per_second_of_cpu(&report),
            ),
            lower("CPU per delivery, TLS", "µs", cpu_per_delivery(&report)),
        ],
        runs: vec![report],
    })
}

pub(super) fn http2(
    bench: &Bench,
    load: &LoadKind,
    system: &System,
) -> Result<Measured, CompareError> {
    let numbers = Numbers {
        clients: 10_000,
        ..Numbers::default()
    };
    let alone = bench.run(load, system, numbers)?;
    let shared = bench.run(
        load,
        system,
        Numbers {
            http2: Some(100),
            ..numbers
        },
    )?;
    let streams = shared.connecting.wanted as f64;
    let p99 = |report: &Report| report.delivering.latency.p99 as f64;
    Ok(Measured {
        values: vec![
            lower(
                "memory per stream, HTTP/2",
                "B",
                memory(&shared, false) / streams,
            ),
            lower(
                "memory per stream after events, HTTP/2",
                "B",
                memory(&shared, true) / streams,
            ),
            lower("CPU per delivery, HTTP/1.1", "µs", cpu_per_delivery(&alone)),
            lower("CPU per delivery, HTTP/2", "µs", cpu_per_delivery(&shared)),
            lower("latency p99, HTTP/1.1", "µs", p99(&alone)),
            lower("latency p99, HTTP/2", "µs", p99(&shared)),
        ],
        runs: vec![alone, shared],
    })
}
