//! Where and when a run takes place.

use std::fs::read_to_string;
use std::time::{SystemTime, UNIX_EPOCH};

use super::model::Machine;

/// Seconds since 1970; 0 on a clock that stands before that.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// This machine, as far as `/proc` tells: what is absent there stays empty or 0, because a report
/// without the processor's name is better than none.
#[must_use]
pub fn machine() -> Machine {
    let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = read_to_string("/proc/meminfo").unwrap_or_default();
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Machine {
        cpu: field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
        cpus: cpuinfo
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count(),
        memory: memory(&meminfo),
        kernel: kernel.trim().to_owned(),
    }
}

/// The first `key : value` of a file in `/proc`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

fn memory(meminfo: &str) -> u64 {
    field(meminfo, "MemTotal")
        .and_then(|value| value.strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_by_key() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 3.0: GHz\nmodel name\t: other\n";
        assert_eq!(field(text, "model name"), Some("A CPU @ 3.0: GHz"));
        assert_eq!(field(text, "absent"), None);
        assert_eq!(memory("MemFree: 1 kB\nMemTotal:   2048 kB\n"), 2048 * 1024);
        assert_eq!(memory("MemTotal: much"), 0);
        assert_eq!(memory(""), 0);
    }

    #[test]
    fn this_machine_has_a_processor_and_a_clock() {
        assert!(machine().cpus > 0);
        assert!(unix_now() > 1_700_000_000);
    }
}
