//! Streams are cut, or a node is killed, and the clients come back.

use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::{Load, LoadError};
use crate::clock;
use crate::control::Order;
use crate::cost::RedisUsage;
use crate::report::model::Resuming;

impl Load {
    /// Cuts all streams, or kills a process, and waits until every client is back and has everything. Events
    /// flow on meanwhile.
    ///
    /// # Errors
    /// A worker is gone, the process cannot be killed, or streams do not open again.
    pub fn storm(&mut self, kill: Option<u32>, spread: Duration) -> Result<(), LoadError> {
        let before = self.redis.as_mut().map(RedisUsage::read).transpose()?;
        let published = self.publisher.published();
        self.workers.tell_all(&Order::Goals(published.heads))?;
        self.mark(true)?;
        self.gather.begin_return();
        let began = clock::now();
        let (cause, cut) = if let Some(pid) = kill {
            let (cut, closed) = (self.gather.open(), self.gather.closed);
            kill_process(pid)?;
            // The clients notice one after the other; it is over when a tick brings no more.
            let deadline = clock::now() + 10_000_000_000;
            let mut last = closed;
            while clock::now() < deadline {
                self.pass(Duration::from_millis(2 * self.setup.plan.tick_ms))?;
                if self.gather.closed > closed && self.gather.closed == last {
                    break;
                }
                last = self.gather.closed;
            }
            let gone = self.gather.closed - closed;
            (format!("process {pid} killed"), gone.min(cut))
        } else {
            let spread_ms = spread.as_millis() as u64;
            let cut = self.gather.open();
            self.workers.tell_all(&Order::Cut { spread_ms })?;
            ("all streams cut".to_owned(), cut)
        };
        let deadline = began + (spread + self.setup.open_within).as_nanos() as u64;
        let last = self.await_full(deadline)?;
        let caught_up = self.catch_up(self.setup.patience)?.unwrap_or(u64::MAX);
        let after = self.redis.as_mut().map(RedisUsage::read).transpose()?;
        // The times of the clients come with the ticks.
        self.mark(true)?;
        self.report.duration += clock::seconds(began, clock::now());
        self.report.resuming.push(Resuming {
            cause,
            cut,
            returned: self.gather.returned(),
            spread: spread.as_secs_f64(),
            last_connect: clock::seconds(began, last),
            caught_up: clock::seconds(last, caught_up),
            time: self.gather.resume.quantiles(),
            connect: self.gather.reconnect.quantiles(),
            rooms: u64::from(self.setup.plan.rooms),
            redis: match (before, after) {
                (Some(before), Some(after)) => after.since(&before).commands,
                _ => Default::default(),
            },
        });
        Ok(())
    }
}

fn kill_process(pid: u32) -> Result<(), LoadError> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(process) = process else {
        return Err(LoadError::Kill(pid, rustix::io::Errno::SRCH));
    };
    rustix::process::kill_process(process, Signal::KILL)
        .map_err(|error| LoadError::Kill(pid, error))
}
