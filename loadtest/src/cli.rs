//! The command line: subcommands, flags, help.

mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::plan::{Churn, Spread};
use crate::serve::Serve;
use crate::tls::Tls;
use values::{HttpUrl, bytes, duration, header, per_second, share, spread};

const AFTER_HELP: &str = "\
Examples:
  How does this gateway do with ten thousand streams?
    sse-gateway --dev &
    sse-loadtest run --url http://127.0.0.1:8080 --connections 10000 --rooms 100 --rate 200 --duration 60s --pid $!
  The same over two nodes, published straight to Redis, with a page for a design review
    sse-loadtest run --url http://127.0.0.1:8081,http://127.0.0.1:8082 --redis redis://127.0.0.1:6379 \\
      --connections 10000 --rooms 1000 --rate 1000 --html report.html
  What happens when everybody loses the connection at once?
    sse-loadtest storm --url http://127.0.0.1:8080 --redis redis://127.0.0.1:6379 --connections 18000 --spread-over 10s
  Over TLS, with a hundred streams on each connection, and a token for each client
    sse-loadtest run --url https://127.0.0.1:8443 --ca-file cert.pem --http2 100 \\
      --tokens tokens.txt --header 'Cookie: sse_token={token}' --publish-key KEY
  Against other systems, on this machine
    sse-loadtest compare --systems gateway,floor,plain,nchan --rounds 5 --html compare.html

Every run checks what each client received. Exit codes:
  0   every client got every event once and in order
  1   events were lost, repeated, reordered or garbled, clients were turned away for good, or no event was accepted
  2   the run could not take place: the server, Redis or a program is not there
  64  bad usage";

/// Puts load on event-stream servers, checks every delivery, and compares.
#[derive(Debug, Parser)]
#[command(name = "sse-loadtest", version, after_help = AFTER_HELP, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Opens streams, publishes at a rate, and reports latency, throughput and cost.
    Run(Run),
    /// Cuts all streams at once, or kills a node, and reports how the clients come back.
    Storm(Storm),
    /// The same as a run, for hours: rates, memory and descriptors over time.
    Soak(Run),
    /// Puts the same load on several systems in turn, in rounds, and reports ratios.
    Compare(Compare),
    /// Prints a completion script for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Writes man pages, one for the program and one for each subcommand.
    #[command(hide = true)]
    Man {
        /// The directory to write them to.
        directory: PathBuf,
    },
    /// A server to compare with.
    #[command(hide = true)]
    Serve(Serve),
    /// Some of the clients of a run; started by the other commands.
    #[command(hide = true)]
    Worker,
}

