//! The tables of a run, which the terminal and the page show alike.

use super::costs;
use super::model::{Checking, ProcessCost, Quantiles, Report, Resuming};
use super::units::{count, per, percent, with_unit};

/// A table of text.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub title: String,
    /// The heads of the columns; none for a list of names and values.
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
}

/// A row of a table: what it is, and a cell for each column.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub label: String,
    pub cells: Vec<String>,
    /// The column that is best, where that is to be marked.
    pub best: Option<usize>,
}

impl Table {
    pub fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    pub fn push(&mut self, label: &str, cells: Vec<String>) {
        self.rows.push(Row {
            label: label.to_owned(),
            cells,
            best: None,
        });
    }

    fn fact(&mut self, label: &str, value: String) {
        self.push(label, vec![value]);
    }
}

/// The verdict on what clients saw.
pub struct Verdict {
    /// Whether there is something to be content with.
    pub good: bool,
    pub text: String,
}

/// Whether all went well, in a few words that name every kind of fault.
pub fn verdict(report: &Report) -> Verdict {
    let checking = &report.checking;
    let published = &report.publishing;
    // Without clients there is nothing to check but that events are taken.
    let only_published = report.connecting.wanted == 0 && published.accepted > 0;
    let good = checking.is_clean()
        && if only_published {
            published.accepted == published.offered
        } else {
            report.delivering.expected > 0
        };
    let text = if good && only_published {
        "Published: every event was accepted".to_owned()
    } else if good {
        "Clean: every delivery came once, in order, as published".to_owned()
    } else if published.is_in_vain() {
        format!(
            "Nothing published: none of {} events was accepted",
            count(published.offered)
        )
    } else if checking.is_clean() && only_published {
        format!(
            "Published in part: {} of {} events were accepted",
            count(published.accepted),
            count(published.offered)
        )
    } else if checking.is_clean() {
        "Nothing checked: no delivery was expected".to_owned()
    } else {
        let faults: Vec<String> = faults(checking)
            .into_iter()
            .filter(|&(_, number)| number > 0)
            .map(|(name, number)| format!("{} {name}", count(number)))
            .collect();
        format!("Faults: {}", faults.join(", "))
    };
    Verdict { good, text }
}

