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
    let numbers = Numbers {
        clients: 10_000,
        rate: 1.0,
        seconds: 1.0,
        ..Numbers::default()
    };
    let alone = bench.run(load, open, numbers)?;
    let mut values = vec![
        higher(
            "streams opened per second of CPU, open rooms",
            "1/s",
            opened_per_second_of_cpu(&alone),
        ),
        lower(
            "memory per stream, open rooms",
            "B",
            memory(&alone, false) / alone.connecting.wanted as f64,
        ),
    ];
    let mut runs = vec![alone];
    for (algorithm, opened, per_stream, per_token) in [
        (
            Algorithm::HS256,
            "streams opened per second of CPU, HS256",
            "memory per stream, HS256",
            "memory per known token, HS256",
        ),
        (
            Algorithm::ES256,
            "streams opened per second of CPU, ES256",
            "memory per stream, ES256",
            "memory per known token, ES256",
        ),
    ] {
        let numbers = bench.scaled(Numbers {
            tokens: Some(algorithm),
            ..numbers
        });
        let stage = bench.start(&closed, &numbers)?;
        // What a node keeps of tokens has a bound of its own, whatever streams there are: it is told apart.
        let known = bench.show_tokens(&stage, &closed)?;
        let report = bench.run_on(&stage, load, &closed, numbers)?;
        let streams = report.connecting.wanted as f64;
        values.extend([
            higher(opened, "1/s", opened_per_second_of_cpu(&report)),
            lower(per_stream, "B", memory(&report, false) / streams),
            lower(per_token, "B", known),
        ]);
        runs.push(report);
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
