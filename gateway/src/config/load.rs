//! The layers of the configuration, and what is wrong with them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use config::builder::{ConfigBuilder, DefaultState};
use config::{Environment, File, FileFormat};

use super::{Config, ConfigError, DEFAULTS, validate};
use crate::cli::Cli;

/// What every variable of ours begins with.
const ENV_PREFIX: &str = "SSE_";
/// The settings of the other programs: not ours, and nothing to warn of.
const OTHER_PROGRAMS: [&str; 2] = ["SSE_PUBLISH_", "SSE_LOADTEST_"];

/// A configuration that can be used, and what its operator should know about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Checked.
    pub config: Config,
    /// One sentence each, for the log.
    pub warnings: Vec<String>,
}

/// Defaults, file, environment and flags, in this order, checked.
///
/// # Errors
///
/// The first thing that is wrong, in one sentence.
pub fn load(cli: &Cli, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, ConfigError> {
    let known = known_keys();
    let mut warnings = Vec::new();
    let mut layers = base();
    if let Some(path) = &cli.config {
        check_file(path, &known)?;
        layers = layers.add_source(File::from(path.as_path()).format(FileFormat::Toml));
        // Built once without what lies above, so that a bad value is known to be the file's.
        build(layers.clone()).map_err(|error| name_file(&error, path))?;
    }
    let variables = environment(env, &known, &mut warnings);
    layers = layers.add_source(
        Environment::with_prefix("SSE")
            .prefix_separator("_")
            .separator("__")
            .source(Some(variables)),
    );
    layers = flags(layers, cli).map_err(|error| ConfigError::Value(error.to_string()))?;
    let mut config = build(layers)?;
    if config.node.is_empty() {
        config.node = node_name();
    }
    warnings.extend(validate(&config)?);
    Ok(Loaded { config, warnings })
}

/// The compiled-in defaults alone, with a node name: where tests and tools begin.
///
/// # Panics
///
/// Never: the file is compiled in, and a test reads it.
#[must_use]
pub fn defaults() -> Config {
    let mut config = match build(base()) {
        Ok(config) => config,
        Err(error) => unreachable!("the compiled-in defaults: {error}"),
    };
    config.node = node_name();
    config
}

fn base() -> ConfigBuilder<DefaultState> {
    config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml))
}

fn build(layers: ConfigBuilder<DefaultState>) -> Result<Config, ConfigError> {
    layers
        .build()
        .and_then(config::Config::try_deserialize)
        .map_err(|error| ConfigError::Value(one_line(&error.to_string())))
}

fn flags(
    layers: ConfigBuilder<DefaultState>,
    cli: &Cli,
) -> Result<ConfigBuilder<DefaultState>, config::ConfigError> {
    let keys = (!cli.publish_key.is_empty()).then(|| cli.publish_key.clone());
    let format = cli.log_format.and_then(|format| {
        use clap::ValueEnum;
        Some(format.to_possible_value()?.get_name().to_owned())
    });
    layers
        .set_override_option("listen", cli.listen.map(|listen| listen.to_string()))?
        .set_override_option(
            "admin.listen",
            cli.admin_listen.map(|listen| listen.to_string()),
        )?
        .set_override_option("redis.url", cli.redis.clone())?
        .set_override_option("node", cli.node.clone())?
        .set_override_option("shards", cli.shards.map(|shards| shards as u64))?
        .set_override_option("http.path_prefix", cli.path_prefix.clone())?
        .set_override_option("publish.keys", keys)?
        .set_override_option("dev", cli.dev.then_some(true))?
        .set_override_option("log.level", cli.log.clone())?
        .set_override_option("log.format", format)
}

/// Every key there is, with its table: the defaults name them all.
fn known_keys() -> Vec<String> {
    let table: toml::Table = DEFAULTS.parse().unwrap_or_default();
    let mut keys = Vec::new();
    leaves(&table, "", &mut keys);
    keys
}

fn leaves(table: &toml::Table, above: &str, keys: &mut Vec<String>) {
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => {
                leaves(inner, &format!("{above}{name}."), keys)
            }
            _ => keys.push(format!("{above}{name}")),
        }
    }
}

