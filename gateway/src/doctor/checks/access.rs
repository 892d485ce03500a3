//! What the user may do, and what a gateway puts into the server.

use protocol::publish::LIBRARY_VERSION;

use super::{Finding, Note, Ok, Wanted, Warning, hidden, set};
use crate::doctor::facts::{Denied, Facts, Library, Right};
use crate::doctor::report::Level;
use crate::doctor::rights::{NEEDS, Need};

/// One finding for each level of what is missing, or that nothing is.
pub(super) fn rights(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let user = facts.user.as_deref().unwrap_or("the user of redis.url");
    let has_functions = facts.library != Some(Library::Refused);
    let missing: Vec<(&Need, Right)> = facts
        .rights
        .iter()
        .filter_map(|&(name, right)| {
            let need = NEEDS.iter().find(|need| need.name == name)?;
            let spare = match name {
                // Functions and the script stand in for each other.
                "+fcall" | "+fcall_ro" | "+function|load" => {
                    !has_functions && right == Right::Absent
                }
                "+eval" | "+evalsha" => has_functions,
                _ => need.level == Level::Ok,
            };
            (right != Right::Allowed && !spare).then_some((need, right))
        })
        .collect();
    let mut findings = Vec::new();
    for level in [Level::Problem, Level::Warning, Level::Note] {
        let here = missing.iter().filter(|(need, _)| need.level == level);
        let here: Vec<_> = here.collect();
        if here.is_empty() {
            continue;
        }
        let mut consequences: Vec<&str> = Vec::new();
        for (need, _) in &here {
            if !consequences.contains(&need.without) {
                consequences.push(need.without);
            }
        }
        let names: Vec<&str> = here.iter().map(|(need, _)| need.name).collect();
        let says = format!(
            "{user} lacks {}: {}",
            names.join(" "),
            consequences.join("; ")
        );
        let mut rules: Vec<String> = Vec::new();
        for (need, right) in &here {
            let rule = rule(need, *right, wanted);
            rules.extend(rule.filter(|rule| !rules.contains(rule)));
        }
        let remedy = if rules.is_empty() {
            "the server does not have these commands, or they are renamed: allow them where it is configured".into()
        } else {
            format!(
                "ACL SETUSER {user} {} (deploy/redis/users.acl has all rules)",
                rules.join(" ")
            )
        };
        findings.push(Finding::new("rights", level, says).remedy(remedy));
    }
    if findings.is_empty() {
        let says = format!("{user} may do all that a gateway does");
        findings.push(Finding::new("rights", Ok, says));
    }
    findings
}

/// The rule that gives a right; `None` where the server does not have the command.
fn rule(need: &Need, right: Right, wanted: &Wanted) -> Option<String> {
    let prefix = &wanted.prefix;
    match right {
        Right::Denied(Denied::Command) if need.name.starts_with('&') && need.is_subscription() => {
            Some("+subscribe".into())
        }
        Right::Denied(Denied::Command) if need.name.starts_with('&') => Some("+publish".into()),
        Right::Denied(Denied::Command) => Some(need.name.into()),
        Right::Denied(Denied::Key) => Some(format!("~{prefix}* ~{{{prefix}*")),
        Right::Denied(Denied::Channel) if need.name.contains("keyspace") => {
            Some(format!("&__keyspace@*__:{prefix}*"))
        }
        Right::Denied(Denied::Channel) => Some(format!("&{prefix}*")),
        Right::Allowed | Right::Absent => None,
    }
}

pub(super) fn library(facts: &Facts) -> Finding {
    let ours = i64::from(LIBRARY_VERSION);
    match &facts.library {
        Some(Library::Version(version)) if *version == ours => Finding::new(
            "function",
            Ok,
            format!("the publish function has version {version}"),
        ),
        Some(Library::Version(version)) if *version > ours => Finding::new(
            "function",
            Ok,
            format!(
                "the publish function has version {version}, later than this program's {ours}, and stays"
            ),
        ),
        Some(Library::Version(version)) => Finding::new(
            "function",
            Note,
            format!(
                "the publish function has version {version}; a gateway replaces it by version {ours}"
            ),
        ),
        Some(Library::Missing) if facts.right("+function|load") == Some(Right::Allowed) => {
            Finding::new(
                "function",
                Note,
                "the publish function is not loaded; the first gateway loads it",
            )
            .remedy("sse-publish load, if publishers come first")
        }
        Some(Library::Missing) => Finding::new(
            "function",
            Warning,
            "the publish function is not loaded, and this user may not load it: publishing fails",
        )
        .remedy("sse-publish load, as a user with +function|load"),
        Some(Library::Refused) | None => Finding::new(
            "function",
            Note,
            "the server has no functions, or refuses them: gateways and sse-publish use a script instead",
        ),
    }
}

pub(super) fn notifications(facts: &Facts, wanted: &Wanted) -> Finding {
    const NAME: &str = "notify-keyspace-events";
    let all = String::from_iter(protocol::keys::NOTIFICATION_FLAGS);
    let Some(current) = facts.setting(NAME) else {
        return match &facts.settings {
            None => hidden("notifications", NAME)
                .remedy(format!("set {NAME} to {all} where the server is managed: gateways use it without seeing it, and poll otherwise")),
            Some(_) => Finding::new("notifications", Note, format!("the server has no {NAME}: plain XADD is found by polling")),
        };
    };
    let Some(needed) = protocol::keys::with_notifications(current) else {
        return Finding::new(
            "notifications",
            Ok,
            format!("{NAME} is '{current}': plain XADD is announced at once"),
        );
    };
    if wanted.set_notifications && facts.right("+config|set") == Some(Right::Allowed) {
        let says =
            format!("{NAME} is '{current}'; a gateway adds what is missing when it connects");
        return Finding::new("notifications", Note, says);
    }
    let why = if wanted.set_notifications {
        "this user may not"
    } else {
        "redis.set_notifications is false"
    };
    let (level, late) = if protocol::keys::announces_streams(current) {
        (Note, "deletions are found when rooms are verified")
    } else {
        (
            Warning,
            "plain XADD is found by polling, and deletions when rooms are verified",
        )
    };
    let says =
        format!("{NAME} is '{current}', and gateways do not add what is missing ({why}): {late}");
    Finding::new("notifications", level, says).remedy(set(NAME, &needed))
}
