//! `sse-loadtest`: puts load on event-stream servers, checks every delivery, and compares.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use loadtest::cli::{Cli, Command, Output};
use loadtest::compare::{self, CompareError};
use loadtest::report::model::{Comparison, Report};
use loadtest::scenario::ScenarioError;
use loadtest::{report, scenario, serve, system, worker};
use serde::Serialize;

const FAULTS: u8 = 1;
const IMPOSSIBLE: u8 = 2;
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, and go to standard output.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    system::raise_descriptor_limit();
    match cli.command {
        Command::Run(args) => {
            system::stay_on(args.load.tool_cpu);
            tell(scenario::run(&args, "run"), &args.load.output)
        }
        Command::Soak(args) => {
            system::stay_on(args.load.tool_cpu);
            tell(scenario::run(&args, "soak"), &args.load.output)
        }
        Command::Storm(args) => {
            system::stay_on(args.load.tool_cpu);
            tell(scenario::storm(&args), &args.load.output)
        }
        Command::Compare(args) => {
            system::stay_on(Some(args.tool_cpu));
            tell_comparison(compare::compare(&args), &args.output)
        }
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "sse-loadtest",
                &mut std::io::stdout(),
            );
            ExitCode::SUCCESS
        }
        Command::Man { directory } => end(clap_mangen::generate_to(Cli::command(), directory)),
        Command::Serve(args) => end(serve::run(args)),
        Command::Worker => end(worker::run()),
    }
}

fn end<E: std::fmt::Display>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), IMPOSSIBLE),
    }
}

fn fail(sentence: &str, code: u8) -> ExitCode {
    eprintln!("sse-loadtest: {sentence}");
    ExitCode::from(code)
}

fn tell(outcome: Result<Report, ScenarioError>, output: &Output) -> ExitCode {
    let mut found = match outcome {
        Ok(found) => found,
        Err(ScenarioError::Usage(sentence)) => return fail(&sentence, USAGE),
        Err(error) => return fail(&error.to_string(), IMPOSSIBLE),
    };
    found.machine = report::machine();
    let written = write(&found, output, report::summary::report, || {
        report::html::report(&found)
    });
    match written {
        Err(sentence) => fail(&sentence, IMPOSSIBLE),
        // Clients that were to get nothing got it, whatever the server does; and where there are none, publishing is all there is.
        Ok(())
            if found.publishing.is_in_vain()
                || (found.connecting.wanted == 0 && found.publishing.is_in_part()) =>
        {
            ExitCode::from(FAULTS)
        }
        Ok(()) if found.checking.is_clean() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(FAULTS),
    }
}

fn tell_comparison(outcome: Result<Comparison, CompareError>, output: &Output) -> ExitCode {
    let mut found = match outcome {
        Ok(found) => found,
        Err(CompareError::Usage(sentence)) => return fail(&sentence, USAGE),
        Err(error) => return fail(&error.to_string(), IMPOSSIBLE),
    };
    found.machine = report::machine();
    let page = || report::html::comparison(&found);
    match write(&found, output, report::summary::comparison, page) {
        Err(sentence) => fail(&sentence, IMPOSSIBLE),
        Ok(()) => ExitCode::SUCCESS,
    }
}

fn write<T: Serialize>(
    found: &T,
    output: &Output,
    summary: impl Fn(&T, bool) -> String,
    page: impl Fn() -> String,
) -> Result<(), String> {
    let json = || serde_json::to_string_pretty(found).map_err(|error| error.to_string());
    let mut shown = false;
    match &output.json {
        Some(file) if file == Path::new("-") => {
            println!("{}", json()?);
            shown = true;
        }
        Some(file) => save(file, &json()?)?,
        None => {}
    }
    if let Some(file) = &output.html {
        save(file, &page())?;
    }
    if !shown {
        let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        // A reader that has gone away wants no more.
        let _ = std::io::stdout().write_all(summary(found, color).as_bytes());
    }
    Ok(())
}

fn save(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text)
        .map_err(|error| format!("{} cannot be written: {error}", file.display()))
}
