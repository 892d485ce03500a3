//! The tables of a comparison, which the terminal and the page show alike.

use super::facts::{Row, Table};
use super::model::{Better, Comparison, Figure, Ratio};
use super::units::{NONE, bounds, short, significant, spread};

/// The system that others are set against.
pub const FIRST: &str = "gateway";

/// The systems in the order of the comparison, and after them those that only figures name.
pub fn systems(comparison: &Comparison) -> Vec<&str> {
    let mut names: Vec<&str> = comparison.systems.iter().map(|(n, _)| n.as_str()).collect();
    for values in comparison.figures.iter().flat_map(|figure| &figure.values) {
        if !names.contains(&values.system.as_str()) {
            names.push(&values.system);
        }
    }
    names
}

/// The loads, as (word, what it is), with those that only figures name.
pub fn loads(comparison: &Comparison) -> Vec<(&str, &str)> {
    let known = comparison.loads.iter();
    let mut loads: Vec<(&str, &str)> = known.map(|(n, w)| (n.as_str(), w.as_str())).collect();
    for figure in &comparison.figures {
        if !loads.iter().any(|(name, _)| *name == figure.load) {
            loads.push((&figure.load, ""));
        }
    }
    loads
}

/// The system with the best median; none where there is nothing to beat.
pub fn best(figure: &Figure) -> Option<&str> {
    let mut medians: Vec<(&str, f64)> = figure
        .values
        .iter()
        .map(|values| (values.system.as_str(), values.median()))
        .filter(|(_, median)| median.is_finite())
        .collect();
    medians.sort_by(|(_, a), (_, b)| match figure.better {
        Better::Lower => a.total_cmp(b),
        Better::Higher => b.total_cmp(a),
    });
    match medians.as_slice() {
        [(_, first), (_, second), ..] if first == second => None,
        [(name, _), _, ..] => Some(name),
        _ => None,
    }
}

/// The figures of one load: a row for each, a column for each system that has any.
pub fn figures(comparison: &Comparison, load: &str) -> Table {
    let of_load = || comparison.figures.iter().filter(|f| f.load == load);
    let names: Vec<&str> = systems(comparison)
        .into_iter()
        .filter(|name| of_load().any(|f| f.values.iter().any(|v| v.system == *name)))
        .collect();
    let mut table = Table::new(load, &names);
    for figure in of_load() {
        let cell = |name: &&str| {
            let values = figure.values.iter().find(|v| v.system == *name);
            values.map_or_else(
                || NONE.to_owned(),
                |v| spread(v.median(), &v.rounds, &figure.unit),
            )
        };
        table.rows.push(Row {
            label: figure.name.clone(),
            cells: names.iter().map(cell).collect(),
            best: best(figure).and_then(|b| names.iter().position(|name| *name == b)),
        });
    }
    table
}

/// The cells of a ratio before its verdict: value, spread, must, aim.
pub fn ratio(ratio: &Ratio) -> [String; 4] {
    let sign = match ratio.better {
        Better::Lower => "≤",
        Better::Higher => "≥",
    };
    let bound = |bound: Option<f64>| {
        bound.map_or_else(|| NONE.to_owned(), |b| format!("{sign} {}", short(b)))
    };
    let rounds = bounds(&ratio.rounds).map_or_else(
        || NONE.to_owned(),
        |(low, high)| format!("{}–{}", significant(low), significant(high)),
    );
    [
        times(ratio.value),
        rounds,
        bound(ratio.must),
        bound(ratio.aim),
    ]
}

/// A ratio in words: `1.23×`.
pub fn times(ratio: f64) -> String {
    if ratio.is_finite() {
        format!("{}×", significant(ratio))
    } else {
        NONE.to_owned()
    }
}

/// How a ratio stands to its bounds: whether it is good, where there is a bound, and in words.
pub fn judge(ratio: &Ratio) -> (Option<bool>, &'static str) {
    let aimed = ratio.aim.map(|aim| match ratio.better {
        Better::Lower => ratio.value <= aim,
        Better::Higher => ratio.value >= aim,
    });
    match (ratio.must, ratio.is_kept(), aimed) {
        (Some(_), false, _) => (Some(false), "✗ not kept"),
        (Some(_), true, Some(true)) => (Some(true), "✓ kept, aim met"),
        (Some(_), true, Some(false)) => (Some(true), "✓ kept, short of aim"),
        (Some(_), true, None) => (Some(true), "✓ kept"),
        (None, _, Some(true)) => (Some(true), "✓ aim met"),
        (None, _, Some(false)) => (None, "short of aim"),
        (None, _, None) => (None, "no bound"),
    }
}

/// The bounds and the runs in a sentence, and whether all is well.
pub fn verdict(comparison: &Comparison) -> (bool, String) {
    let bound = || comparison.ratios.iter().filter(|r| r.must.is_some());
    let (kept, bounds) = (bound().filter(|r| r.is_kept()).count(), bound().count());
    let clean = |run: &&super::model::Report| run.checking.is_clean();
    let (clean, runs) = (
        comparison.runs.iter().filter(clean).count(),
        comparison.runs.len(),
    );
    let mut parts = Vec::new();
    if bounds > 0 {
        parts.push(format!("{kept} of {bounds} bounds kept"));
    }
    if runs > 0 {
        parts.push(format!("{clean} of {runs} runs clean"));
    }
    (kept == bounds && clean == runs, parts.join(", "))
}
