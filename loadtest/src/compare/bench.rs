//! Starts a system, puts one load on it, and stops it again.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use super::credentials::Credentials;
use super::loads::LoadKind;
use super::{CompareError, Measured};
use jsonwebtoken::Algorithm;

use crate::cli::Compare;
use crate::clock;
use crate::cost::Usage;
use crate::load::{Load, LoadError, Setup};
use crate::payload::Payloads;
use crate::peer::{Running, Surroundings, System};
use crate::plan::{Plan, Spread};
use crate::publisher::{Publisher, Work};
use crate::report::model::Report;
use crate::scenario::{random_prefix, sockets_for, sources_for, workers_for};
use crate::target::{self, Target, With};
use crate::worker::response::{Part, Response};

/// How long an answer to a request may take.
const ANSWER: Duration = Duration::from_secs(5);

/// A load in numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    pub(super) clients: u64,
    pub(super) rooms: u32,
    pub(super) rate: f64,
    pub(super) seconds: f64,
    pub(super) size: usize,
    pub(super) stalled: u64,
    pub(super) window: u64,
    pub(super) shards: u32,
    /// Whether the system has both cores.
    pub(super) both_cores: bool,
    /// Seconds over which the clients come back once they were cut; `None` cuts none.
    pub(super) cut: Option<f64>,
    /// What the rooms' names begin with; a random word where it is empty.
    pub(super) prefix: &'static str,
    /// Clients that share a connection, over HTTP/2.
    pub(super) http2: Option<u32>,
    /// How the tokens of clients are signed, where the system wants some.
    pub(super) tokens: Option<Algorithm>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            clients: 1_000,
            rooms: 1,
            rate: 5.0,
            seconds: 10.0,
            size: 200,
            stalled: 0,
            window: 256,
            shards: 1,
            both_cores: false,
            cut: None,
            prefix: "",
            http2: None,
            tokens: None,
        }
    }
}

/// The surroundings of all measurements.
pub(super) struct Bench {
    programs: BTreeMap<String, PathBuf>,
    gateway: PathBuf,
    credentials: Credentials,
    redis_server: PathBuf,
    server_cpu: usize,
    tool_cpu: usize,
    rounds: u64,
    quick: bool,
    quiet: bool,
}

/// A system under measurement, with what it needs.
pub(super) struct Stage {
    pub(super) running: Running,
    pub(super) redis: Option<Running>,
}

impl Bench {
    pub(super) fn new(
        args: &Compare,
        programs: BTreeMap<String, PathBuf>,
    ) -> Result<Self, CompareError> {
        let beside = || Some(std::env::current_exe().ok()?.parent()?.join("sse-gateway"));
        let gateway = args
            .gateway
            .clone()
            .or_else(|| beside().filter(|path| path.exists()));
        Ok(Self {
            programs,
            gateway: gateway.unwrap_or_else(|| PathBuf::from("sse-gateway")),
            credentials: Credentials::new().map_err(CompareError::Credentials)?,
            redis_server: args.redis_server.clone(),
            server_cpu: args.server_cpu,
            tool_cpu: args.tool_cpu,
            rounds: args.rounds,
            quick: args.quick,
            quiet: args.output.quiet,
        })
    }

    pub(super) fn say(&self, round: u64, load: &LoadKind, system: &System) {
        if !self.quiet {
            eprintln!(
                "round {} of {}: {}, {}",
                round + 1,
                self.rounds,
                load.name,
                system.name
            );
        }
    }

    pub(super) fn say_failed(&self, error: &CompareError) {
        if !self.quiet {
            eprintln!("not measured: {error}");
        }
    }

    pub(super) fn measure(
        &self,
        load: &LoadKind,
        system: &System,
    ) -> Result<Measured, CompareError> {
        (load.measure)(self, load, system)
    }

    /// Starts a system, and Redis where it needs one.
    pub(super) fn start(&self, system: &System, numbers: &Numbers) -> Result<Stage, CompareError> {
        let tokens = numbers
            .tokens
            .map(|algorithm| self.credentials.tokens(algorithm, numbers.clients))
            .transpose()
            .map_err(CompareError::Credentials)?;
        let redis = if system.needs_redis() {
            let around = Surroundings {
                cores: vec![self.tool_cpu],
                program: Some(self.redis_server.clone()),
                ..Surroundings::default()
            };
            Some(System::known("redis")?.start(&around)?)
        } else {
            None
        };
        let cores = if numbers.both_cores {
            vec![self.server_cpu, self.tool_cpu]
        } else {
            vec![self.server_cpu]
        };
        let running = system.start(&Surroundings {
            gateway: self.gateway.clone(),
            redis: redis.as_ref().map(Running::redis_url),
            cores,
            program: self.programs.get(&system.name).cloned(),
            shards: numbers.shards,
            keys: Some(self.credentials.directory().to_owned()),
            tokens,
        })?;
        Ok(Stage { running, redis })
    }

    /// A tenth where only a quick look is wanted.
    pub(super) fn scaled(&self, numbers: Numbers) -> Numbers {
        if !self.quick {
            return numbers;
        }
        Numbers {
            clients: (numbers.clients / 10).max(10),
            rooms: (numbers.rooms / 10).max(1),
            seconds: (numbers.seconds / 10.0).max(1.0),
            cut: numbers.cut.map(|seconds| seconds / 10.0),
            ..numbers
        }
    }

    /// A whole run on a fresh instance of the system.
    pub(super) fn run(
        &self,
        load: &LoadKind,
        system: &System,
        numbers: Numbers,
    ) -> Result<Report, CompareError> {
        let numbers = self.scaled(numbers);
        let stage = self.start(system, &numbers)?;
        self.run_on(&stage, load, system, numbers)
    }

