//! The command line: flags, subcommands, help and exit codes.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use protocol::RoomName;

mod disconnect;
mod replicas;
mod server;
mod tls;
mod token;

pub use disconnect::Disconnect;
pub use replicas::Replicas;
pub use server::Server;
pub use tls::Tls;
pub use token::{Explain, Make, Token};

const AFTER_HELP: &str = "\
Examples:
  One event
    sse-publish demo --event chat --data '{\"m\":\"hi\"}'
  One event per line of text, at most 100 a second
    tail -f app.log | sse-publish logs --event line --rate 100
  One event per JSON object, and an object with the id of each on standard output
    printf '%s\\n' '{\"event\":\"chat\",\"data\":{\"m\":\"hi\"}}' | sse-publish demo --json
  Through a gateway instead of Redis
    SSE_PUBLISH_KEY=secret sse-publish demo --url http://127.0.0.1:8080 --data hi
    sse-publish demo --url https://events.internal --ca-file ca.pem --cert-file publisher.pem \\
      --key-file publisher.key --data hi

A JSON line is {\"event\": NAME, \"data\": TEXT OR ANY JSON, \"room\": ROOM, \"idempotency_key\": KEY};
only data is required. Publishing stops at the first line that is refused; what came before it is published.

  Until a replica of Redis has it
    sse-publish orders --replicas 1 --data 17

Redis: redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], redis+unix:///PATH;
redis+sentinel://[USER:PASSWORD@]SENTINEL[:PORT],SENTINEL[:PORT]/PRIMARY[/DATABASE];
redis+cluster://[USER:PASSWORD@]NODE[:PORT],NODE[:PORT]; with TLS rediss://, rediss+sentinel:// and
rediss+cluster://. Certificates and passwords in files are read again for each connection.

Environment: SSE_REDIS__URL, SSE_REDIS__PREFIX, SSE_REDIS__PASSWORD_FILE, SSE_REDIS__CA_FILE,
SSE_REDIS__CERT_FILE, SSE_REDIS__KEY_FILE, SSE_REDIS__SENTINEL_USER, SSE_REDIS__SENTINEL_PASSWORD,
SSE_REDIS__SENTINEL_PASSWORD_FILE and SSE_PUBLISH_KEY stand for --redis, --prefix, --redis-password-file
and so on, and --key (a password on a command line can be read by every user of the machine); NO_COLOR.
TRACEPARENT names the trace that the events belong to. OTEL_EXPORTER_OTLP_ENDPOINT, such as
http://127.0.0.1:4317, and the other OTEL_ variables export a span for each event.

Exit codes:
  0   everything was published
  1   another failure, such as a key of the wrong type under the room's name
  64  bad usage, or an event was refused
  69  the server was not available, also after retries; or an event is stored, and fewer
      than --replicas have it
  77  not permitted
  130 interrupted; how many were published is said";

/// Publishes events to the rooms of sse-gateway, through Redis or HTTP.
///
/// A lost connection is retried with the same idempotency keys, so that a retry never doubles an event.
#[derive(Debug, Parser)]
#[command(
    name = "sse-publish",
    version,
    after_help = AFTER_HELP,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What and where to publish.
    #[command(flatten)]
    pub publish: Publish,
    /// What to do instead of publishing.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be done instead of publishing.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load the publish function into Redis, and turn on the notifications that gateways need
    ///
    /// Never replaces a later version of the library. Gateways do the same when they connect.
    Load(Load),
    /// Make JSON Web Tokens that open rooms, and explain them
    #[command(subcommand, disable_help_subcommand = true)]
    Token(Token),
    /// Close the streams of a user or a room on all gateways
    ///
    /// Tokens that were issued before no longer count; in rooms that anyone may subscribe to, clients come back. Prints the
    /// id of the order. With redis-cli: XADD sse:disconnects MAXLEN '~' 100000 '*' user ann
    #[command(
        after_help = "Examples:\n  sse-publish disconnect --user ann\n  sse-publish disconnect --room chat:1 --url http://127.0.0.1:9080"
    )]
    Disconnect(Disconnect),
    /// Print a completion script
    #[command(
        after_help = "Example:\n  sse-publish completions bash > ~/.local/share/bash-completion/completions/sse-publish"
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

