//! Worker processes and the lines between them and the coordinator.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::LoadError;
use crate::control::{Order, Word};
use crate::plan::Plan;

/// How long workers have for their own end.
const PARTING: Duration = Duration::from_secs(5);

/// The worker processes of a run; they end with it.
pub(super) struct Workers {
    processes: Vec<(Child, ChildStdin)>,
    words: Receiver<(usize, Word)>,
}

impl Workers {
    /// Starts as many as the plan says.
    pub(super) fn spawn(plan: &Plan) -> Result<Self, LoadError> {
        let program = std::env::current_exe().map_err(LoadError::Spawn)?;
        let (sender, words) = mpsc::channel();
        let mut processes = Vec::new();
        for worker in 0..plan.workers {
            let mut child = Command::new(&program)
                .arg("worker")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(LoadError::Spawn)?;
            let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(LoadError::Worker(
                    worker as usize,
                    "it has no pipes".to_owned(),
                ));
            };
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let word = serde_json::from_str(&line)
                        .unwrap_or_else(|error| Word::Failed(format!("it says {line:?}: {error}")));
                    if sender.send((worker as usize, word)).is_err() {
                        return;
                    }
                }
            });
            processes.push((child, input));
        }
        let mut workers = Self { processes, words };
        for worker in 0..plan.workers {
            let plan = Plan {
                worker,
                ..plan.clone()
            };
            workers.tell(worker as usize, &Order::Plan(Box::new(plan)))?;
        }
        Ok(workers)
    }

    pub(super) fn len(&self) -> usize {
        self.processes.len()
    }

    pub(super) fn tell_all(&mut self, order: &Order) -> Result<(), LoadError> {
        (0..self.processes.len()).try_for_each(|worker| self.tell(worker, order))
    }

    fn tell(&mut self, worker: usize, order: &Order) -> Result<(), LoadError> {
        let gone = |error: std::io::Error| LoadError::Worker(worker, error.to_string());
        let line = serde_json::to_string(order).map_err(|error| gone(error.into()))?;
        let input = &mut self.processes[worker].1;
        input
            .write_all(format!("{line}\n").as_bytes())
            .map_err(gone)
    }

    /// The next word of any worker; `None` when the time is over.
    pub(super) fn word(&mut self, wait: Duration) -> Result<Option<(usize, Word)>, LoadError> {
        match self.words.recv_timeout(wait) {
            Ok(word) => Ok(Some(word)),
            Err(RecvTimeoutError::Timeout) => {
                // One that ended without a word would be waited for in vain.
                for (worker, (child, _)) in self.processes.iter_mut().enumerate() {
                    if let Ok(Some(status)) = child.try_wait()
                        && !status.success()
                    {
                        return Err(LoadError::Worker(worker, status.to_string()));
                    }
                }
                Ok(None)
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(LoadError::Worker(0, "all workers are gone".to_owned()))
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let deadline = Instant::now() + PARTING;
        let (children, orders): (Vec<_>, Vec<_>) = self.processes.drain(..).unzip();
        // Nobody gives orders any more: they close their streams in their own way, and end.
        drop(orders);
        for mut child in children {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            // One that ended by itself cannot be killed, and need not be.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
