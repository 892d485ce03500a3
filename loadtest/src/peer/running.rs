//! A system that was started, and ends with its owner.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use super::fill::Fill;
use super::{PeerError, System, tree};
use crate::target::{self, Publish, Target, With};
use crate::tls::{Duplex, Tls};

/// How long a system may take to answer.
const START: Duration = Duration::from_secs(15);
/// How long it may take to end.
const STOP: Duration = Duration::from_secs(3);

/// What a system finds around it.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The gateway's program.
    pub gateway: PathBuf,
    /// A Redis server's URL.
    pub redis: Option<String>,
    /// The cores that the system runs on; all where it is empty.
    pub cores: Vec<usize>,
    /// Its program, in place of the one that its description names.
    pub program: Option<PathBuf>,
    /// Shards of a gateway.
    pub shards: u32,
    /// A directory with keys and a certificate.
    pub keys: Option<PathBuf>,
    /// The tokens of clients, one a line.
    pub tokens: Option<PathBuf>,
}

/// A system that runs; it is stopped when this is dropped.
pub struct Running {
    name: String,
    children: Vec<Child>,
    /// The one that serves is the last child.
    serving: u32,
    target: Target,
    directory: TempDir,
}

impl System {
    /// Starts the system, and waits until it answers.
    ///
    /// # Errors
    /// A program is missing, ends at once, or does not answer.
    pub fn start(&self, around: &Surroundings) -> Result<Running, PeerError> {
        let failed = |error| PeerError::System(self.name.clone(), error);
        let directory = tempfile::Builder::new()
            .prefix("sse-loadtest-")
            .tempdir()
            .map_err(failed)?;
        let ports = free_ports().map_err(failed)?;
        let fill = Fill::new(self, around, &directory, ports).map_err(failed)?;
        for (name, text) in &self.files {
            std::fs::write(directory.path().join(name), fill.text(text)?).map_err(failed)?;
        }
        let address =
            |port: usize| SocketAddr::from((Ipv4Addr::LOCALHOST, ports[(port - 1).min(2)]));
        let tls = self.tls.then(|| Tls {
            name: Ipv4Addr::LOCALHOST.to_string(),
            ca_file: around.keys.as_ref().map(|keys| keys.join("cert.pem")),
        });
        let mut running = Running {
            name: self.name.clone(),
            children: Vec::new(),
            serving: 0,
            target: Target {
                addresses: vec![address(1)],
                subscribe: fill.request(&self.subscribe)?,
                publish: match (&self.publish.http, &around.redis) {
                    (Some(request), _) => Publish::Http {
                        request: fill.request(request)?,
                        addresses: vec![address(self.publish.port)],
                        tls: tls.clone().filter(|_| self.publish.port == 1),
                    },
                    (None, Some(redis)) if self.publish.redis.as_deref() == Some("xadd") => {
                        Publish::Xadd {
                            redis: redis.clone(),
                        }
                    }
                    (None, Some(redis)) => Publish::Function {
                        redis: redis.clone(),
                    },
                    (None, None) => return Err(fill.unknown("redis")),
                },
                tokens: around.tokens.clone(),
                tls,
            },
            directory,
        };
        for companion in &self.companions {
            running.spawn(self, companion, &fill)?;
        }
        let elsewhere = sched_getaffinity(None).map_err(|error| failed(error.into()))?;
        if !around.cores.is_empty() {
            let mut cores = CpuSet::new();
            let wanted = around.cores.iter().filter(|&&core| core < CpuSet::MAX_CPU);
            wanted.for_each(|&core| cores.set(core));
            sched_setaffinity(None, &cores).map_err(|error| failed(error.into()))?;
        }
        let spawned = running.spawn(self, &self.command, &fill);
        sched_setaffinity(None, &elsewhere).map_err(|error| failed(error.into()))?;
        running.serving = spawned?;
        if self.listens {
            running.await_answer()?;
        } else {
            running.await_line()?;
        }
        Ok(running)
    }
}

impl Running {
    /// The URL of the port that it listens on, were it Redis.
    #[must_use]
    pub fn redis_url(&self) -> String {
        format!("redis://{}", self.target.addresses[0])
    }

