//! The gateway as a program.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use gateway::app::{self, Listeners};
use gateway::cli::{self, Cli, Command, EXIT_FAILURE, EXIT_USAGE, Stop};
use gateway::config::{self, Config, Loaded};
use gateway::reload::Reload;
use gateway::trace::{self, Traces};
use gateway::{banner, healthcheck, telemetry};

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
            warnings
                .iter()
                .for_each(|warning| eprintln!("warning: {warning}"));
            return print("the configuration can be used\n");
        }
        Some(Command::Healthcheck { ready }) => {
            let path = if ready { "/readyz" } else { "/livez" };
            return match healthcheck::ask(config.admin_addr(), path) {
                Ok(answer) => print(&format!("{}\n", answer.trim())),
                Err(sentence) => fail(EXIT_FAILURE, &sentence),
            };
        }
        Some(Command::Completions { .. } | Command::Man { .. }) | None => {}
    }
    let log = match telemetry::init(&config.log.level, config.log.format) {
        Ok(log) => log,
        Err(error) => return fail(EXIT_USAGE, &error.to_string()),
    };
    warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    let load = Box::new(move || config::load(&cli, variables()));
    let reload = Reload::new(load, log, config.clone());
    match serve(config, reload) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILURE, &format!("{error:#}")),
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
    runtime.block_on(async {
        let otlp = trace::export(&config.node);
        let traces = Traces::new(otlp.as_ref());
        let done = app::run(config, listeners, reload, traces, || show(&banner)).await;
        if let Some(otlp) = otlp {
            trace::finish(otlp).await;
        }
        done
    })
}

/// Variables that are not text are nobody's settings.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
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

fn fail(code: u8, sentence: &str) -> ExitCode {
    eprintln!("sse-gateway: {sentence}");
    ExitCode::from(code)
}