/// Flags of `load`.
#[derive(Debug, Args)]
pub struct Load {
    /// Where.
    #[command(flatten)]
    pub server: Server,
}

/// What a line of standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON if it begins with {, else text; blank lines are skipped
    Auto,
    /// A JSON object; blank lines are skipped
    Json,
    /// The data itself; a blank line is an event without data
    Text,
}

/// Flags for publishing.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("to").args(["room", "room_flag"]).required(true)))]
pub struct Publish {
    /// Room to publish in, unless a JSON line names another
    #[arg(value_name = "ROOM", value_parser = room)]
    pub room: Option<RoomName>,
    /// The same, for a room that is named like a subcommand
    #[arg(long = "room", id = "room_flag", value_name = "ROOM", value_parser = room)]
    pub room_flag: Option<RoomName>,
    /// Name of the event, or of those from standard input that have none
    #[arg(short, long, value_name = "NAME")]
    pub event: Option<String>,
    /// Data of the one event to publish; without it, events are read from standard input
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub data: Option<String>,
    /// What a line of standard input is
    #[arg(long, value_enum, default_value_t = Format::Auto, conflicts_with = "data")]
    pub format: Format,
    /// Publish at most this many events a second
    #[arg(long, value_name = "N", conflicts_with = "data")]
    pub rate: Option<NonZeroU32>,
    /// A repeat of this key within five minutes stores nothing [default: random]
    ///
    /// Events from standard input that have no key of their own get KEY:LINE, so that a whole input
    /// can be repeated.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Print a JSON object for each event: {"room","id","repeat"}, with "replicas" if they are waited for, and {"error"} if it fails
    #[arg(long)]
    pub json: bool,
    /// Deliver to whoever is there and store nothing; not retried once it is on its way
    ///
    /// It is a PUBLISH, and in a cluster an SPUBLISH: gateways hear shard channels there, which a plain PUBLISH does
    /// not reach.
    #[arg(long, conflicts_with_all = ["idempotency_key", "max_len", "max_age", "expire", "replicas"])]
    pub ephemeral: bool,
    /// Where Redis is.
    #[command(flatten)]
    pub server: Server,
    /// Publish through a gateway at this address, such as http://127.0.0.1:8080 or https://gateway:8443, instead of Redis
    #[arg(long, value_name = "URL", conflicts_with_all = ["redis", "prefix", "redis_password_file", "redis_ca_file", "redis_cert_file", "redis_key_file", "sentinel_user", "sentinel_password_file"])]
    pub url: Option<String>,
    /// Key that may publish through the gateway
    #[arg(long, value_name = "KEY", requires = "url")]
    pub key: Option<String>,
    /// How to trust it, and what to show to it.
    #[command(flatten)]
    pub tls: Tls,
    /// Wait until this many replicas of Redis have each event, and fail if fewer do
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=16))]
    pub replicas: Option<u64>,
    /// How long to wait for them, from 1ms to 10s
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "replicas", value_parser = wait)]
    pub replica_timeout: Duration,
    /// Events to keep in the room, roughly; 0 keeps all [default: 1000, or what the gateway says]
    #[arg(long, value_name = "N")]
    pub max_len: Option<u64>,
    /// How long to keep events, roughly; 0s is for ever [default: 0s, or what the gateway says]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_age: Option<Duration>,
    /// How long an idle room is kept; 0s is for ever [default: 1d, or what the gateway says]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub expire: Option<Duration>,
    /// What Redis keys and channels begin with [default: sse:]
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// The most bytes of data
    #[arg(long, value_name = "BYTES", default_value_t = protocol::event::DEFAULT_MAX_EVENT_BYTES)]
    pub max_bytes: usize,
}

impl Publish {
    /// The prefix: the flag, else the environment, else the default.
    #[must_use]
    pub fn prefix(&self) -> String {
        let from_environment = || variable("SSE_REDIS__PREFIX");
        let prefix = self.prefix.clone().or_else(from_environment);
        prefix.unwrap_or_else(|| protocol::keys::DEFAULT_PREFIX.into())
    }

    /// Whether to wait for replicas.
    #[must_use]
    pub fn replicas(&self) -> Option<Replicas> {
        self.replicas.map(|replicas| Replicas {
            replicas,
            timeout: self.replica_timeout,
        })
    }