/// The load, and where it goes.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Gateways; clients are spread over them, and pass over one that refuses connections. A path is a prefix: http://HOST:PORT/prefix
    #[arg(long, value_name = "URL", required = true, value_delimiter = ',')]
    pub url: Vec<String>,
    /// PEM certificates that sign those of the gateways, or are theirs, for https:// [default: the ones of the system]
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Event streams to hold open; 0 only publishes
    #[arg(long, short = 'c', default_value_t = 1_000)]
    pub connections: u64,
    /// Rooms; events go to each in turn
    #[arg(long, short = 'r', default_value_t = 1)]
    pub rooms: u32,
    /// How clients spread over rooms: even, zipf, or hot:SHARE for a share of all in one room
    #[arg(long, default_value = "even", value_parser = spread)]
    pub spread: Spread,
    /// Events published per second, over all rooms
    #[arg(long, default_value_t = 10.0)]
    pub rate: f64,
    /// How long events are published
    #[arg(long, short = 'd', default_value = "30s", value_parser = duration)]
    pub duration: Duration,
    /// Bytes of data of an event
    #[arg(long, default_value = "200", value_parser = bytes)]
    pub size: usize,
    /// Takes the lines of a file as data instead, in turn
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
    /// How events are published [default: function with --redis, http without]
    #[arg(long, value_enum)]
    pub publish: Option<PublishPath>,
    /// The Redis that events are published to, and whose commands and CPU are counted
    #[arg(
        long,
        value_name = "URL",
        env = "SSE_REDIS__URL",
        hide_env_values = true
    )]
    pub redis: Option<String>,
    /// The key for publishing over HTTP
    #[arg(
        long,
        value_name = "KEY",
        env = "SSE_PUBLISH_KEY",
        hide_env_values = true
    )]
    pub publish_key: Option<String>,
    /// Speaks HTTP/2, with so many streams on each connection; without TLS by prior knowledge [default: HTTP/1.1, a
    /// connection for each stream]
    #[arg(long, value_name = "STREAMS", value_parser = clap::value_parser!(u32).range(1..))]
    pub http2: Option<u32>,
    /// Tokens of clients, one a line: each shows that of its number, from the first again after the last. Sent as
    /// `Authorization: Bearer`, unless a header has {token}
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// A header of each subscription, such as 'Cookie: sse_token={token}'; {room} is the room, {token} the client's token
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub header: Vec<(String, String)>,
    /// Connections to publish on; a room's events all take the same one
    #[arg(long, default_value_t = 8)]
    pub publish_connections: usize,
    /// Events to keep in each room's stream
    #[arg(long, value_name = "N")]
    pub keep: Option<u64>,
    /// Streams opened per second; 0 for as fast as they are answered
    #[arg(long, default_value_t = 0.0)]
    pub connect_rate: f64,
    /// Connections that a worker may have under way at once
    #[arg(long, default_value_t = 256)]
    pub connect_window: u64,
    /// How long to wait until all streams are open
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// How long clients may take to get everything after the last event
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub patience: Duration,
    /// Clients that leave per second; each comes back with its Last-Event-ID
    #[arg(long, value_name = "N/s", value_parser = per_second)]
    pub churn: Option<f64>,
    /// How long one that left stays away
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub away: Duration,
    /// Clients that stop reading once their stream is open: a number, or a share such as 1%
    #[arg(long, default_value = "0", value_parser = share)]
    pub stalled: Share,
    /// Clients that read slowly: a number, or a share such as 5%
    #[arg(long, default_value = "0", value_parser = share)]
    pub slow: Share,
    /// Bytes per second that a slow client reads
    #[arg(long, default_value = "1K", value_parser = bytes)]
    pub slow_rate: usize,
    /// Room names are this and a number [default: load- and a random word, so that runs do not meet]
    #[arg(long, value_name = "TEXT")]
    pub room_prefix: Option<String>,
    /// Worker processes [default: as many as the descriptors of one process ask for]
    #[arg(long)]
    pub workers: Option<u64>,
    /// Addresses to connect from [default: several of 127.0.0.0/8 where one port of this machine gets more
    /// connections than one address has ports]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub source: Vec<IpAddr>,
    /// Processes of the server, for its CPU and memory
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    /// The core that this tool runs on
    #[arg(long, value_name = "N")]
    pub tool_cpu: Option<usize>,
    /// Where the report goes
    #[command(flatten)]
    pub output: Output,
}

/// How events are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PublishPath {
    /// The publish function in Redis.
    Function,
    /// A plain XADD.
    Xadd,
    /// The gateway's HTTP endpoint.
    Http,
}

/// A number of clients, or a share of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    /// So many.
    Count(u64),
    /// This share of all, 0 to 1.
    Part(f64),
}

impl Share {
    /// How many that are of `all`.
    #[must_use]
    pub fn of(self, all: u64) -> u64 {
        match self {
            Self::Count(count) => count.min(all),
            Self::Part(part) => (all as f64 * part).round() as u64,
        }
    }
}

/// Where the report goes.
#[derive(Debug, Clone, Default, Args)]
pub struct Output {
    /// Writes the report as JSON; to standard output, in place of the summary, without a FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
    /// Writes the report as a page of its own with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Shows no progress
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// Where the load goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateways {
    /// Their addresses.
    pub addresses: Vec<SocketAddr>,
    /// What their paths begin with.
    pub prefix: String,
    /// How they are spoken to; `None` without TLS.
    pub tls: Option<Tls>,
}

