//! A report as text for a terminal, at most about 100 columns wide.

use super::facts::{self, Table};
use super::model::{Comparison, Report};
use super::text::Text;
use super::units::{count, date};
use super::versus;

/// The summary of a run. Colours only where the caller says so: it knows the terminal and `NO_COLOR`.
#[must_use]
pub fn report(report: &Report, color: bool) -> String {
    let mut text = Text::new(color);
    let verdict = facts::verdict(report);
    text.title(&[&report.scenario, &report.system, &date(report.began)]);
    text.verdict(verdict.good, &verdict.text);
    for fault in &report.checking.first {
        let place = format!("client {}, {}", fault.client, fault.room);
        text.hanging("    ", &format!("{place}: {}", fault.what));
    }
    let named = report.checking.first.len() as u64;
    if let Some(more) = facts::fault_count(&report.checking).checked_sub(named + 1) {
        text.dim(&format!("    … and {} more", count(more + 1)));
    }
    if report.tool.saturated {
        let loud = "THE LOAD TOOL WAS SATURATED: latencies are its own as well as the server's.";
        text.loud(loud);
    }
    for table in facts::tables(report) {
        text.table(&table);
    }
    text.ending(&report.remarks, &report.machine, &report.version);
    text.out
}

/// The summary of a comparison.
#[must_use]
pub fn comparison(comparison: &Comparison, color: bool) -> String {
    let mut text = Text::new(color);
    let rounds = format!("{} rounds", count(comparison.rounds));
    text.title(&["comparison", &rounds, &date(comparison.began)]);
    let (good, verdict) = versus::verdict(comparison);
    text.verdict(good, &verdict);
    let mut systems = Table::new("Systems", &[]);
    for (name, what) in &comparison.systems {
        systems.push(name, vec![what.clone()]);
    }
    text.list(&systems);
    for (load, what) in versus::loads(comparison) {
        let mut table = versus::figures(comparison, load);
        if !what.is_empty() {
            table.title = format!("{load}: {what}");
        }
        text.columns(&table);
    }
    text.ratios(comparison);
    let dirty = comparison.runs.iter().filter(|r| !r.checking.is_clean());
    for run in dirty {
        text.hanging(
            "    ",
            &format!("{}: {}", run.system, facts::verdict(run).text),
        );
    }
    if comparison.figures.iter().any(|f| versus::best(f).is_some()) {
        text.dim("* best of its row; medians, and in brackets the least and the greatest round");
    }
    text.ending(
        &comparison.remarks,
        &comparison.machine,
        &comparison.version,
    );
    text.out
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::super::text::{WIDTH, width};
    use super::*;

    #[test]
    fn a_run_shows_its_figures_in_a_hundred_columns() {
        let mut run = fixture::run();
        run.load
            .push(("origin".to_owned(), "of many words ".repeat(20)));
        let text = report(&run, false);
        for part in [
            "✗ Faults: 3 lost, 1 repeated",
            "10,000 of 10,000",
            "client 17, <b>room</b>: event 4711 never came",
            "… and 2 more",
            "p99.99",
            "CPU per delivery",
            "1.45 µs",
            "memory per stream",
            "SATURATED",
            "per event",
            "EVALSHA",
            "Resuming",
            "all streams cut",
            "Remarks",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| width(line) <= WIDTH), "{text}");
        assert!(!text.contains('\x1b'));
        let colored = report(&fixture::run(), true);
        fixture::keep("report-run.txt", &colored);
        assert!(colored.contains("\x1b[1;31m✗"));
    }

    #[test]
    fn an_empty_run_is_short_and_divides_by_nothing() {
        let text = report(&Report::default(), false);
        assert!(text.contains("Nothing checked"), "{text}");
        for part in ["NaN", "inf", "Connecting", "Redis", "Times", "Remarks"] {
            assert!(!text.contains(part), "{part} is in\n{text}");
        }
    }

    #[test]
    fn names_from_elsewhere_cannot_steer_the_terminal() {
        let mut run = fixture::run();
        run.checking.first[0].room = "\x1b[2J".to_owned();
        run.remarks.push("a\x07b".to_owned());
        let text = report(&run, false);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    }

    #[test]
    fn a_comparison_marks_the_best_and_what_is_not_kept() {
        let text = comparison(&fixture::comparison(), false);
        fixture::keep("report-comparison.txt", &text);
        for part in [
            "fanout",
            "gateway",
            "floor",
            "✓ kept, aim met",
            "✗ not kept",
            "≤ 1.5",
            "*",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| width(line) <= WIDTH), "{text}");
        let text = comparison(&Comparison::default(), true);
        assert!(!text.contains("NaN") && !text.contains("✗"), "{text}");
    }
}
