//! Text for a terminal: lines, lists and tables within [`WIDTH`] columns.

use std::fmt::Write as _;

use super::facts::Table;
use super::model::{Comparison, Machine};
use super::units::with_unit;
use super::versus;

/// Columns that fit most terminals and most pastes.
pub const WIDTH: usize = 100;

/// Text under construction.
pub struct Text {
    pub out: String,
    color: bool,
    /// Whether the last block was a list of facts, which needs no empty line before the next.
    listing: bool,
}

impl Text {
    pub fn new(color: bool) -> Self {
        Self {
            out: String::new(),
            color,
            listing: false,
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    pub fn title(&mut self, parts: &[&str]) {
        let parts: Vec<String> = parts.iter().map(|part| plain(part)).collect();
        let title = self.paint("1", &parts.join(" · "));
        self.line(&title);
    }

    pub fn verdict(&mut self, good: bool, text: &str) {
        if text.is_empty() {
            return;
        }
        let (mark, code) = if good {
            ("✓", "1;32")
        } else {
            ("✗", "1;31")
        };
        let line = self.paint(code, &format!("{mark} {text}"));
        self.line(&line);
    }

    pub fn dim(&mut self, text: &str) {
        let line = self.paint("2", text);
        self.line(&line);
    }

    pub fn loud(&mut self, text: &str) {
        let line = self.paint("1;30;43", &format!(" ! {text} "));
        self.line("");
        self.line(&line);
    }

    /// A paragraph whose lines all begin with `indent`.
    pub fn hanging(&mut self, indent: &str, text: &str) {
        for line in wrap(&plain(text), WIDTH - width(indent)) {
            self.line(&format!("{indent}{line}"));
        }
    }

    pub fn table(&mut self, table: &Table) {
        if table.columns.is_empty() {
            self.facts(table);
        } else {
            self.columns(table);
        }
    }

    /// A list of facts on as few lines as hold them: `name value · name value`.
    fn facts(&mut self, table: &Table) {
        const LEFT: usize = 14;
        let title: String = table.title.split(" (").take(1).collect();
        let mut lines: Vec<String> = Vec::new();
        for row in &table.rows {
            let value = row
                .cells
                .first()
                .map(|cell| plain(cell))
                .unwrap_or_default();
            let fact = format!("{}: {value}", plain(&row.label));
            match lines.last_mut() {
                Some(line) if LEFT + width(line) + 3 + width(&fact) <= WIDTH => {
                    let _ = write!(line, " · {fact}");
                }
                _ => lines.extend(wrap(&fact, WIDTH - LEFT)),
            }
        }
        if !self.listing {
            self.line("");
        }
        self.listing = true;
        let head = self.paint("1", &format!("{title:<LEFT$}"));
        // A title too long for the left column stands on a line of its own.
        let apart = width(&title) >= LEFT;
        if apart {
            self.line(&head);
        }
        for (index, line) in lines.iter().enumerate() {
            let left = if index == 0 && !apart {
                head.clone()
            } else {
                " ".repeat(LEFT)
            };
            self.line(&format!("{left}{line}"));
        }
    }

    /// A list of names, each with a sentence.
    pub fn list(&mut self, table: &Table) {
        let left = table.rows.iter().map(|row| width(&plain(&row.label)));
        let left = left.max().unwrap_or(0) + 4;
        for row in &table.rows {
            let text = row
                .cells
                .first()
                .map(|cell| plain(cell))
                .unwrap_or_default();
            let name = plain(&row.label);
            for (index, part) in wrap(&text, WIDTH - left).iter().enumerate() {
                let name = if index == 0 { name.as_str() } else { "" };
                self.line(&format!("  {}{part}", pad(name, left - 2)));
            }
        }
    }

    /// A table with heads; columns that do not fit beside the first follow below.
    pub fn columns(&mut self, table: &Table) {
        let label = |text: &str| width(&plain(text));
        let left = table
            .rows
            .iter()
            .map(|row| label(&row.label) + 2)
            .max()
            .unwrap_or(0)
            + 2;
        let marked = table.rows.iter().any(|row| row.best.is_some());
        let widths: Vec<usize> = (0..table.columns.len())
            .map(|column| {
                let cells = table.rows.iter().filter_map(|row| row.cells.get(column));
                let cells = cells
                    .chain([&table.columns[column]])
                    .map(|cell| label(cell));
                cells.max().unwrap_or(0) + 2 + usize::from(marked)
            })
            .collect();
        let title = self.paint("1", &plain(&table.title));
        self.listing = false;
        self.line("");
        self.line(&title);
        let mut from = 0;
        while from < widths.len() {
            let mut to = from + 1;
            while to < widths.len() && left + widths[from..=to].iter().sum::<usize>() <= WIDTH {
                to += 1;
            }
            self.block(table, &widths, left, from..to);
            from = to;
        }
    }

    fn block(&mut self, table: &Table, widths: &[usize], left: usize, of: std::ops::Range<usize>) {
        let marked = table.rows.iter().any(|row| row.best.is_some());
        let mut head = " ".repeat(left);
        for column in of.clone() {
            let name = plain(&table.columns[column]);
            head.push_str(&right(&name, widths[column] - usize::from(marked)));
            head.push_str(if marked { " " } else { "" });
        }
        let head = self.paint("2", head.trim_end());
        self.line(&head);
        for row in &table.rows {
            let mut line = pad(&format!("  {}", plain(&row.label)), left);
            for column in of.clone() {
                let cell = row
                    .cells
                    .get(column)
                    .map(|cell| plain(cell))
                    .unwrap_or_default();
                let best = row.best == Some(column);
                let cell = right(&cell, widths[column] - usize::from(marked));
                line.push_str(&if best { self.paint("32", &cell) } else { cell });
                if marked {
                    line.push(if best { '*' } else { ' ' });
                }
            }
            self.line(&line);
        }
    }

    pub fn ratios(&mut self, comparison: &Comparison) {
        let columns = ["ratio", "rounds", "must", "aim", ""];
        let mut table = Table::new("Ratios", &columns);
        for ratio in &comparison.ratios {
            let (_, words) = versus::judge(ratio);
            let mut cells = versus::ratio(ratio).to_vec();
            cells.push(words.to_owned());
            table.push(&ratio.name, cells);
        }
        if table.rows.is_empty() {
            return;
        }
        let from = self.out.len();
        self.columns(&table);
        if self.color {
            let block = self.out.split_off(from);
            self.out.push_str(
                &block
                    .replace("✓", "\x1b[32m✓\x1b[0m")
                    .replace("✗ not kept", "\x1b[1;31m✗ not kept\x1b[0m"),
            );
        }
    }

    pub fn ending(&mut self, remarks: &[String], machine: &Machine, version: &str) {
        if !remarks.is_empty() {
            let title = self.paint("1", "Remarks");
            self.line("");
            self.line(&title);
            for remark in remarks {
                for (index, line) in wrap(&plain(remark), WIDTH - 4).iter().enumerate() {
                    let mark = if index == 0 { "  - " } else { "    " };
                    self.line(&format!("{mark}{line}"));
                }
            }
        }
        self.line("");
        let on = describe(machine);
        let foot = plain(&format!("sse-loadtest {version} on {on}"));
        for line in wrap(&foot, WIDTH) {
            self.dim(&line);
        }
    }
}

/// The machine in a line.
pub fn describe(machine: &Machine) -> String {
    let mut parts = Vec::new();
    if !machine.cpu.is_empty() {
        parts.push(machine.cpu.clone());
    }
    parts.push(format!("{} processors", machine.cpus));
    if machine.memory > 0 {
        parts.push(with_unit(machine.memory as f64, "B"));
    }
    if !machine.kernel.is_empty() {
        parts.push(format!("Linux {}", machine.kernel));
    }
    parts.join(", ")
}

/// Text from elsewhere without the control characters that would steer the terminal.
fn plain(text: &str) -> String {
    let safe = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(safe).collect()
}

pub fn width(text: &str) -> usize {
    text.chars().count()
}

fn pad(text: &str, to: usize) -> String {
    format!("{text:<to$}")
}

fn right(text: &str, to: usize) -> String {
    format!("{text:>to$}")
}

fn wrap(text: &str, to: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if width(line) + 1 + width(word) <= to => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