/// Reads the file for its keys alone: values are the business of the layers.
fn check_file(path: &Path, known: &[String]) -> Result<(), ConfigError> {
    let file = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let reason = error.to_string();
            return Err(ConfigError::Unreadable { file, reason });
        }
    };
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return Err(syntax(file, &text, &error)),
    };
    let mut keys = Vec::new();
    leaves(&table, "", &mut keys);
    let is_table = |key: &str| {
        known
            .iter()
            .any(|known| known.starts_with(&format!("{key}.")))
    };
    let unknown = |key: &String| !known.contains(key) && !is_table(key);
    match keys.into_iter().find(unknown) {
        None => Ok(()),
        Some(key) => {
            let hint = nearest(&key, known)
                .map(|near| format!(": did you mean `{near}`?"))
                .unwrap_or_default();
            Err(ConfigError::UnknownKey { file, key, hint })
        }
    }
}

fn name_file(error: &ConfigError, path: &Path) -> ConfigError {
    let (sentence, file) = (error.to_string(), path.display().to_string());
    if sentence.contains(&file) {
        ConfigError::Value(sentence)
    } else {
        ConfigError::Value(format!("{sentence} in {file}"))
    }
}

fn syntax(file: String, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or(1, |before| before.matches('\n').count() + 1);
    let reason = format!("line {line}: {}", one_line(error.message()));
    ConfigError::Syntax { file, reason }
}

/// Keeps the variables that name a setting; the others of ours make one warning together, because
/// Kubernetes sets a whole family of `SSE_GATEWAY_…` for a service of that name.
fn environment(
    env: impl Iterator<Item = (String, String)>,
    known: &[String],
    warnings: &mut Vec<String>,
) -> HashMap<String, String> {
    let names: BTreeMap<String, &String> = known.iter().map(|key| (variable(key), key)).collect();
    let mut settings = HashMap::new();
    let mut unknown = Vec::new();
    for (name, value) in env.filter(|(name, _)| name.starts_with(ENV_PREFIX)) {
        if names.contains_key(&name) {
            settings.insert(name, value);
        } else if !is_other_program(&name) {
            unknown.push(name);
        }
    }
    unknown.sort();
    let hint = unknown.iter().find_map(|name| {
        let plain = name.replace('_', "");
        names.keys().find(|known| known.replace('_', "") == plain)
    });
    let hint = hint
        .map(|name| format!(" (did you mean {name}?)"))
        .unwrap_or_default();
    if let [one] = unknown.as_slice() {
        warnings.push(format!(
            "the environment variable {one} is no setting and is ignored{hint}"
        ));
    } else if !unknown.is_empty() {
        let all = unknown.join(", ");
        warnings.push(format!(
            "the environment variables {all} are no settings and are ignored{hint}"
        ));
    }
    settings
}

fn is_other_program(name: &str) -> bool {
    // `SSE_PUBLISH__KEYS` is ours, `SSE_PUBLISH_KEY` is not.
    OTHER_PROGRAMS
        .iter()
        .filter_map(|program| name.strip_prefix(program))
        .any(|rest| !rest.starts_with('_'))
}

/// `redis.url` as the environment writes it: `SSE_REDIS__URL`.
fn variable(key: &str) -> String {
    format!(
        "{ENV_PREFIX}{}",
        key.replace('.', "__").to_ascii_uppercase()
    )
}

/// The key that a wrong one was probably meant to be.
fn nearest<'a>(key: &str, known: &'a [String]) -> Option<&'a String> {
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
    known
        .iter()
        .map(|near| (distance(key, near), near))
        .filter(|(distance, _)| *distance <= 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, near)| near)
        // The right name in the wrong table.
        .or_else(|| {
            let same = known.iter().filter(|near| last(near) == last(key));
            same.min_by_key(|near| near.len())
        })
}

/// How many letters to add, drop or change (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Host name and process id, in the letters that a node name may have.
fn node_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        // Not Linux: there is no file to read.
        .or_else(|| {
            let output = std::process::Command::new("hostname").output().ok()?;
            String::from_utf8(output.stdout).ok()
        })
        .unwrap_or_default();
    let host: String = host
        .trim()
        .chars()
        .take(64)
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".-_".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    let host = if host.is_empty() { "node" } else { &host };
    format!("{host}-{}", std::process::id())
}
