//! A report as one page: everything is inside, nothing is fetched, and no script runs, so that it
//! can be mailed, attached and printed.

mod run;
mod versus;

use std::fmt::Write as _;

use super::facts::Table;
use super::model::{Comparison, Machine, Report};
use super::text::describe;
use super::units::date;

const STYLE: &str = include_str!("page.css");

/// The page of a run.
#[must_use]
pub fn report(report: &Report) -> String {
    let title = format!("{}: {}", report.system, report.scenario);
    let mut body = run::head(report);
    body.push_str(&run::plots(report));
    body.push_str(&run::details(report));
    body.push_str(&remarks(&report.remarks));
    body.push_str(&origin(&report.command, &report.machine));
    page(&title, &report.version, report.began, &body)
}

/// The page of a comparison.
#[must_use]
pub fn comparison(comparison: &Comparison) -> String {
    let body = versus::body(comparison);
    let title = match comparison.systems.as_slice() {
        [] => "Comparison".to_owned(),
        systems => {
            let names: Vec<&str> = systems.iter().map(|(name, _)| name.as_str()).collect();
            format!("Comparison of {}", names.join(", "))
        }
    };
    page(&title, &comparison.version, comparison.began, &body)
}

fn page(title: &str, version: &str, began: u64, body: &str) -> String {
    let (title, version, date) = (escape(title), escape(version), date(began));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title} – sse-loadtest</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><p class=\"over\">sse-loadtest {version} · {date}</p>\n<h1>{title}</h1></header>\n\
         <main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// Text as HTML, in elements and in quoted attributes. Control characters have no meaning in a page
/// and come out as the replacement character.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A figure in large type, with its name and a remark.
fn tile(name: &str, value: &str, note: &str) -> String {
    let (name, value, note) = (escape(name), escape(value), escape(note));
    format!(
        "<div class=\"tile\"><p class=\"name\">{name}</p><p class=\"value\">{value}</p>\
         <p class=\"note\">{note}</p></div>\n"
    )
}

/// The verdict, told by a mark, by words and by colour.
fn verdict(good: bool, text: &str) -> String {
    let (class, mark) = if good {
        ("good", "✓")
    } else {
        ("bad", "✗")
    };
    let text = escape(text);
    format!("<p class=\"verdict {class}\"><span aria-hidden=\"true\">{mark}</span> {text}</p>\n")
}

