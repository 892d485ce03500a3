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

use super::{PeerError, System, tree};
use crate::target::{Publish, Request, Target};

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
            },
            directory,
        };
        for companion in &self.companions {
            running.spawn(self, companion, &fill)?;
        }
        let before = sched_getaffinity(None);
        let mut cores = CpuSet::new();
        let wanted = around.cores.iter().filter(|&&core| core < CpuSet::MAX_CPU);
        wanted.for_each(|&core| cores.set(core));
        if cores.count() > 0 {
            // A core that is not there is refused; the system then runs on all.
            let _ = sched_setaffinity(None, &cores);
        }
        let spawned = running.spawn(self, &self.command, &fill);
        if let Ok(before) = before {
            let _ = sched_setaffinity(None, &before);
        }
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
        let log = File::create(self.directory.path().join("output")).map_err(failed)?;
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
            while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
                if let Some(child) = self.children.last_mut()
                    && let Ok(Some(_)) = child.try_wait()
                {
                    return Err(self.not_started("ended as soon as it was started"));
                }
                if Instant::now() > deadline {
                    return Err(self.not_started("does not answer"));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        while !self.opens_a_stream() {
            if Instant::now() > deadline {
                return Err(self.not_started("opens no stream"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Whether a subscription is answered with 200: some listen before they can serve.
    fn opens_a_stream(&self) -> bool {
        if self.target.subscribe.path == "/" {
            return true;
        }
        let (address, mut request) = (self.target.addresses[0], self.target.subscribe.clone());
        request
            .headers
            .insert("Accept".to_owned(), "text/event-stream".to_owned());
        let probe = || {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(&request.render(address, "probe", ""))?;
            let mut status = [0; 12];
            stream.read_exact(&mut status)?;
            Ok::<_, io::Error>(status.ends_with(b" 200"))
        };
        probe().unwrap_or(false)
    }

    fn await_line(&mut self) -> Result<(), PeerError> {
        let (deadline, output) = (Instant::now() + START, self.directory.path().join("output"));
        while std::fs::metadata(&output).map_or(0, |file| file.len()) == 0 {
            if Instant::now() > deadline {
                return Err(self.not_started("does not say that it is ready"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
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

/// What placeholders stand for.
struct Fill {
    system: String,
    values: Vec<(&'static str, String)>,
}

impl Fill {
    fn new(
        system: &System,
        around: &Surroundings,
        directory: &TempDir,
        ports: [u16; 3],
    ) -> io::Result<Self> {
        let itself = std::env::current_exe()?.display().to_string();
        let gateway = around.gateway.display().to_string();
        let program = match (&around.program, system.program.as_str()) {
            (Some(program), _) => program.display().to_string(),
            (None, "@self@") => itself.clone(),
            (None, "@gateway@") => gateway.clone(),
            (None, program) => program.to_owned(),
        };
        let mut values = vec![
            ("program", program),
            ("self", itself),
            ("gateway", gateway),
            ("dir", directory.path().display().to_string()),
            ("port", ports[0].to_string()),
            ("port2", ports[1].to_string()),
            ("port3", ports[2].to_string()),
            ("shards", around.shards.max(1).to_string()),
        ];
        if let Some(redis) = &around.redis {
            values.push(("redis", redis.clone()));
        }
        Ok(Self {
            system: system.name.clone(),
            values,
        })
    }

    fn unknown(&self, name: &str) -> PeerError {
        PeerError::Placeholder {
            system: self.system.clone(),
            name: name.to_owned(),
            hint: if name == "redis" {
                ": it needs a Redis server"
            } else {
                ""
            },
        }
    }

    fn text(&self, text: &str) -> Result<String, PeerError> {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('@') {
            let (before, after) = rest.split_at(at);
            out.push_str(before);
            let word = after[1..]
                .split_once('@')
                .map(|(word, _)| word)
                .filter(|word| {
                    !word.is_empty()
                        && word
                            .bytes()
                            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                });
            let Some(word) = word else {
                out.push('@');
                rest = &after[1..];
                continue;
            };
            let value = self.values.iter().find(|(name, _)| *name == word);
            out.push_str(&value.ok_or_else(|| self.unknown(word))?.1);
            rest = &after[word.len() + 2..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn request(&self, request: &Request) -> Result<Request, PeerError> {
        Ok(Request {
            path: self.text(&request.path)?,
            body: self.text(&request.body)?,
            ..request.clone()
        })
    }
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