fn faults(checking: &Checking) -> [(&'static str, u64); 6] {
    [
        ("lost", checking.lost),
        ("lost but told", checking.told),
        ("repeated", checking.repeated),
        ("reordered", checking.reordered),
        ("garbled", checking.garbled),
        ("ended", checking.ended),
    ]
}

/// How many faults there were of every kind.
pub fn fault_count(checking: &Checking) -> u64 {
    faults(checking).iter().map(|&(_, number)| number).sum()
}

/// CPU of all the server's processes for each delivery, in microseconds.
pub fn cpu_per_delivery(report: &Report) -> Option<f64> {
    let value = per(
        sum(report, |process| process.cpu_user + process.cpu_system) * 1e6,
        report.delivering.received as f64,
    );
    (!report.processes.is_empty() && value.is_finite()).then_some(value)
}

/// Resident memory that each stream added to the server's processes, in bytes.
pub fn memory_per_stream(report: &Report) -> Option<f64> {
    let value = per(sum(report, growth), report.connecting.opened as f64);
    (!report.processes.is_empty() && value.is_finite()).then_some(value)
}

/// A figure of all processes together.
pub fn sum(report: &Report, of: impl Fn(&ProcessCost) -> f64) -> f64 {
    report.processes.iter().map(of).sum()
}

/// Resident memory that a process took on with its clients.
pub fn growth(process: &ProcessCost) -> f64 {
    process.rss_connected as f64 - process.rss_before as f64
}

/// Every table of a run, in reading order; what has no data is left out.
pub fn tables(report: &Report) -> Vec<Table> {
    let mut tables = vec![
        load(report),
        connecting(report),
        publishing(report),
        delivering(report),
        checking(&report.checking),
        times(report),
        resuming(report),
        costs::processes(report),
        kernel(report),
        costs::redis(report),
        costs::redis_resuming(report),
        tool(report),
    ];
    tables.retain(|table| !table.rows.is_empty());
    tables
}

fn load(report: &Report) -> Table {
    let mut table = Table::new("Load", &[]);
    for (what, much) in &report.load {
        table.fact(what, much.clone());
    }
    if report.duration > 0.0 {
        table.fact("published for", with_unit(report.duration, "s"));
    }
    table
}

fn connecting(report: &Report) -> Table {
    let connecting = &report.connecting;
    let mut table = Table::new("Connecting", &[]);
    if connecting.wanted > 0 {
        let (opened, wanted) = (count(connecting.opened), count(connecting.wanted));
        table.fact("streams open", format!("{opened} of {wanted}"));
        table.fact("rate", with_unit(connecting.per_second, "1/s"));
        table.fact("failed attempts", count(connecting.failed));
    }
    table
}

fn publishing(report: &Report) -> Table {
    let publishing = &report.publishing;
    let mut table = Table::new("Publishing", &[]);
    if publishing.offered > 0 {
        let (accepted, offered) = (count(publishing.accepted), count(publishing.offered));
        table.fact("rate asked for", with_unit(publishing.rate, "1/s"));
        table.fact("events accepted", format!("{accepted} of {offered}"));
        table.fact("refused", count(publishing.failed));
        table.fact("never sent", count(publishing.unsent));
    }
    table
}

fn delivering(report: &Report) -> Table {
    let delivering = &report.delivering;
    let mut table = Table::new("Delivering", &[]);
    if delivering.expected > 0 || delivering.received > 0 {
        let (received, expected) = (count(delivering.received), count(delivering.expected));
        let share = percent(per(delivering.received as f64, delivering.expected as f64));
        table.fact("deliveries", format!("{received} of {expected} ({share})"));
        table.fact("rate", with_unit(delivering.per_second, "1/s"));
        table.fact("bodies", with_unit(delivering.bytes_per_second, "B/s"));
    }
    table
}

fn checking(checking: &Checking) -> Table {
    let mut table = Table::new("Checking", &[]);
    for (name, number) in faults(checking) {
        table.fact(name, count(number));
    }
    table.fact("stream.reset", count(checking.resets));
    table.fact("streams closed on us", count(checking.closed));
    table
}

fn times(report: &Report) -> Table {
    let columns = [
        "p50", "p90", "p99", "p99.9", "p99.99", "max", "mean", "samples",
    ];
    let mut table = Table::new("Times", &columns);
    let mut row = |label: &str, times: &Quantiles| {
        if times.count > 0 {
            let mut cells: Vec<String> = points(times)
                .iter()
                .map(|&(_, micros)| with_unit(micros as f64, "µs"))
                .collect();
            cells.push(with_unit(times.mean, "µs"));
            cells.push(with_unit(times.count as f64, ""));
            table.push(label, cells);
        }
    };
    row("delivery", &report.delivering.latency);
    row("connect", &report.connecting.time);
    row("sent late by", &report.publishing.lateness);
    row("publish confirmed", &report.publishing.confirm);
    for (index, resuming) in report.resuming.iter().enumerate() {
        let cut = numbered(report, index);
        row(&format!("reconnect{cut}"), &resuming.connect);
        row(&format!("resumed{cut}"), &resuming.time);
    }
    table
}

/// The quantiles by name.
pub fn points(times: &Quantiles) -> [(&'static str, u64); 6] {
    [
        ("p50", times.p50),
        ("p90", times.p90),
        ("p99", times.p99),
        ("p99.9", times.p999),
        ("p99.99", times.p9999),
        ("max", times.max),
    ]
}

/// What tells a cut from the others, where there are any.
pub fn numbered(report: &Report, index: usize) -> String {
    if report.resuming.len() > 1 {
        format!(" {}", index + 1)
    } else {
        String::new()
    }
}

/// A list for one cut, a column for each of several.
fn resuming(report: &Report) -> Table {
    let mut table = Table::new("Resuming", &[]);
    if report.resuming.len() > 1 {
        let columns =
            (0..report.resuming.len()).map(|index| format!("cut{}", numbered(report, index)));
        table.columns = columns.collect();
    }
    let mut row = |label: &str, of: &dyn Fn(&Resuming) -> String| {
        if !report.resuming.is_empty() {
            table.push(label, report.resuming.iter().map(of).collect());
        }
    };
    row("cause", &|r| r.cause.clone());
    row("streams back", &|r| {
        format!("{} of {}", count(r.returned), count(r.cut))
    });
    row("came back over", &|r| with_unit(r.spread, "s"));
    row("last stream open after", &|r| {
        with_unit(r.last_connect, "s")
    });
    row("then caught up in", &|r| with_unit(r.caught_up, "s"));
    row("rooms", &|r| count(r.rooms));
    table
}

fn kernel(report: &Report) -> Table {
    let mut table = Table::new("Kernel memory (both ends)", &[]);
    if let Some(kernel) = &report.kernel {
        let opened = report.connecting.opened as f64;
        let slab = kernel.slab_connected as f64 - kernel.slab_before as f64;
        let sockets = kernel.tcp_connected as f64;
        table.fact("slab per stream", with_unit(per(slab, opened), "B"));
        table.fact("slab in all", with_unit(slab, "B"));
        table.fact(
            "socket buffers per stream",
            with_unit(per(sockets, opened), "B"),
        );
        table.fact("socket buffers in all", with_unit(sockets, "B"));
    }
    table
}

fn tool(report: &Report) -> Table {
    let tool = &report.tool;
    let mut table = Table::new("Load tool", &[]);
    if tool.workers > 0 {
        table.fact("workers", count(tool.workers));
        table.fact("busiest", format!("{} of a core", percent(tool.busiest)));
        table.fact("CPU", with_unit(tool.cpu, "s"));
        table.fact(
            "deliveries per read",
            with_unit(tool.deliveries_per_read, ""),
        );
    }
    table
}