    /// A whole run on a system that runs.
    pub(super) fn run_on(
        &self,
        stage: &Stage,
        load: &LoadKind,
        system: &System,
        numbers: Numbers,
    ) -> Result<Report, CompareError> {
        let failed = |error| CompareError::Load {
            system: system.name.clone(),
            load: load.name,
            error,
        };
        let opening = Numbers {
            window: system.at_once.unwrap_or(u64::MAX).min(numbers.window),
            ..numbers
        };
        let mut report = self.drive(stage, opening).map_err(failed)?;
        report.scenario = "run".to_owned();
        report.system.clone_from(&system.name);
        report.load = vec![
            ("load".to_owned(), load.name.to_owned()),
            ("streams".to_owned(), numbers.clients.to_string()),
            ("rooms".to_owned(), numbers.rooms.to_string()),
            ("rate".to_owned(), format!("{} events/s", numbers.rate)),
            ("data".to_owned(), format!("{} bytes", numbers.size)),
        ];
        Ok(report)
    }

    fn drive(&self, stage: &Stage, numbers: Numbers) -> Result<Report, LoadError> {
        let mut load = Load::start(self.setup(stage, &numbers))?;
        load.open()?;
        let time = Duration::from_secs_f64(numbers.seconds);
        load.begin(numbers.rate, time)?;
        load.go_on(time)?;
        if let Some(seconds) = numbers.cut {
            load.storm(None, Duration::from_secs_f64(seconds))?;
            load.go_on(Duration::from_secs(1))?;
        }
        load.finish()
    }

    fn setup(&self, stage: &Stage, numbers: &Numbers) -> Setup {
        let target = stage.running.target().clone();
        let sockets = sockets_for(numbers.clients, numbers.http2);
        let plan = Plan {
            worker: 0,
            workers: workers_for(sockets),
            room_prefix: match numbers.prefix {
                "" => random_prefix(),
                prefix => prefix.to_owned(),
            },
            rooms: numbers.rooms,
            connections: numbers.clients,
            spread: Spread::Even,
            connect_rate: 0.0,
            connect_window: numbers.window,
            http2: numbers.http2,
            sources: sources_for(sockets, &target.addresses),
            stalled: numbers.stalled,
            slow: 0,
            slow_rate: 0,
            churn: None,
            payload: numbers.size,
            samples: None,
            tick_ms: 500,
            target,
        };
        Setup {
            work: work(&plan),
            plan,
            pids: stage.running.pids(),
            redis: stage.redis.as_ref().map(Running::redis_url),
            open_within: Duration::from_secs(60),
            patience: Duration::from_secs(30),
            quiet: true,
        }
    }

    /// Shows each token once, asking for the history of a room: the memory that the system has for each from then on, in
    /// bytes.
    pub(super) fn show_tokens(&self, stage: &Stage, system: &System) -> Result<f64, CompareError> {
        let failed = |error| CompareError::Tokens {
            system: system.name.clone(),
            error,
        };
        let target = stage.running.target();
        let text = target.tokens.as_ref().map(std::fs::read_to_string);
        let tokens = target::tokens(&text.transpose().map_err(failed)?.unwrap_or_default());
        let pids = stage.running.pids();
        let before = Usage::sum(&pids).rss;
        show(target, &tokens).map_err(failed)?;
        let grown = Usage::sum(&pids).rss as f64 - before as f64;
        Ok(grown / (tokens.len() as f64).max(1.0))
    }

    /// Publishes while nobody is connected: the system's CPU per event, in microseconds.
    pub(super) fn publish_only(
        &self,
        stage: &Stage,
        load: &LoadKind,
        system: &System,
        numbers: Numbers,
    ) -> Result<f64, CompareError> {
        let failed = |error: LoadError| CompareError::Load {
            system: system.name.clone(),
            load: load.name,
            error,
        };
        let setup = self.setup(stage, &numbers);
        let mut publisher = Publisher::connect(&setup.work).map_err(|e| failed(e.into()))?;
        let before = Usage::sum(&setup.pids);
        publisher.start(numbers.rate);
        let deadline = clock::now() + (numbers.seconds * 1e9) as u64;
        while clock::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        publisher.pause();
        // What was published last is read by then.
        std::thread::sleep(Duration::from_millis(200));
        let after = Usage::sum(&setup.pids);
        let events = publisher.finish(numbers.rate).accepted as f64;
        Ok((after.user + after.system - before.user - before.system) * 1e6 / events.max(1.0))
    }
}

/// Asks with each token in turn, on one connection.
fn show(target: &Target, tokens: &[String]) -> io::Result<()> {
    let address = target.addresses[0];
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(ANSWER))?;
    let mut request = target.subscribe.clone();
    let accept = ("Accept".to_owned(), "application/json".to_owned());
    request.headers.extend([accept]);
    let mut buffer = [0; 4_096];
    for token in tokens {
        let with = With {
            room: "probe",
            token,
            ..With::default()
        };
        connection.write_all(&request.render(address, with))?;
        let (mut response, mut status, mut complete) = (Response::default(), 0, false);
        while !complete {
            let got = connection.read(&mut buffer)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            response
                .feed(&buffer[..got], |part| match part {
                    Part::Head { status: of, .. } => status = of,
                    Part::Body(_) => {}
                    Part::End => complete = true,
                })
                .map_err(io::Error::other)?;
        }
        if status != 200 {
            return Err(io::Error::other(format!("it answers {status}")));
        }
    }
    Ok(())
}

fn work(plan: &Plan) -> Work {
    Work {
        publish: plan.target.publish.clone(),
        rooms: (0..plan.rooms).map(|room| plan.room(room)).collect(),
        payloads: Payloads::new(plan.payload, None),
        connections: 8,
        keep: None,
    }
}