/// `run` and `soak`.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `storm`.
#[derive(Debug, Clone, Args)]
pub struct Storm {
    /// The load; events flow at its rate before, while and after the clients come back.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The time over which the clients come back, each at a moment of its own
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub spread_over: Duration,
    /// Kills this process first; its clients come back as browsers do, to the other URLs
    #[arg(long, value_name = "PID")]
    pub kill: Vec<u32>,
    /// With --kill: does not cut all streams afterwards
    #[arg(long, requires = "kill")]
    pub no_cut: bool,
}

/// `compare`.
#[derive(Debug, Clone, Args)]
pub struct Compare {
    /// Systems to compare, the first one to the others [default: gateway,floor,plain]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub systems: Vec<String>,
    /// A system of your own (a TOML file), or the program of a known one: NAME=PATH
    #[arg(long, value_name = "FILE|NAME=PATH")]
    pub peer: Vec<String>,
    /// Loads to put on them [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub loads: Vec<String>,
    /// How often each system is measured
    #[arg(long, default_value_t = 5)]
    pub rounds: u64,
    /// A tenth of the clients and of the time: to see whether everything works
    #[arg(long)]
    pub quick: bool,
    /// The core that servers run on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub server_cpu: usize,
    /// The core that this tool and Redis run on
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub tool_cpu: usize,
    /// The gateway's program [default: sse-gateway beside this one, or in PATH]
    #[arg(long, value_name = "PATH")]
    pub gateway: Option<PathBuf>,
    /// A redis-server to start for the loads that need one
    #[arg(long, value_name = "PATH", default_value = "redis-server")]
    pub redis_server: PathBuf,
    /// Where the report goes.
    #[command(flatten)]
    pub output: Output,
}

impl LoadArgs {
    /// The gateways of the URLs.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn gateways(&self) -> Result<Gateways, String> {
        let (mut addresses, mut common) = (Vec::new(), None);
        for text in &self.url {
            let HttpUrl {
                address,
                path,
                secure,
            } = values::http_url(text)?;
            let (prefix, host) = common.get_or_insert_with(|| (path.clone(), secure.clone()));
            if *prefix != path {
                return Err("all URLs need the same path prefix".to_owned());
            }
            if *host != secure {
                return Err("all URLs need the same host where they are https://".to_owned());
            }
            addresses.push(address);
        }
        let (prefix, host) = common.unwrap_or_default();
        Ok(Gateways {
            addresses,
            prefix,
            tls: host.map(|name| Tls {
                name,
                ca_file: self.ca_file.clone(),
            }),
        })
    }

    /// Clients that leave and return.
    #[must_use]
    pub fn churn(&self) -> Option<Churn> {
        self.churn.map(|per_second| Churn {
            per_second,
            away_ms: self.away.as_millis() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_run_is_read() {
        let cli = Cli::try_parse_from([
            "sse-loadtest",
            "run",
            "--url",
            "http://127.0.0.1:8081/x,http://127.0.0.1:8082/x/",
            "-c",
            "10",
            "--spread",
            "hot:0.5",
            "--duration",
            "1m",
            "--stalled",
            "3",
            "--slow",
            "10%",
            "--json",
            "--churn",
            "5/s",
        ]);
        let Command::Run(run) = cli.unwrap().command else {
            panic!("not a run")
        };
        let load = run.load;
        let gateways = load.gateways().unwrap();
        assert_eq!(
            (gateways.addresses.len(), gateways.prefix.as_str()),
            (2, "/x")
        );
        assert_eq!(gateways.tls, None);
        assert_eq!((load.stalled.of(10), load.slow.of(10)), (3, 1));
        assert_eq!(load.duration, Duration::from_secs(60));
        assert_eq!(load.churn().unwrap().per_second, 5.0);
        assert_eq!(load.output.json, Some(PathBuf::from("-")));
    }
}
