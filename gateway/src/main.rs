//! The gateway as a program.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use gateway::app::{self, Listeners};
use gateway::cli::{self, Cli, Command, EXIT_FAILURE, EXIT_UNAVAILABLE, EXIT_USAGE, Stop};
use gateway::config::{self, Config, Loaded, LogFormat};
use gateway::reload::Reload;
use gateway::trace::{self, Traces};
use gateway::{banner, doctor, healthcheck, telemetry};

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Stop::Shown(text)) => return print(&text),
        Err(Stop::Usage(sentence)) => return fail(EXIT_USAGE, &sentence),
    };
    match &cli.command {
        Some(Command::Completions { shell }) => return print(&cli::completions(*shell)),
        Some(Command::Man { directory }) => {
            return match cli::man_pages(directory) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(EXIT_FAILURE, &format!("{}: {error}", directory.display())),
            };
        }
        _ => {}
    }
    let Loaded { config, warnings } = match config::load(&cli, variables()) {
        Ok(loaded) => loaded,
        Err(error) => return fail(EXIT_USAGE, &error.to_string()),
    };
    match cli.command {
        Some(Command::PrintConfig) => return print(&config::print(&config)),
        Some(Command::CheckConfig) => {
            if let Err(sentence) = check_files(&config) {
                return fail(EXIT_USAGE, &sentence);
            }
            warnings
                .iter()
                .for_each(|warning| eprintln!("warning: {warning}"));
            let mut said = "the configuration can be used\n".to_owned();
            for exposure in config::exposure(&config) {
                said += &format!("  {}: {}\n", exposure.what, exposure.who);
            }
            return print(&said);
        }
        Some(Command::Healthcheck { ready }) => {
            let path = if ready { "/readyz" } else { "/livez" };
            let cert = &config.admin.cert_file;
            let cert = (!cert.is_empty()).then(|| std::path::Path::new(cert));
            return match healthcheck::ask(config.admin_addr(), path, cert) {
                Ok(answer) => print(&format!("{}\n", answer.trim())),
                Err(sentence) => fail(EXIT_FAILURE, &sentence),
            };
        }
        Some(Command::Doctor { json }) => return examine(&config, json),
        Some(Command::Completions { .. } | Command::Man { .. }) | None => {}
    }
    if let Err(sentence) = check_files(&config) {
        return fail(EXIT_USAGE, &sentence);
    }
    let log = match telemetry::init(&config.log.level, config.log.format) {
        Ok(log) => log,
        Err(error) => return fail(EXIT_USAGE, &error.to_string()),
    };
    warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    let json = telemetry::is_json(config.log.format);
    let load = Box::new(move || config::load(&cli, variables()));
    let reload = Reload::new(load, log, config.clone());
    match serve(config, reload) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => give_up(json, &format!("{error:#}")),
    }
}

/// Takes the addresses, then runs until the node is told to stop.
fn serve(config: Config, reload: Reload) -> anyhow::Result<()> {
    let listeners = Listeners::bind(&config)?;
    let banner = banner::text(
        &config,
        listeners.clients.local_addr()?,
        listeners.admin.local_addr()?,
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    let shown = is_read_by_people(config.log.format);
    let started = || {
        if shown {
            show(&banner);
        }
    };
    runtime.block_on(async {
        let otlp = trace::export(&config.node);
        let traces = Traces::new(otlp.as_ref());
        let done = app::run(config, listeners, reload, traces, started).await;
        if let Some(otlp) = otlp {
            trace::finish(otlp).await;
        }
        done
    })
}

/// Prints what the doctor finds.
fn examine(config: &Config, json: bool) -> ExitCode {
    if config.redis.url.is_empty() {
        let sentence = "there is no Redis to check: say which one with --redis URL, SSE_REDIS__URL or redis.url";
        return fail(EXIT_USAGE, sentence);
    }
    let servers = match config.redis.servers() {
        Ok(servers) => servers,
        Err(error) => return fail(EXIT_USAGE, &format!("redis.url cannot be used: {error}")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let report = match runtime {
        Ok(runtime) => runtime.block_on(doctor::examine(config, servers)),
        Err(error) => return fail(EXIT_FAILURE, &format!("the runtime cannot start: {error}")),
    };
    let colour = std::io::stdout().is_terminal() && !telemetry::no_color();
    show(&if json {
        report.json()
    } else {
        report.text(colour)
    });
    match (report.is_unreachable(), report.has_problems()) {
        (true, _) => ExitCode::from(EXIT_UNAVAILABLE),
        (false, true) => ExitCode::from(EXIT_FAILURE),
        (false, false) => ExitCode::SUCCESS,
    }
}

/// Programs that read the log find the same in it, as fields.
fn is_read_by_people(format: LogFormat) -> bool {
    let terminal = format == LogFormat::Auto && std::io::stdout().is_terminal();
    terminal || !telemetry::is_json(format)
}

/// Variables that are not text are nobody's settings.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Looks whether the files that settings name can be used; what is wrong is one sentence.
fn check_files(config: &Config) -> Result<(), String> {
    config::check_files(config).map_err(|error| error.to_string())?;
    app::check_certificates(config).map_err(|error| error.to_string())
}

fn print(text: &str) -> ExitCode {
    show(text);
    ExitCode::SUCCESS
}

/// A closed standard output is no reason to fail.
fn show(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The end of a node that had begun to log.
fn give_up(json: bool, sentence: &str) -> ExitCode {
    if json && tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!("{sentence}");
        return ExitCode::from(EXIT_FAILURE);
    }
    fail(EXIT_FAILURE, sentence)
}

fn fail(code: u8, sentence: &str) -> ExitCode {
    eprintln!("sse-gateway: {sentence}");
    ExitCode::from(code)
}
