//! The command line: flags, subcommands, help and exit codes.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::builder::StyledStr;
use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::config::LogFormat;
use crate::telemetry;

/// Exit code for a command line or configuration that cannot be used (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;
/// Exit code of `doctor` where no server can be reached (`EX_UNAVAILABLE`).
pub const EXIT_UNAVAILABLE: u8 = 69;
/// Exit code for a failure while running, such as a port in use.
pub const EXIT_FAILURE: u8 = 1;

const AFTER_HELP: &str = "\
Examples:
  Try it: no Redis, a demo page at http://127.0.0.1:8080/
    sse-gateway
  Two nodes that share a Redis
    sse-gateway --redis redis://127.0.0.1:6379 --listen 127.0.0.1:8081
    sse-gateway --redis redis://127.0.0.1:6379 --listen 127.0.0.1:8082
  Watch a room, and publish to it
    curl -N http://127.0.0.1:8080/rooms/demo/events
    curl -d '{\"event\":\"chat\",\"data\":\"hi\"}' http://127.0.0.1:8080/rooms/demo/events
  See every setting with its value
    sse-gateway print-config

Every setting can also stand in a TOML file (--config) or in the environment: redis.url is
SSE_REDIS__URL. A flag wins over the environment, the environment over the file.

Exit codes:
  0   stopped in order, by SIGTERM or SIGINT
  1   failed while running, such as a port in use
  64  the command line or the configuration cannot be used";

const DOCTOR_HELP: &str = "\
Examples:
  One server
    sse-gateway doctor --redis redis://127.0.0.1:6379
  A deployment with sentinels, with the password of the environment
    SSE_REDIS__PASSWORD_FILE=/run/secrets/redis sse-gateway doctor --redis redis+sentinel://a,b,c/mymaster
  What the gateway of this machine uses
    sse-gateway doctor --config /etc/sse-gateway/config.toml
  Only what has to be changed
    sse-gateway doctor --json | jq -r '.[] | select(.level == \"problem\") | .server + \" \" + .do'

Exit codes:
  0   no problem; there may be warnings
  1   there is a problem
  64  the command line or the configuration cannot be used
  69  no server can be reached";

/// Holds browser EventSource streams, grouped by room, and feeds them from Redis.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "sse-gateway", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// TOML file with settings; an unknown key in it is an error
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port for clients [default: 127.0.0.1:8080]
    #[arg(long, global = true, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address and port for /metrics, /livez and /readyz [default: as --listen, port + 1000]
    #[arg(long, global = true, value_name = "ADDR")]
    pub admin_listen: Option<SocketAddr>,
    /// Redis to share with other nodes, such as redis://127.0.0.1:6379 [default: none]
    ///
    /// Without it, events live in this process only. A password on a command line can be read by
    /// every user of the machine: SSE_REDIS__URL is a better place.
    #[arg(long, global = true, value_name = "URL")]
    pub redis: Option<String>,
    /// Name of this node, shown to clients [default: host name and process id]
    #[arg(long, global = true, value_name = "NAME")]
    pub node: Option<String>,
    /// Worker threads [default: one for each core]
    #[arg(long, global = true, value_name = "N")]
    pub shards: Option<usize>,
    /// Serve every path below this one, such as /live [default: none]
    #[arg(long, global = true, value_name = "PATH")]
    pub path_prefix: Option<String>,
    /// Key that may publish over HTTP, as `Authorization: Bearer KEY`; may be repeated
    #[arg(long, global = true, value_name = "KEY")]
    pub publish_key: Vec<String>,
    /// Development mode wherever it listens: anyone may publish, demo page at /
    ///
    /// On by itself on a loopback address without Redis and without publish keys.
    #[arg(long, global = true)]
    pub dev: bool,
    /// Level or filter: error, warn, info, debug, trace, or info,gateway::broker=debug
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log: Option<String>,
    /// How log lines look; auto is text on a terminal, JSON otherwise
    #[arg(long, global = true, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be done instead of serving.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Check the configuration and exit: 0 if it can be used, 64 if not
    ///
    /// Says who may subscribe, publish and operate with it.
    CheckConfig,
    /// Print the whole configuration as TOML, with secrets hidden
    PrintConfig,
    /// Ask a gateway that runs on this machine whether it lives: 0 if it does, 1 if not
    ///
    /// Takes the admin address from the same configuration as the gateway.
    Healthcheck {
        /// Ask whether it is ready for clients instead
        #[arg(long)]
        ready: bool,
    },
    /// Check the Redis behind a deployment, and say in plain words what to change
    ///
    /// Takes redis.url, users and certificates from the same configuration as the gateway, asks
    /// every server that they lead to, and changes nothing. One line for each check: how much it
    /// matters (ok, note, warning, problem), what is so, and what to do.
    #[command(after_help = DOCTOR_HELP)]
    Doctor {
        /// Print an array of objects with server, check, level, says and do
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script
    #[command(
        after_help = "Example:\n  sse-gateway completions bash > ~/.local/share/bash-completion/completions/sse-gateway"
    )]
    Completions {
        /// The shell to complete in
        shell: Shell,
    },
    /// Write man pages, one for the program and one for each subcommand
    #[command(hide = true)]
    Man {
        /// The directory to write them to
        directory: PathBuf,
    },
}