    /// The key for the gateway: the flag, else the environment.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        self.key.clone().or_else(|| variable("SSE_PUBLISH_KEY"))
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn room(text: &str) -> Result<RoomName, protocol::RoomNameError> {
    RoomName::parse(text)
}

/// `500ms`, `30s`, `5m`, `2h`, `1d`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == "0" => 0,
        _ => return Err("a time is a number with ms, s, m, h or d, such as 30s".into()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "a time is a number with ms, s, m, h or d, such as 30s")?;
    let millis = number.checked_mul(millis).ok_or("this is too long")?;
    Ok(Duration::from_millis(millis))
}

/// A time that a server may wait.
fn wait(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(1)..=Duration::from_secs(10);
    let wait = duration(text)?;
    match range.contains(&wait) {
        true => Ok(wait),
        false => Err("it is from 1ms to 10s".into()),
    }
}

/// A command line that does not lead to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Help or the version was asked for: print it, exit code 0.
    Shown(String),
    /// It cannot be used: one sentence, exit code 64.
    Usage(String),
}

impl Cli {
    /// Reads a command line, the program's name included.
    ///
    /// # Errors
    /// [`Stop`] says what to print and how to exit.
    pub fn read<I>(args: I) -> Result<Self, Stop>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        Self::try_parse_from(args).map_err(|error| {
            if error.use_stderr() {
                return Stop::Usage(sentence(&error.to_string()));
            }
            let text = error.render();
            Stop::Shown(if std::io::stdout().is_terminal() && !no_color() {
                text.ansi().to_string()
            } else {
                text.to_string()
            })
        })
    }
}

/// Whether colours are unwanted, by <https://no-color.org>.
#[must_use]
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
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
    format!("{} (see sse-publish --help)", words.join(" "))
}

/// A completion script for a shell.
#[must_use]
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    let mut command = <Cli as clap::CommandFactory>::command();
    clap_complete::generate(shell, &mut command, "sse-publish", &mut script);
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
        Cli::read([&["sse-publish"], args].concat())
    }

    #[test]
    fn a_room_is_needed_and_may_be_named_like_a_subcommand() {
        assert!(matches!(read(&[]), Err(Stop::Usage(_))));
        assert!(read(&["demo"]).unwrap().publish.room.is_some());
        assert!(read(&["--room", "load"]).unwrap().command.is_none());
        assert!(matches!(
            read(&["load"]).unwrap().command,
            Some(Command::Load(_))
        ));
        assert!(matches!(read(&["demo", "load"]), Err(Stop::Usage(_))));
        assert!(matches!(read(&["a b"]), Err(Stop::Usage(text)) if text.contains("letters")));
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for args in [
            &["r", "--ephemeral", "--idempotency-key", "k"][..],
            &["r", "--url", "http://h", "--redis", "redis://h"],
            &["r", "--url", "http://h", "--redis-ca-file", "ca.pem"],
            &["r", "--ephemeral", "--replicas", "1"],
            &["r", "--replicas", "17"],
            &["r", "--replica-timeout", "1s"],
            &["r", "--replicas", "1", "--replica-timeout", "11s"],
            &["r", "--key", "k"],
            &["r", "--ca-file", "ca.pem"],
            &["r", "--url", "https://h", "--cert-file", "c.pem"],
            &["r", "--url", "https://h", "--key-file", "c.key"],
            &["r", "--data", "x", "--rate", "1"],
            &["r", "--rate", "0"],
            &["r", "--room", "s"],
        ] {
            assert!(matches!(read(args), Err(Stop::Usage(_))), "{args:?}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in ["", "s", "5", "-1s", "1.5s", "5 s", "99999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn help_names_the_exit_codes_and_completions_the_flags() {
        let Err(Stop::Shown(help)) = read(&["--help"]) else {
            panic!("no help");
        };
        assert!(help.contains("69"));
        assert!(completions(Shell::Bash).contains("--max-age"));
        for (command, part) in [("make", "openssl"), ("explain", "77")] {
            let Err(Stop::Shown(help)) = read(&["token", command, "--help"]) else {
                panic!("no help");
            };
            assert!(
                help.contains(part) && help.contains("Exit codes:"),
                "{help}"
            );
        }
        assert!(completions(Shell::Bash).contains("--subscribe"));
    }
}
