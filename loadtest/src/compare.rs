//! `sse-loadtest compare`: the same loads on several systems in turn, in rounds, as ratios within the run.

mod bench;
mod credentials;
mod loads;
mod ratios;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::cli::Compare;
use crate::load::LoadError;
use crate::peer::{PeerError, System};
use crate::report::model::{Better, Comparison, Figure, Report, Values};
use bench::Bench;
use loads::{Kind, LOADS, LoadKind};

/// Why a comparison did not take place.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The command line asks for what is not there.
    #[error("{0}")]
    Usage(String),
    /// A system does not start.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// There are no keys, or no certificate.
    #[error("keys and tokens for a comparison cannot be made: {0}")]
    Credentials(#[source] std::io::Error),
    /// A system does not take its tokens.
    #[error("{system} does not take the tokens that are made for it: {error}")]
    Tokens {
        /// The system.
        system: String,
        /// What happened.
        error: std::io::Error,
    },
    /// A run could not go on.
    #[error("{system}, {load}: {error}")]
    Load {
        /// The system.
        system: String,
        /// The load.
        load: &'static str,
        /// What happened.
        error: LoadError,
    },
}

/// One value of one run.
#[derive(Debug, Clone)]
struct Value {
    name: &'static str,
    unit: &'static str,
    better: Better,
    value: f64,
}

/// What one load on one system came to.
#[derive(Debug, Default)]
struct Measured {
    values: Vec<Value>,
    runs: Vec<Report>,
}

/// Runs the comparison.
///
/// # Errors
/// The command line is bad, a system does not start, or a run could not go on.
pub fn compare(args: &Compare) -> Result<Comparison, CompareError> {
    let (systems, programs) = systems(args)?;
    let loads = chosen(&args.loads)?;
    let bench = Bench::new(args, programs)?;
    let mut comparison = Comparison {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: crate::report::command(),
        began: crate::report::unix_now(),
        rounds: args.rounds,
        ..Comparison::default()
    };
    let (mut figures, mut failures) = (Vec::<Figure>::new(), Vec::new());
    for round in 0..args.rounds {
        for load in &loads {
            let mut on: Vec<&System> = systems
                .iter()
                .filter(|system| load.is_for(system))
                .collect();
            // What comes first finds the machine as the one before left it: take turns.
            let turn = round as usize % on.len().max(1);
            on.rotate_left(turn);
            for system in on {
                bench.say(round, load, system);
                let measured = match bench.measure(load, system) {
                    Ok(measured) => measured,
                    // One system that a load is too much for does not take the others' figures away.
                    Err(error @ (CompareError::Load { .. } | CompareError::Tokens { .. })) => {
                        bench.say_failed(&error);
                        failures.push(format!("Not measured: {error}"));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                for value in measured.values {
                    note(&mut figures, load.name, &system.name, value);
                }
                comparison.runs.extend(measured.runs);
            }
        }
    }
    comparison.loads = loads
        .iter()
        .map(|load| (load.name.to_owned(), load.about.to_owned()))
        .collect();
    comparison.systems = systems
        .iter()
        .map(|system| (system.name.clone(), system.about.clone()))
        .collect();
    comparison.ratios = ratios::ratios(&figures);
    comparison.figures = figures;
    comparison.remarks = remarks(&comparison.runs, args);
    comparison.remarks.extend(failures);
    Ok(comparison)
}

fn note(figures: &mut Vec<Figure>, load: &str, system: &str, value: Value) {
    let known = figures
        .iter()
        .position(|figure| figure.load == load && figure.name == value.name);
    let at = known.unwrap_or_else(|| {
        figures.push(Figure {
            load: load.to_owned(),
            name: value.name.to_owned(),
            unit: value.unit.to_owned(),
            better: value.better,
            values: Vec::new(),
        });
        figures.len() - 1
    });
    let values = &mut figures[at].values;
    match values.iter_mut().find(|values| values.system == system) {
        Some(values) => values.rounds.push(value.value),
        None => values.push(Values {
            system: system.to_owned(),
            rounds: vec![value.value],
        }),
    }
}

fn remarks(runs: &[Report], args: &Compare) -> Vec<String> {
    let mut remarks = vec![format!(
        "Servers ran on core {}, the load tool and Redis on core {}.",
        args.server_cpu, args.tool_cpu
    )];
    if args.quick {
        remarks.push(
            "This was a quick look, with a tenth of the clients: its figures mean little."
                .to_owned(),
        );
    }
    let mut faulty: BTreeMap<&str, u64> = BTreeMap::new();
    for run in runs.iter().filter(|run| !run.checking.is_clean()) {
        *faulty.entry(&run.system).or_default() += run.checking.lost + run.checking.told;
    }
    for (system, lost) in faulty {
        remarks.push(format!(
            "{system} did not deliver everything: {lost} deliveries never came."
        ));
    }
    let saturated = runs.iter().filter(|run| run.tool.saturated).count();
    if saturated > 0 {
        remarks.push(format!(
            "In {saturated} of {} runs the load tool had no CPU left; throughput and latency there are its limits \
             too.",
            runs.len()
        ));
    }
    remarks
}

fn chosen(names: &[String]) -> Result<Vec<&'static LoadKind>, CompareError> {
    if names.is_empty() {
        return Ok(LOADS.iter().collect());
    }
    let find = |name: &String| {
        LOADS.iter().find(|load| load.name == name).ok_or_else(|| {
            let known: Vec<_> = LOADS.iter().map(|load| load.name).collect();
            CompareError::Usage(format!(
                "there is no load {name}; known are {}",
                known.join(", ")
            ))
        })
    };
    names.iter().map(find).collect()
}

/// The systems, and the programs that stand in for theirs.
fn systems(args: &Compare) -> Result<(Vec<System>, BTreeMap<String, PathBuf>), CompareError> {
    let mut names = args.systems.clone();
    if names.is_empty() {
        names = ["gateway", "floor", "plain", "gateway-redis", "relay"]
            .map(str::to_owned)
            .into();
    }
    let (mut programs, mut files) = (BTreeMap::new(), Vec::new());
    for peer in &args.peer {
        match peer.split_once('=') {
            Some((name, path)) => {
                programs.insert(name.to_owned(), PathBuf::from(path));
                if !names.iter().any(|known| known == name) {
                    names.push(name.to_owned());
                }
            }
            None => files.push(PathBuf::from(peer)),
        }
    }
    let mut systems = Vec::new();
    for name in &names {
        systems.push(System::known(name)?);
    }
    for file in files {
        systems.push(System::load(&file)?);
    }
    Ok((systems, programs))
}

impl LoadKind {
    /// Whether the load is for this system.
    fn is_for(&self, system: &System) -> bool {
        let by_name = |names: &[&str]| names.contains(&system.name.as_str());
        match self.kind {
            Kind::Memory => !system.needs_redis(),
            Kind::Redis => system.needs_redis() && system.name != "subscriber",
            Kind::Only(names) => by_name(names),
        }
    }
}
