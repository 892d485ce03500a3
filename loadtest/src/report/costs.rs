//! The tables of what a run cost the server's processes and Redis.

use std::collections::BTreeMap;

use super::facts::{Table, growth, numbered, sum};
use super::model::{ProcessCost, Report};
use super::units::{NONE, count, per, with_unit};

/// The server's processes, a column for each, and one for all of them where they are several.
pub fn processes(report: &Report) -> Table {
    let mut table = Table::new("Cost of the server", &[]);
    let some = report.processes.iter();
    let mut columns: Vec<String> = some.map(|p| format!("{} {}", p.name, p.pid)).collect();
    let together = columns.len() > 1;
    if together {
        columns.insert(0, "together".to_owned());
    }
    let mut row = |label: &str, unit: &str, of: &dyn Fn(&ProcessCost) -> f64| {
        let mut cells: Vec<String> = Vec::with_capacity(columns.len());
        if together {
            cells.push(with_unit(sum(report, of), unit));
        }
        let shared = together && label.contains(" per ");
        cells.extend(report.processes.iter().map(|p| {
            // Which process had which stream is not known here: only all together have a share.
            if shared {
                NONE.to_owned()
            } else {
                with_unit(of(p), unit)
            }
        }));
        table.push(label, cells);
    };
    if report.processes.is_empty() {
        return table;
    }
    let (received, opened) = (
        report.delivering.received as f64,
        report.connecting.opened as f64,
    );
    let cpu = |p: &ProcessCost| p.cpu_user + p.cpu_system;
    row("CPU per delivery", "µs", &|p| per(cpu(p) * 1e6, received));
    row("CPU while publishing", "cores", &|p| {
        per(cpu(p), report.duration)
    });
    row("… in user mode", "s", &|p| p.cpu_user);
    row("… in the kernel", "s", &|p| p.cpu_system);
    row("CPU while connecting", "s", &|p| p.cpu_connecting);
    row("CPU per connect", "µs", &|p| {
        per(p.cpu_connecting * 1e6, opened)
    });
    row("memory per stream", "B", &|p| per(growth(p), opened));
    row("memory before clients", "B", &|p| p.rss_before as f64);
    row("… with all connected", "B", &|p| p.rss_connected as f64);
    row("… after all events", "B", &|p| p.rss_after as f64);
    row("… at most", "B", &|p| p.rss_peak as f64);
    let descriptors = || report.processes.iter().map(|p| p.descriptors);
    let sum = together.then(|| descriptors().sum());
    let cells = sum.into_iter().chain(descriptors()).map(count).collect();
    table.push("descriptors", cells);
    table.columns = columns;
    table
}

/// What Redis did for the events.
pub fn redis(report: &Report) -> Table {
    let mut table = Table::new("Redis", &["calls", "per event"]);
    let events = report.publishing.accepted as f64;
    if let Some(redis) = &report.redis {
        let all: u64 = redis.commands.values().sum();
        table.push("all commands", calls(all, events));
        commands(&mut table, &redis.commands, events);
        let each = with_unit(per(redis.cpu * 1e6, events), "µs");
        table.push("CPU", vec![with_unit(redis.cpu, "s"), each]);
    }
    table
}

/// What Redis had to do for the streams that came back.
pub fn redis_resuming(report: &Report) -> Table {
    let mut table = Table::new("Redis while streams came back", &[]);
    let cuts = report.resuming.iter().enumerate();
    let cuts = cuts.filter(|(_, cut)| !cut.redis.is_empty());
    for (index, cut) in cuts.clone() {
        let number = numbered(report, index);
        table.columns.push(format!("calls{number}"));
        table.columns.push("per stream back".to_owned());
        for (name, _) in by_calls(&cut.redis) {
            if !table.rows.iter().any(|row| row.label == name) {
                table.push(name, Vec::new());
            }
        }
    }
    for row in &mut table.rows {
        for (_, cut) in cuts.clone() {
            let number = cut.redis.get(&row.label).copied().unwrap_or(0);
            row.cells.extend(calls(number, cut.returned as f64));
        }
    }
    table
}

fn commands(table: &mut Table, commands: &BTreeMap<String, u64>, events: f64) {
    for (name, number) in by_calls(commands) {
        table.push(name, calls(number, events));
    }
}

fn by_calls(commands: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    let mut sorted: Vec<(&str, u64)> = commands.iter().map(|(n, &c)| (n.as_str(), c)).collect();
    sorted.sort_by_key(|&(_, number)| std::cmp::Reverse(number));
    sorted
}

fn calls(number: u64, events: f64) -> Vec<String> {
    vec![count(number), with_unit(per(number as f64, events), "")]
}
