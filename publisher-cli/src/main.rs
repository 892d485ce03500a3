//! `sse-publish`: publishes events to rooms, through Redis or through a gateway's HTTP endpoint.

mod cli;
mod disconnect;
mod gateway;
mod input;
mod publish;
mod report;
mod target;
mod token;
mod trace;

use std::process::ExitCode;

use cli::{Cli, Command, Stop};
use target::{Failure, Retry, Target};
use trace::Traces;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Stop::Shown(text)) => return report::print(&text),
        Err(Stop::Usage(sentence)) => return report::fail(&Failure::refused(sentence), false),
    };
    let json = cli.command.is_none() && cli.publish.json;
    let outcome = match cli.command {
        Some(Command::Completions { shell }) => return report::print(&cli::completions(shell)),
        Some(Command::Man { directory }) => cli::man_pages(&directory)
            .map_err(|error| Failure::other(format!("{}: {error}", directory.display()))),
        Some(Command::Token(token)) => token::run(&token),
        Some(Command::Load(load)) => in_runtime(load_library(load)),
        Some(Command::Disconnect(cli)) => in_runtime(async {
            report::print(&disconnect::disconnect(&cli).await?);
            Ok(())
        }),
        None => in_runtime(publish_events(cli.publish)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report::fail(&failure, json),
    }
}

fn in_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("the runtime cannot start: {error}")))?
        .block_on(work)
}

/// `sse-publish load`.
async fn load_library(load: cli::Load) -> Result<(), Failure> {
    let patience = target::redis::RESPONSE_TIMEOUT;
    let mut servers = target::redis::Deployment::new(&load.server.config(), patience)?;
    let done = Retry::new(load.server.retry_for)
        .run(async || target::library::put_everywhere(&mut servers).await)
        .await?;
    report::print(&done);
    Ok(())
}

/// One event from the arguments, or many from standard input.
async fn publish_events(cli: cli::Publish) -> Result<(), Failure> {
    let mut report = report::Report::new(&cli);
    let otlp = trace::export();
    let settings = publish::Settings::from_cli(&cli, Traces::new(otlp.as_ref()))?;
    let target = Target::from_cli(&cli)?;
    let done = publish::run(&cli, settings, target, &mut report).await;
    if let Some(otlp) = otlp {
        trace::finish(otlp).await;
    }
    done
}
