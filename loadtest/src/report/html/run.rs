//! The parts of a run's page.

use super::{escape, table, tile, verdict};
use crate::report::facts::{self, Table};
use crate::report::model::{FaultKind, Quantiles, Report, Sample};
use crate::report::plot::{Line, Plot, Scale};
use crate::report::units::{count, with_unit};

/// The verdict and the headline figures.
pub fn head(report: &Report) -> String {
    let found = facts::verdict(report);
    let mut out = verdict(found.good, &found.text);
    if report.tool.saturated {
        out.push_str(
            "<p class=\"warning\" role=\"note\"><strong>The load tool was saturated.</strong> \
             Latencies are its own as well as the server’s.</p>\n",
        );
    }
    out.push_str("<div class=\"tiles\">\n");
    let delivering = &report.delivering;
    if delivering.received > 0 {
        let note = format!("{} in all", with_unit(delivering.received as f64, ""));
        let rate = with_unit(delivering.per_second, "1/s");
        out.push_str(&tile("deliveries", &rate, &note));
    }
    let latency = &delivering.latency;
    if latency.count > 0 {
        let note = format!("p90 {}", micros(latency.p90));
        out.push_str(&tile("latency p50", &micros(latency.p50), &note));
        let note = format!(
            "p99.9 {}, max {}",
            micros(latency.p999),
            micros(latency.max)
        );
        out.push_str(&tile("latency p99", &micros(latency.p99), &note));
    }
    if let Some(cpu) = facts::cpu_per_delivery(report) {
        out.push_str(&tile(
            "CPU per delivery",
            &with_unit(cpu, "µs"),
            "user and kernel",
        ));
    }
    if let Some(memory) = facts::memory_per_stream(report) {
        let note = format!("resident, of {} streams", count(report.connecting.opened));
        out.push_str(&tile("memory per stream", &with_unit(memory, "B"), &note));
    }
    out.push_str("</div>\n");
    out
}

fn micros(value: u64) -> String {
    with_unit(value as f64, "µs")
}

/// The first faults and every table.
pub fn details(report: &Report) -> String {
    let mut out = faults(report);
    out.push_str("<h2>Figures</h2>\n");
    out.push_str(&tables(report));
    out
}

/// Every table: first the lists, which say what was done, and then the grids.
pub fn tables(report: &Report) -> String {
    let (lists, grids): (Vec<_>, Vec<_>) = facts::tables(report)
        .into_iter()
        .partition(|table| table.columns.is_empty());
    let text = |tables: &[Table]| tables.iter().map(|t| table(t, 3)).collect::<String>();
    let (lists, grids) = (text(&lists), text(&grids));
    let mut out = format!("<div class=\"lists\">\n{lists}</div>\n");
    if !grids.is_empty() {
        out.push_str(&format!("<div class=\"grids\">\n{grids}</div>\n"));
    }
    out
}

fn faults(report: &Report) -> String {
    let first = &report.checking.first;
    if first.is_empty() {
        return String::new();
    }
    let rows: Vec<String> = first
        .iter()
        .map(|fault| {
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
                kind(fault.kind),
                count(fault.client),
                escape(&fault.room),
                escape(&fault.what),
            )
        })
        .collect();
    format!(
        "<section><h2>The first faults</h2>\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"The first faults\">\
         <table class=\"words\"><thead><tr><th scope=\"col\">fault</th><th scope=\"col\">client</th>\
         <th scope=\"col\">room</th><th scope=\"col\">what</th></tr></thead><tbody>{}</tbody></table>\
         </div></section>\n",
        rows.concat()
    )
}

fn kind(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Lost => "lost",
        FaultKind::Told => "lost but told",
        FaultKind::Repeated => "repeated",
        FaultKind::Reordered => "reordered",
        FaultKind::Garbled => "garbled",
        FaultKind::Ended => "ended",
    }
}

/// Every plot of a run.
pub fn plots(report: &Report) -> String {
    let body: String = [latency(report), percentiles(report), rest(report)].concat();
    if body.is_empty() {
        return String::new();
    }
    format!("<h2>Course</h2>\n<div class=\"plots\">\n{body}</div>\n")
}