/// A command line that does not lead to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Help or the version was asked for: print it to standard output, exit code 0.
    Shown(String),
    /// It cannot be used: one sentence for standard error, exit code 64.
    Usage(String),
}

impl Cli {
    /// Reads a command line, the program's name included.
    ///
    /// # Errors
    ///
    /// [`Stop`] says what to print and how to exit.
    pub fn read<I>(args: I) -> Result<Self, Stop>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        Self::try_parse_from(args).map_err(|error| {
            if error.use_stderr() {
                Stop::Usage(sentence(&error.to_string()))
            } else {
                Stop::Shown(shown(&error.render()))
            }
        })
    }
}

/// With colours for a terminal, without for a pipe or a file.
fn shown(text: &StyledStr) -> String {
    if std::io::stdout().is_terminal() && !telemetry::no_color() {
        text.ansi().to_string()
    } else {
        text.to_string()
    }
}

/// clap explains in paragraphs; scripts and logs want one sentence.
fn sentence(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let parts: Vec<&str> = text
        .split("\n\n")
        .filter(|part| !part.starts_with("Usage:") && !part.starts_with("For more information"))
        .collect();
    let joined = parts.join("; ");
    let words: Vec<&str> = joined.split_whitespace().collect();
    format!("{} (see sse-gateway --help)", words.join(" "))
}

/// A completion script for a shell.
#[must_use]
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    let mut command = <Cli as clap::CommandFactory>::command();
    clap_complete::generate(shell, &mut command, "sse-gateway", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes the man pages into a directory.
///
/// # Errors
/// What the system says.
pub fn man_pages(directory: &Path) -> std::io::Result<()> {
    clap_mangen::generate_to(<Cli as clap::CommandFactory>::command(), directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Cli, Stop> {
        Cli::read([&["sse-gateway"], args].concat())
    }

    #[test]
    fn definition_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_before_and_after_a_subcommand() {
        for args in [
            ["--node", "a", "check-config"],
            ["check-config", "--node", "a"],
        ] {
            let cli = read(&args).unwrap();
            assert_eq!(cli.node.as_deref(), Some("a"));
            assert!(matches!(cli.command, Some(Command::CheckConfig)));
        }
    }

    #[test]
    fn usage_errors_are_one_sentence() {
        for (args, part) in [
            (&["--lisen", "x"][..], "--lisen"),
            (&["--listen", "8080"], "invalid socket address"),
            (&["--log-format", "xml"], "xml"),
            (&["serve"], "serve"),
            (&["--node"], "--node"),
            (&["completions"], "SHELL"),
        ] {
            let Err(Stop::Usage(sentence)) = read(args) else {
                panic!("{args:?} must be refused");
            };
            assert!(sentence.contains(part), "{sentence}");
            assert!(
                !sentence.contains('\n') && !sentence.starts_with("error"),
                "{sentence}"
            );
            assert!(sentence.ends_with("(see sse-gateway --help)"), "{sentence}");
        }
    }

    #[test]
    fn help_teaches_examples_and_exit_codes() {
        let Err(Stop::Shown(help)) = read(&["--help"]) else {
            panic!("help is shown");
        };
        for part in ["Examples:", "Exit codes:", "SSE_REDIS__URL", "print-config"] {
            assert!(help.contains(part), "{part}");
        }
    }

    #[test]
    fn completions_name_the_flags() {
        assert!(completions(Shell::Bash).contains("--path-prefix"));
    }

    #[test]
    fn each_subcommand_has_a_man_page() {
        let directory = tempfile::tempdir().unwrap();
        man_pages(directory.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(page("sse-gateway.1").contains("path\\-prefix"));
        assert!(page("sse-gateway-healthcheck.1").contains("ready"));
        assert!(!directory.path().join("sse-gateway-man.1").exists());
    }
}
