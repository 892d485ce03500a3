//! The limit of memory that the process lives under: that of its control group, or of one above it.

use std::fs;
use std::path::{Path, PathBuf};

/// What control groups of version 1 say where there is no limit: the greatest number of whole pages.
const UNLIMITED: u64 = 1 << 60;

/// A control group with a limit of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemoryGroup {
    directory: PathBuf,
    version: &'static Version,
}

/// Where the kernel keeps things.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    limit: &'static str,
    usage: &'static str,
    /// In `memory.stat`: file pages that the kernel drops before it stops anybody.
    cache: &'static str,
}

const ONE: Version = Version {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};
const TWO: Version = Version {
    limit: "memory.max",
    usage: "memory.current",
    cache: "inactive_file",
};

/// How much memory there may be, and how much of it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) limit: u64,
    pub(super) used: u64,
}

impl MemoryGroup {
    /// The group of this process; `None` where it has no limit.
    pub(super) fn of_this_process() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        Self::find(Path::new("/sys/fs/cgroup"), &groups)
    }

    /// Of the groups that the process is in (`cgroups(7)`, `/proc/pid/cgroup`), and all above them, the one with the
    /// least limit.
    fn find(root: &Path, groups: &str) -> Option<Self> {
        let lines = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let path = path.trim_start_matches('/');
            let version: (&Path, &'static Version) = if controllers.is_empty() {
                (Path::new(""), &TWO)
            } else if controllers.split(',').any(|name| name == "memory") {
                (Path::new("memory"), &ONE)
            } else {
                return None;
            };
            let top = root.join(version.0);
            Some((top.join(path), top, version.1))
        });
        let candidates = lines.flat_map(|(directory, top, version)| {
            let above = directory.ancestors().take_while(|at| at.starts_with(&top));
            let above: Vec<PathBuf> = above.map(Path::to_owned).collect();
            above
                .into_iter()
                .map(move |directory| Self { directory, version })
        });
        let limited = candidates.filter_map(|group| Some((group.limit()?, group)));
        limited
            .min_by_key(|(limit, _)| *limit)
            .map(|(_, group)| group)
    }

    fn limit(&self) -> Option<u64> {
        let text = fs::read_to_string(self.directory.join(self.version.limit)).ok()?;
        // Version 2 says `max` where there is none.
        text.trim().parse().ok().filter(|limit| *limit < UNLIMITED)
    }

    /// As it is now: a limit can be changed while the process runs.
    pub(super) fn read(&self) -> Option<Memory> {
        let read = |name| fs::read_to_string(self.directory.join(name)).ok();
        let charged: u64 = read(self.version.usage)?.trim().parse().ok()?;
        let stat = read("memory.stat").unwrap_or_default();
        let cache = stat.lines().find_map(|line| {
            let value = line.strip_prefix(self.version.cache)?.strip_prefix(' ')?;
            value.parse::<u64>().ok()
        });
        Some(Memory {
            limit: self.limit()?,
            used: charged.saturating_sub(cache.unwrap_or(0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn version_2_in_a_container() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "memory.max", "1000000\n");
        write(root.path(), "memory.current", "700000\n");
        write(
            root.path(),
            "memory.stat",
            "file 300000\ninactive_file 200000\n",
        );
        let group = MemoryGroup::find(root.path(), "0::/\n").unwrap();
        let (limit, used) = (1_000_000, 500_000);
        assert_eq!(group.read(), Some(Memory { limit, used }));
        write(root.path(), "memory.max", "max\n");
        assert_eq!(group.read(), None);
        assert_eq!(MemoryGroup::find(root.path(), "0::/\n"), None);
    }

    #[test]
    fn the_least_limit_above_counts() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            "system.slice/gateway.service/memory.max",
            "max\n",
        );
        write(root.path(), "system.slice/memory.max", "500\n");
        write(root.path(), "system.slice/memory.current", "100\n");
        let group = MemoryGroup::find(root.path(), "0::/system.slice/gateway.service\n").unwrap();
        let (limit, used) = (500, 100);
        assert_eq!(group.read(), Some(Memory { limit, used }));
    }

    #[test]
    fn version_1_of_which_the_container_sees_its_own_only() {
        let root = tempfile::tempdir().unwrap();
        let groups = "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n";
        let none = "9223372036854771712\n";
        write(root.path(), "memory/memory.limit_in_bytes", none);
        assert_eq!(MemoryGroup::find(root.path(), groups), None);
        write(root.path(), "memory/memory.limit_in_bytes", "4096\n");
        write(root.path(), "memory/memory.usage_in_bytes", "2048\n");
        write(
            root.path(),
            "memory/memory.stat",
            "total_inactive_file 1024\n",
        );
        let group = MemoryGroup::find(root.path(), groups).unwrap();
        let (limit, used) = (4096, 1024);
        assert_eq!(group.read(), Some(Memory { limit, used }));
    }
}