    /// What to put under load.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The processes that serve.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        tree(self.serving)
    }

    fn spawn(
        &mut self,
        system: &System,
        command: &[String],
        fill: &Fill,
    ) -> Result<u32, PeerError> {
        let failed = |error| PeerError::System(system.name.clone(), error);
        let words = command.iter().map(|word| fill.text(word));
        let words = words.collect::<Result<Vec<_>, _>>()?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("output"))
            .map_err(failed)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        for (name, value) in &system.env {
            command.env(name, fill.text(value)?);
        }
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        let child = command.spawn().map_err(|error| PeerError::Program {
            system: system.name.clone(),
            program: words[0].clone(),
            error,
            install: system.install.clone(),
        })?;
        let pid = child.id();
        self.children.push(child);
        Ok(pid)
    }

    fn await_answer(&mut self) -> Result<(), PeerError> {
        let mut waits_for = self.target.addresses.clone();
        if let Publish::Http { addresses, .. } = &self.target.publish {
            waits_for.extend(addresses);
        }
        let deadline = Instant::now() + START;
        for address in waits_for {
            let answers =
                || TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok();
            self.wait(deadline, answers, "does not answer")?;
        }
        let target = self.target.clone();
        self.wait(deadline, || opens_a_stream(&target), "opens no stream")
    }

    /// Waits until something is so, the process ends, or the time is over.
    fn wait(
        &mut self,
        deadline: Instant,
        is_so: impl Fn() -> bool,
        otherwise: &'static str,
    ) -> Result<(), PeerError> {
        while !is_so() {
            if let Some(child) = self.children.last_mut()
                && let Ok(Some(_)) = child.try_wait()
            {
                return Err(self.not_started("ended as soon as it was started"));
            }
            if Instant::now() > deadline {
                return Err(self.not_started(otherwise));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn await_line(&mut self) -> Result<(), PeerError> {
        let output = self.directory.path().join("output");
        let said = || std::fs::metadata(&output).is_ok_and(|file| file.len() > 0);
        self.wait(
            Instant::now() + START,
            said,
            "does not say that it is ready",
        )
    }

    fn not_started(&self, what: &'static str) -> PeerError {
        let log = std::fs::read(self.directory.path().join("output")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        PeerError::Start {
            system: self.name.clone(),
            what,
            log: last.into_iter().rev().collect::<Vec<_>>().join(" / "),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut all: Vec<u32> = self
            .children
            .iter()
            .flat_map(|child| tree(child.id()))
            .collect();
        signal(&all, Signal::TERM);
        let deadline = Instant::now() + STOP;
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // A parent that is gone leaves its children to nobody: they were listed before.
        all.retain(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
        signal(&all, Signal::KILL);
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// Whether a subscription is answered with 200: some listen before they can serve.
fn opens_a_stream(target: &Target) -> bool {
    if target.subscribe.path == "/" {
        return true;
    }
    let (address, mut request) = (target.addresses[0], target.subscribe.clone());
    let tokens = target.tokens.as_ref().map(std::fs::read_to_string);
    let tokens = target::tokens(&tokens.and_then(Result::ok).unwrap_or_default());
    let accept = ("Accept".to_owned(), "text/event-stream".to_owned());
    request.headers.extend([accept]);
    let probe = || {
        let stream = TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let session = target.tls.as_ref().map(Tls::session).transpose();
        let stream = Duplex::new(stream, session.map_err(io::Error::other)?)?;
        let with = With {
            room: "probe",
            token: tokens.first().map_or("", String::as_str),
            ..With::default()
        };
        (&stream).write_all(&request.render(address, with))?;
        let mut status = [0; 12];
        (&stream).read_exact(&mut status)?;
        Ok::<_, io::Error>(status.ends_with(b" 200"))
    };
    probe().unwrap_or(false)
}

fn signal(pids: &[u32], signal: Signal) {
    for pid in pids
        .iter()
        .filter_map(|&pid| Pid::from_raw(pid.cast_signed()))
    {
        // One that is gone needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// Three ports that nobody listens on now.
fn free_ports() -> io::Result<[u16; 3]> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = [listen()?, listen()?, listen()?];
    let mut ports = [0; 3];
    for (port, held) in ports.iter_mut().zip(&held) {
        *port = held.local_addr()?.port();
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(command: &str, publish: &str) -> System {
        let text = format!(
            "about = 'a'\ninstall = 'install it'\nprogram = 'redis-server'\ncommand = {command}\n[subscribe]\npath = '/'\n[publish]\n{publish}\n"
        );
        System::parse("mine", &text).unwrap()
    }

    const HTTP: &str = "http = { path = '/x' }";

    #[test]
    fn a_system_runs_and_leaves_nothing_behind() {
        let command = "['@program@', '--port', '@port@', '--save', '', '--dir', '@dir@']";
        let running = system(command, HTTP)
            .start(&Surroundings::default())
            .unwrap();
        let (pids, directory) = (running.pids(), running.directory.path().to_owned());
        assert!(!pids.is_empty() && directory.exists());
        drop(running);
        assert!(
            pids.iter()
                .all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
        );
        assert!(!directory.exists());
    }

    #[test]
    fn what_goes_wrong_is_said() {
        let start = |command, publish| {
            let started = system(command, publish).start(&Surroundings::default());
            started.err().unwrap().to_string()
        };
        assert!(start("['/no/such/program']", HTTP).contains("install it"));
        assert!(start("['@colour@']", HTTP).contains("@colour@"));
        assert!(start("['@program@', '--no-such-option']", HTTP).contains("ended as soon"));
        assert!(start("['@program@']", "redis = 'function'").contains("needs a Redis"));
    }
}