fn over(report: &Report, of: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    report.samples.iter().map(|s| (s.at, of(s))).collect()
}

/// Latencies over time.
pub fn latency(report: &Report) -> String {
    let line = |name: &str, series: usize, of: fn(&Quantiles) -> u64| {
        // An interval without deliveries has no latency: a gap, and not a zero.
        let value = |s: &Sample| match s.latency.count {
            0 => f64::NAN,
            _ => of(&s.latency).max(1) as f64,
        };
        Line::new(name, series, over(report, value))
    };
    let plot = Plot {
        title: "Delivery latency over time",
        name: "latency",
        unit: "µs",
        scale: Scale::Log,
        lines: vec![
            line("p50", 0, |q| q.p50),
            line("p90", 4, |q| q.p90),
            line("p99", 2, |q| q.p99),
            line("p99.9", 3, |q| q.p999),
            line("max", 1, |q| q.max),
        ],
    };
    plot.over_time()
}

/// Times by percentile. Each decade of rarer events is as wide as the one before it.
pub fn percentiles(report: &Report) -> String {
    const PLACES: [f64; 6] = [0.3, 1.0, 2.0, 3.0, 4.0, 5.0];
    let ticks: Vec<(f64, &str)> = PLACES
        .into_iter()
        .zip(facts::points(&Quantiles::default()).map(|(name, _)| name))
        .collect();
    let mut lines = Vec::new();
    let mut line = |name: &str, series: usize, times: &Quantiles| {
        if times.count > 0 {
            let values = facts::points(times).map(|(_, value)| value.max(1) as f64);
            let mut line = Line::new(name, series, PLACES.into_iter().zip(values).collect());
            line.marked = true;
            lines.push(line);
        }
    };
    line("delivery", 0, &report.delivering.latency);
    line("confirm", 2, &report.publishing.confirm);
    line("sent late", 3, &report.publishing.lateness);
    // One cut tells the shape; several would hide the deliveries, and stand in the table.
    if let [resuming] = report.resuming.as_slice() {
        line("resume", 5, &resuming.time);
    }
    let plot = Plot {
        title: "Times by percentile",
        name: "time",
        unit: "µs",
        scale: Scale::Log,
        lines,
    };
    plot.over_names(&ticks, "percentile")
}

fn rest(report: &Report) -> String {
    let known = |value: u64| if value == 0 { f64::NAN } else { value as f64 };
    // One published event makes many deliveries: on one axis the events would lie on the ground.
    let deliveries = vec![Line::new("delivered", 0, over(report, |s| s.deliveries))];
    let events = vec![Line::new("published", 3, over(report, |s| s.published))];
    let open = vec![
        Line::new("descriptors", 5, over(report, |s| known(s.descriptors))),
        Line::new("open", 2, over(report, |s| s.open as f64)),
    ];
    // Without a named process nothing is known of memory and CPU, and a line at 0 would be a lie.
    // Each has its own axis, for a leak shows as a slope, and a tall neighbour would flatten it.
    let resident = vec![Line::new("resident", 0, over(report, |s| known(s.rss)))];
    let slab = vec![Line::new("slab", 3, over(report, |s| known(s.slab)))];
    let cpu = match report.processes.is_empty() {
        true => Vec::new(),
        false => vec![Line::new("server", 1, over(report, |s| s.cpu))],
    };
    [
        ("Throughput: deliveries", "deliveries", "1/s", deliveries),
        ("Throughput: events published", "events", "1/s", events),
        (
            "Open streams, and descriptors of the server",
            "number",
            "",
            open,
        ),
        ("Resident memory of the server", "memory", "B", resident),
        ("Slab memory of the kernel", "memory", "B", slab),
        ("CPU of the server", "CPU", "cores", cpu),
    ]
    .into_iter()
    .map(|(title, name, unit, lines)| {
        let scale = Scale::Linear;
        Plot {
            title,
            name,
            unit,
            scale,
            lines,
        }
        .over_time()
    })
    .collect()
}