/// A table under a heading of a level: a grid, or names and values where it has no columns.
fn table(table: &Table, level: u8) -> String {
    let title = escape(&table.title);
    let mut out = String::new();
    if table.columns.is_empty() {
        let _ = write!(
            out,
            "<section class=\"list\"><h{level}>{title}</h{level}><table>"
        );
    } else {
        let _ = write!(
            out,
            "<section class=\"wide\"><h{level}>{title}</h{level}>\
             <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\">\
             <table class=\"grid\"><thead><tr><td></td>"
        );
        for column in &table.columns {
            let _ = write!(out, "<th scope=\"col\">{}</th>", escape(column));
        }
        out.push_str("</tr></thead>");
    }
    out.push_str("<tbody>");
    for row in &table.rows {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(&row.label));
        for cell in &row.cells {
            let _ = write!(out, "<td>{}</td>", escape(cell));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table>");
    out.push_str(if table.columns.is_empty() {
        "</section>\n"
    } else {
        "</div></section>\n"
    });
    out
}

fn remarks(remarks: &[String]) -> String {
    if remarks.is_empty() {
        return String::new();
    }
    let items: Vec<String> = remarks
        .iter()
        .map(|r| format!("<li>{}</li>", escape(r)))
        .collect();
    format!(
        "<section><h2>Remarks</h2><ul>{}</ul></section>\n",
        items.concat()
    )
}

/// How to get these figures again: the command line and the machine.
fn origin(command: &str, machine: &Machine) -> String {
    let (command, machine) = (escape(command), escape(&describe(machine)));
    format!(
        "<footer><h2>Command and machine</h2><pre><code>{command}</code></pre>\
         <p>{machine}</p></footer>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    /// Fails unless every element is closed in its order and every attribute quoted.
    fn assert_well_formed(html: &str) {
        let mut open: Vec<&str> = Vec::new();
        // A style sheet is no markup, and may contain `>`.
        let html = html.replace(STYLE, "");
        let mut rest = html.as_str();
        while let Some(start) = rest.find('<') {
            let at = html.len() - rest.len() + start;
            let tag = rest[start + 1..].split('>').next().unwrap();
            rest = &rest[start + 1 + tag.len() + 1..];
            if tag.starts_with('!') {
                continue;
            }
            assert!(!tag.contains('<'), "a bare < before {tag}");
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes in {tag}");
            let name = tag.trim_start_matches('/');
            let name = name.split([' ', '/']).next().unwrap();
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{tag}");
            if tag.starts_with('/') {
                assert_eq!(
                    open.pop(),
                    Some(name),
                    "near {}",
                    &html[at.saturating_sub(80)..at]
                );
            } else if !tag.ends_with('/') && !["meta", "br"].contains(&name) {
                open.push(name);
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }

    fn assert_sound(html: &str) {
        assert_well_formed(html);
        for part in [
            "NaN", "\"inf", " inf", "http://", "https://", "<script", "<link", "url(",
        ] {
            assert!(!html.contains(part), "{part} is in the page");
        }
        assert!(html.contains("<html lang=\"en\">") && html.contains("<title>"));
    }

    #[test]
    fn a_run_is_a_sound_page_with_its_figures() {
        let html = report(&fixture::run());
        fixture::keep("report-run.html", &html);
        assert_sound(&html);
        for part in [
            "3 lost, 1 repeated",
            "1.45 µs",
            "4.51 KiB",
            "p99.99",
            "saturated",
            "EVALSHA",
        ] {
            assert!(html.contains(part), "{part} is missing");
        }
        assert!(html.contains("&lt;b&gt;room&lt;/b&gt;") && !html.contains("<b>"));
        assert!(html.contains("&quot;13&quot; &amp; 14"));
        assert_eq!(html.matches("<figure>").count(), 8);
    }

    #[test]
    fn a_soak_of_a_day_stays_a_small_page() {
        let mut run = fixture::run();
        let course = run.samples.clone();
        run.scenario = "soak".to_owned();
        run.samples = (0..86_400_u32)
            .map(|second| super::super::model::Sample {
                at: f64::from(second),
                ..course[second as usize * course.len() / 86_400].clone()
            })
            .collect();
        let html = report(&run);
        fixture::keep("report-soak.html", &html);
        assert_sound(&html);
        assert!(html.len() < 300_000, "{} bytes", html.len());
    }

    #[test]
    fn runs_with_few_samples_or_none_are_sound_pages() {
        assert_sound(&report(&Report::default()));
        let mut run = fixture::run();
        for left in [1, 0] {
            run.samples.truncate(left);
            assert_sound(&report(&run));
        }
        let blank = || super::super::model::Sample::default();
        run.samples = vec![blank(), blank()];
        assert_sound(&report(&run));
    }

    #[test]
    fn a_comparison_is_a_sound_page_with_its_verdicts() {
        let html = comparison(&fixture::comparison());
        fixture::keep("report-comparison.html", &html);
        assert_sound(&html);
        for part in [
            "✓ kept, aim met",
            "✗ not kept",
            "≤ 1.5",
            "2 of 3 bounds",
            "4 of 4 runs",
            "<details>",
        ] {
            assert!(html.contains(part), "{part} is missing");
        }
        assert!(html.contains("&lt;module&gt;"));
    }

    #[test]
    fn comparisons_without_figures_are_sound_pages() {
        assert_sound(&comparison(&Comparison::default()));
        let mut odd = fixture::comparison();
        for figure in &mut odd.figures {
            figure.values[0].rounds = Vec::new();
            figure.values[1].rounds = vec![0.0];
        }
        odd.figures[0]
            .values
            .iter_mut()
            .for_each(|v| v.rounds = vec![0.0, 0.0]);
        odd.ratios[0].value = f64::NAN;
        odd.ratios[0].rounds = vec![f64::NAN];
        odd.systems.clear();
        assert_sound(&comparison(&odd));
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(
            escape("<a href='x' t=\"&\">\x1b\n"),
            "&lt;a href=&#39;x&#39; t=&quot;&amp;&quot;&gt;\u{fffd} "
        );
    }
}
