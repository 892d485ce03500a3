//! What is right and what is wrong: functions from facts to findings. No input or output.

use super::Wanted;
use super::facts::{Deployment, Facts, Fields, Role, Server, Silence};
use super::report::{Finding, Level};

mod access;
pub(super) mod deployment;
mod keeping;
mod load;
mod rooms;
mod server;

use Level::{Note, Ok, Problem, Warning};

/// Every check of every server, then those of the whole.
pub(super) fn all(deployment: &Deployment, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = Vec::new();
    for server in &deployment.servers {
        let mut of_server = match &server.facts {
            Result::Ok(facts) => answers(server, facts, wanted),
            Err(silence) => vec![silent(
                silence,
                server.role,
                "redis.url, or redis.password_file",
            )],
        };
        let role = match server.role {
            Role::Replica => " (replica)",
            Role::Primary | Role::Unknown => "",
        };
        name(&mut of_server, format!("{}{role}", server.address));
        findings.append(&mut of_server);
    }
    for sentinel in &deployment.sentinels {
        let mut of_sentinel = match &sentinel.facts {
            Result::Ok((view, quorum)) => vec![deployment::sentinel(view, quorum)],
            Err(silence) => vec![silent(
                silence,
                Role::Unknown,
                "redis.sentinel_user and redis.sentinel_password",
            )],
        };
        name(&mut of_sentinel, format!("{} (sentinel)", sentinel.address));
        findings.append(&mut of_sentinel);
    }
    let mut of_all = deployment::all(deployment, wanted);
    name(&mut of_all, "all".into());
    findings.append(&mut of_all);
    findings
}

fn name(findings: &mut [Finding], server: String) {
    for finding in findings {
        finding.server.clone_from(&server);
    }
}

fn answers(server: &Server, facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = vec![
        server::reach(facts),
        server::version(facts),
        server::ways(facts, wanted),
        server::clock(facts),
    ];
    findings.extend(server::place(server.role, facts, wanted));
    findings.extend(access::rights(facts, wanted));
    findings.push(access::library(facts));
    findings.push(access::notifications(facts, wanted));
    findings.push(keeping::eviction(facts));
    findings.push(keeping::memory(facts));
    findings.push(keeping::persistence(facts));
    findings.push(keeping::replication(server.role, facts));
    findings.extend(load::subscribers(facts));
    findings.extend(load::keepalive(facts));
    findings.push(load::connections(facts, wanted));
    findings.extend(
        facts
            .rooms
            .as_ref()
            .map(|rooms| rooms::growing(rooms, wanted)),
    );
    findings
}

/// `settings` is where user and password are set.
fn silent(silence: &Silence, role: Role, settings: &str) -> Finding {
    match silence {
        Silence::Away(why) if role == Role::Replica => {
            let says = format!(
                "it does not answer: {}; from here, a failover to it would not be survived",
                clause(why)
            );
            Finding::new("reach", Warning, says)
                .remedy("start it, or let this machine reach the address that it announces (replica-announce-ip)")
        }
        Silence::Away(why) => {
            let says = format!("it does not answer: {}", clause(why));
            Finding::new("reach", Problem, says).remedy(
                "start it, or correct its host and port in redis.url; look at firewalls and TLS",
            )
        }
        Silence::Refused(why) => {
            let says = format!("it does not let this user in: {}", clause(why));
            Finding::new("login", Problem, says).remedy(format!(
                "correct the user and the password ({settings}); on the server, ACL LIST shows the users"
            ))
        }
    }
}

/// What someone else said, as a part of a sentence.
fn clause(text: &str) -> &str {
    text.trim_end().trim_end_matches('.')
}

/// For memory and times.
fn mebibytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1 << 20))
}

/// `CONFIG SET` for a setting that a running server takes.
fn set(name: &str, value: &str) -> String {
    format!("CONFIG SET {name} {value} (and CONFIG REWRITE)")
}

/// Where the server says nothing about itself.
fn silent_about(check: &'static str, what: &str) -> Finding {
    Finding::new(
        check,
        Note,
        format!("{what} cannot be seen: INFO is refused"),
    )
    .remedy("run doctor as a user with +info")
}

/// Where settings are not shown.
fn hidden(check: &'static str, names: &str) -> Finding {
    Finding::new(
        check,
        Note,
        format!("{names} cannot be seen: CONFIG GET is refused"),
    )
    .remedy("run doctor as a user with +config|get, or look at it where the server is managed")
}

fn is_yes(fields: &Fields, name: &str) -> bool {
    matches!(fields.get(name), Some("1" | "yes"))
}
