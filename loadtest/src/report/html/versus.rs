//! The parts of a comparison's page.

use std::fmt::Write as _;

use super::{escape, origin, remarks, run, tile, verdict};
use crate::report::facts;
use crate::report::model::{Better, Comparison, Figure, Report};
use crate::report::plot::{Axis, Bar, Scale, bar, ruler};
use crate::report::units::{bounds, count, per, spread, with_unit};
use crate::report::versus::{self as comparing, FIRST};

/// Everything below the title.
pub fn body(comparison: &Comparison) -> String {
    let mut out = head(comparison);
    out.push_str(&ratios(comparison));
    out.push_str(&words("Systems", &comparison.systems));
    for (load, what) in comparing::loads(comparison) {
        out.push_str(&figures(comparison, load, what));
    }
    out.push_str(&remarks(&comparison.remarks));
    out.push_str(&runs(&comparison.runs));
    out.push_str(&origin(&comparison.command, &comparison.machine));
    out
}

fn head(comparison: &Comparison) -> String {
    let (good, text) = comparing::verdict(comparison);
    let mut out = String::new();
    if !text.is_empty() {
        out.push_str(&verdict(good, &text));
    }
    out.push_str("<div class=\"tiles\">\n");
    for ratio in comparison
        .ratios
        .iter()
        .filter(|r| r.must.is_some() || r.aim.is_some())
    {
        let (_, words) = comparing::judge(ratio);
        out.push_str(&tile(&ratio.name, &comparing::times(ratio.value), words));
    }
    out.push_str(&tile(
        "rounds",
        &count(comparison.rounds),
        "medians, with least and greatest",
    ));
    out.push_str("</div>\n");
    out
}

fn ratios(comparison: &Comparison) -> String {
    if comparison.ratios.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<section><h2>Ratios</h2>\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Ratios\">\
         <table class=\"grid ratios\"><thead><tr><td></td>",
    );
    for column in ["verdict", "ratio", "rounds", "must", "aim"] {
        let _ = write!(out, "<th scope=\"col\">{column}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for ratio in &comparison.ratios {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(&ratio.name));
        let (good, words) = comparing::judge(ratio);
        let class = match good {
            Some(true) => "good",
            Some(false) => "bad",
            None => "open",
        };
        let _ = write!(out, "<td><span class=\"{class}\">{words}</span></td>");
        for cell in comparing::ratio(ratio) {
            let _ = write!(out, "<td>{}</td>", escape(&cell));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div></section>\n");
    out
}

fn words(title: &str, words: &[(String, String)]) -> String {
    if words.is_empty() {
        return String::new();
    }
    let mut out = format!("<section><h2>{title}</h2><dl>");
    for (name, what) in words {
        let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(what));
    }
    out.push_str("</dl></section>\n");
    out
}

fn figures(comparison: &Comparison, load: &str, what: &str) -> String {
    let (name, what) = (escape(load), escape(what));
    let mut out = format!("<section><h2>Load: {name}</h2><p class=\"what\">{what}</p>");
    out.push_str("<div class=\"figures\">\n");
    let systems = comparing::systems(comparison);
    for figure in comparison
        .figures
        .iter()
        .filter(|figure| figure.load == load)
    {
        out.push_str(&bars(figure, &systems));
    }
    out.push_str("</div></section>\n");
    out
}

/// One figure: a bar for each system, in the same order and colour everywhere on the page.
fn bars(figure: &Figure, systems: &[&str]) -> String {
    let rounds = figure.values.iter().flat_map(|values| &values.rounds);
    let all: Vec<f64> = rounds.copied().collect();
    let high = bounds(&all).map_or(0.0, |(_, high)| high);
    let axis = Axis::new(0.0, high, &figure.unit, Scale::Linear);
    let (name, unit) = (escape(&figure.name), axis.title(""));
    let better = match figure.better {
        Better::Lower => "less is better",
        Better::Higher => "more is better",
    };
    let mut out = format!(
        "<table class=\"bars\"><caption>{name} <span>{better}</span></caption><thead><tr>\
         <th scope=\"col\" class=\"hidden\">system</th><th scope=\"col\" class=\"hidden\">bar</th>\
         <th scope=\"col\" class=\"hidden\">median (least–greatest)</th>\
         <th scope=\"col\" class=\"hidden\">to {FIRST}</th></tr></thead><tbody>"
    );
    let first = figure.values.iter().find(|values| values.system == FIRST);
    let best = comparing::best(figure);
    for (series, system) in systems.iter().enumerate() {
        let Some(values) = figure.values.iter().find(|values| values.system == *system) else {
            continue;
        };
        let median = values.median();
        let value = spread(median, &values.rounds, &figure.unit);
        let ratio = first.map_or(f64::NAN, |first| per(median, first.median()));
        let label = format!("{system}: {value}");
        let bar = bar(
            &Bar {
                series,
                label: &label,
                median,
                bounds: bounds(&values.rounds),
            },
            &axis,
        );
        let mark = if best == Some(*system) {
            " <span class=\"best\">best</span>"
        } else {
            ""
        };
        // The spread is its own element, so that a narrow page can put it on a line of its own.
        let value = escape(&value).replacen(" (", " <small>(", 1);
        let close = if value.contains("<small>") {
            "</small>"
        } else {
            ""
        };
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{}{mark}</th><td class=\"track\">{bar}</td>\
             <td>{value}{close}</td><td>{}</td></tr>",
            escape(system),
            comparing::times(ratio),
        );
    }
    let unit = escape(&unit);
    let _ = writeln!(
        out,
        "</tbody><tfoot><tr><td class=\"unit\">{unit}</td><td>{}</td><td></td>\
         <td class=\"unit\">to {FIRST}</td></tr></tfoot></table>",
        ruler(&axis)
    );
    out
}

fn runs(runs: &[Report]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let mut out = String::from("<section><h2>Every run</h2>\n");
    for report in runs {
        let (found, system) = (facts::verdict(report), escape(&report.system));
        let mark = if found.good { "✓" } else { "✗" };
        let class = if found.good { "good" } else { "bad" };
        let load: Vec<String> = report
            .load
            .iter()
            .map(|(what, much)| format!("{what} {much}"))
            .collect();
        let load = escape(&load.join(" · "));
        let p99 = with_unit(report.delivering.latency.p99 as f64, "µs");
        let _ = write!(
            out,
            "<details><summary><span class=\"{class}\">{mark}</span> <strong>{system}</strong> \
             <span class=\"load\">{load} · p99 {p99}</span></summary>\n{}",
            verdict(found.good, &found.text),
        );
        let _ = write!(
            out,
            "<div class=\"plots\">{}{}</div>",
            run::latency(report),
            run::percentiles(report)
        );
        out.push_str(&run::tables(report));
        out.push_str(&remarks(&report.remarks).replace("h2>", "h3>"));
        out.push_str("</details>\n");
    }
    out.push_str("</section>\n");
    out
}
