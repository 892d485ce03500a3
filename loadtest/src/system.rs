//! What this process asks of the system for itself.

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Raises the limit of open descriptors as far as it may be raised.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it stays, connections fail later with a sentence about it.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Keeps this thread, and what it starts, on one core; on all that it had where there is no such core.
pub fn stay_on(core: Option<usize>) {
    if let Some(core) = core.filter(|&core| core < CpuSet::MAX_CPU) {
        let mut set = CpuSet::new();
        set.set(core);
        // A core that is not there is refused, and everything goes on where it was.
        let _ = sched_setaffinity(None, &set);
    }
}
