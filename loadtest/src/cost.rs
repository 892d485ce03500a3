//! What processes, the kernel and Redis use, as the system tells it.

use std::collections::BTreeMap;
use std::fs;

use redis::Value;

use crate::publisher::{Redis, WireError};

/// What a process used so far, and has now.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// The command's name.
    pub name: String,
    /// Seconds of CPU in user mode.
    pub user: f64,
    /// Seconds of CPU in the kernel.
    pub system: f64,
    /// Resident bytes.
    pub rss: u64,
    /// The most resident bytes so far.
    pub peak: u64,
    /// Open descriptors; 0 where the system does not tell.
    pub descriptors: u64,
}

impl Usage {
    /// Reads `/proc/<pid>`; `None` where there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may have any characters, parentheses too.
        let (before, after) = (stat.find('(')?, stat.rfind(')')?);
        let fields: Vec<&str> = stat[after + 1..].split_whitespace().collect();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let seconds = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? / ticks);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // proc(5): utime and stime are the fields 14 and 15; the state after the name is the third.
        let (user, system) = (seconds(11)?, seconds(12)?);
        // Ticks are ten milliseconds; the scheduler's own count gives the sum exactly.
        let scale = match scheduled(pid) {
            Some(exact) if user + system > 0.0 => exact / (user + system),
            _ => 1.0,
        };
        Some(Self {
            name: stat[before + 1..after].to_owned(),
            user: user * scale,
            system: system * scale,
            rss: kilobytes(&status, "VmRSS:"),
            peak: kilobytes(&status, "VmHWM:"),
            descriptors: descriptors(pid),
        })
    }

    /// What several processes use together.
    #[must_use]
    pub fn sum(pids: &[u32]) -> Self {
        let mut sum = Self::default();
        for usage in pids.iter().filter_map(|&pid| Self::of(pid)) {
            sum.user += usage.user;
            sum.system += usage.system;
            sum.rss += usage.rss;
            sum.peak += usage.peak;
            sum.descriptors += usage.descriptors;
        }
        sum
    }
}

/// Open descriptors; 0 where the system does not tell.
fn descriptors(pid: u32) -> u64 {
    let directory = format!("/proc/{pid}/fd");
    // Linux 6.2 has the number as the directory's size; before that, each one is counted.
    match fs::metadata(&directory).map_or(0, |directory| directory.len()) {
        0 => fs::read_dir(directory).map_or(0, |entries| entries.count() as u64),
        count => count,
    }
}

/// Seconds on a core of all threads that the process has now, as the scheduler counts them.
fn scheduled(pid: u32) -> Option<f64> {
    let mut nanoseconds = 0u64;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(nanoseconds as f64 / 1e9)
}

/// The value of a line such as `VmRSS:  1234 kB`, in bytes; 0 where it is missing.
fn kilobytes(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1_024)
}

/// Slab memory of the kernel in bytes; 0 where the system does not tell.
#[must_use]
pub fn slab() -> u64 {
    fs::read_to_string("/proc/meminfo").map_or(0, |text| kilobytes(&text, "Slab:"))
}

/// Memory of TCP's buffers in bytes; 0 where the system does not tell.
#[must_use]
pub fn tcp_buffers() -> u64 {
    let pages = fs::read_to_string("/proc/net/sockstat")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("TCP:"))?;
            let (_, after) = line.split_once(" mem ")?;
            after.split_whitespace().next()?.parse::<u64>().ok()
        });
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// What a Redis server did so far.
#[derive(Debug, Clone, Default)]
pub struct RedisUsage {
    /// Seconds of CPU.
    pub cpu: f64,
    /// Calls by command.
    pub commands: BTreeMap<String, u64>,
}

impl RedisUsage {
    /// Asks the server (`INFO`).
    ///
    /// # Errors
    /// It is away, or refuses.
    pub fn read(redis: &mut Redis) -> Result<Self, WireError> {
        let mut usage = Self::default();
        for section in ["cpu", "commandstats"] {
            let answer = redis.ask("INFO", redis::cmd("INFO").arg(section))?;
            let text = match &answer {
                Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Value::VerbatimString { text, .. } => text.clone(),
                _ => String::new(),
            };
            usage.add(&text);
        }
        Ok(usage)
    }

    fn add(&mut self, info: &str) {
        for (name, value) in info.lines().filter_map(|line| line.split_once(':')) {
            if name == "used_cpu_sys" || name == "used_cpu_user" {
                self.cpu += value.trim().parse().unwrap_or(0.0);
            } else if let Some(command) = name.strip_prefix("cmdstat_") {
                let calls = value
                    .strip_prefix("calls=")
                    .and_then(|rest| rest.split(',').next()?.parse().ok());
                self.commands.insert(command.to_owned(), calls.unwrap_or(0));
            }
        }
    }

    /// What it did since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let calls = self.commands.iter().filter_map(|(name, calls)| {
            let more = calls.saturating_sub(before.commands.get(name).copied().unwrap_or(0));
            // Our own question is not part of the answer.
            (more > 0 && name != "info").then(|| (name.clone(), more))
        });
        Self {
            cpu: self.cpu - before.cpu,
            commands: calls.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss > 100_000 && usage.peak >= usage.rss && usage.descriptors > 2);
        assert!(Usage::of(u32::MAX).is_none());
    }

    #[test]
    fn the_calls_between_two_looks_are_counted() {
        let (mut before, mut after) = (RedisUsage::default(), RedisUsage::default());
        before.add(
            "# Commandstats\r\ncmdstat_xadd:calls=2,usec=1\r\ncmdstat_info:calls=1,usec=9\r\n",
        );
        after.add("used_cpu_sys:1.5\r\nused_cpu_user:0.5\r\ncmdstat_xadd:calls=5,usec=1\r\ncmdstat_info:calls=2,u=1\r\ncmdstat_config|get:calls=1,usec=3\r\n");
        let since = after.since(&before);
        assert!((since.cpu - 2.0).abs() < 1e-9);
        let expected = [("config|get".to_owned(), 1), ("xadd".to_owned(), 3)];
        assert_eq!(since.commands.into_iter().collect::<Vec<_>>(), expected);
    }
}
