//! What came of it, as a table.

use std::time::Duration;

use super::deployment::Topology;
use super::fault::Fault;

/// One round.
#[derive(Debug, Clone)]
pub struct Line {
    pub fault: Fault,
    /// Acknowledged to publishers.
    pub events: usize,
    pub clients: usize,
    /// Events that a client lacks although Redis has them.
    pub lost: usize,
    pub repeated: usize,
    /// `stream.reset` events where something is gone...
    pub resets: usize,
    /// ...and where nothing is.
    pub false_resets: usize,
    /// Acknowledged, and gone from Redis.
    pub gone: usize,
    /// The longest silence of a client in a room that is published in all the time.
    pub longest_gap: Duration,
    /// The slowest delivery of an event that was acknowledged after Redis answered again.
    pub slowest_after: Duration,
    /// Whose and which that was.
    pub slowest: String,
    /// Streams that came and went in a second, from the fault to the end of the check.
    pub churn: f64,
    pub problems: Vec<String>,
}

pub fn print(topology: Topology, lines: &[Line], churned: u64) {
    println!("\n{topology:?}");
    println!(
        "{:<20} {:>7} {:>7} {:>5} {:>8} {:>6} {:>6} {:>6} {:>9} {:>11} {:>8}",
        "fault",
        "events",
        "clients",
        "lost",
        "repeated",
        "resets",
        "false",
        "gone",
        "gap ms",
        "after ms",
        "churn/s"
    );
    let least = |lines: &[Line]| lines.iter().map(|line| line.churn).fold(f64::MAX, f64::min);
    let mut sorted = lines.to_vec();
    sorted.sort_by_key(|line| line.fault as usize);
    for group in sorted.chunk_by(|a, b| a.fault == b.fault) {
        let sum = |field: fn(&Line) -> usize| group.iter().map(field).sum::<usize>();
        let longest = |field: fn(&Line) -> Duration| {
            let longest = group.iter().map(field).max();
            longest.unwrap_or_default().as_millis()
        };
        println!(
            "{:<20} {:>7} {:>7} {:>5} {:>8} {:>6} {:>6} {:>6} {:>9} {:>11} {:>8.0}{}",
            format!("{:?} x{}", group[0].fault, group.len()),
            sum(|line| line.events),
            group[0].clients,
            sum(|line| line.lost),
            sum(|line| line.repeated),
            sum(|line| line.resets),
            sum(|line| line.false_resets),
            sum(|line| line.gone),
            longest(|line| line.longest_gap),
            longest(|line| line.slowest_after),
            least(group),
            if longest(|line| line.slowest_after) > 1000 {
                "  over a second"
            } else {
                ""
            }
        );
    }
    println!(
        "{} rounds, {} events, {} lost, {} repeated, {} false resets; {churned} streams came and went meanwhile, at least {:.0} a second in each round",
        lines.len(),
        lines.iter().map(|line| line.events).sum::<usize>(),
        lines.iter().map(|line| line.lost).sum::<usize>(),
        lines.iter().map(|line| line.repeated).sum::<usize>(),
        lines.iter().map(|line| line.false_resets).sum::<usize>(),
        least(lines),
    );
}
