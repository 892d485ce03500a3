//! The end of a run: everything arrives, and is judged.

use crate::clock;
use crate::control::{Order, Word};
use crate::cost::RedisUsage;
use crate::report::model::{RedisCost, Report, ToolCost};

use super::{Load, LoadError};

impl Load {
    /// Stops publishing, lets everything arrive, and judges.
    ///
    /// # Errors
    /// A worker is gone.
    pub fn finish(mut self) -> Result<Report, LoadError> {
        self.mark(false)?;
        let window = self.gather.window();
        self.publisher.pause();
        self.progress.phase("settling", 1);
        if self.catch_up(self.setup.patience)?.is_none() {
            let seconds = self.setup.patience.as_secs();
            let remark =
                format!("Not every client had every event {seconds} s after the last one.");
            self.report.remarks.push(remark);
        }
        let after = self.usages();
        for (process, (before, after)) in self
            .report
            .processes
            .iter_mut()
            .zip(self.before.processes.iter().zip(&after))
        {
            // A process that is gone has no figures.
            if after.rss > 0 {
                process.cpu_user = after.user - before.user;
                process.cpu_system = after.system - before.system;
            }
            process.rss_after = after.rss;
            process.rss_peak = after.peak;
        }
        if let Some(redis) = &mut self.redis {
            let since = RedisUsage::read(redis)?.since(&self.before.redis);
            self.report.redis = Some(RedisCost {
                cpu: since.cpu,
                commands: since.commands,
            });
        }
        self.workers.tell_all(&Order::Finish)?;
        let deadline = clock::now() + 60_000_000_000;
        let mut judged = 0;
        while judged < self.workers.len() {
            match self.next_word(deadline)? {
                Some(Word::Done(judgement)) => {
                    judged += 1;
                    self.gather.judge(*judgement);
                }
                Some(_) => {}
                None => return Err(LoadError::Worker(0, "it does not end".to_owned())),
            }
        }
        self.progress.clear();
        let mut report = self.report;
        report.publishing = self.publisher.finish(self.rate);
        report.delivering = self.gather.delivering(&window);
        report.checking = self.gather.checking();
        report.tool = ToolCost {
            workers: self.setup.plan.workers,
            ..window.tool
        };
        report.samples = self.gather.into_samples();
        if report.tool.saturated {
            report.remarks.push(
                "The load tool itself had no CPU left: throughput and latency are its limits as well as the \
                 server's. Use more workers, or more cores."
                    .to_owned(),
            );
        }
        if report.publishing.unsent > 0 {
            report.remarks.push(format!(
                "{} of {} events that were due were never sent, because the server did not confirm earlier ones \
                 in time.",
                report.publishing.unsent, report.publishing.offered
            ));
        }
        Ok(report)
    }
}
