//! What the user may do, and what a gateway puts into the server.

use protocol::publish::LIBRARY_VERSION;

use super::{Finding, Note, Ok, Wanted, Warning, hidden, set};
use crate::doctor::facts::{Facts, Library, Right};
use crate::doctor::report::Level;
use crate::doctor::rights::{NEEDS, Need};

/// One finding for each level of what is missing, or that nothing is.
pub(super) fn rights(facts: &Facts) -> Vec<Finding> {
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
        let mut consequences: Vec<&str> = here.iter().map(|(need, _)| need.without).collect();
        consequences.dedup();
        let names: Vec<&str> = here.iter().map(|(need, _)| need.name).collect();
        let (denied, absent): (Vec<_>, Vec<_>) = here
            .iter()
            .copied()
            .partition(|(_, right)| *right == Right::Denied);
        let says = format!(
            "{user} lacks {}: {}",
            names.join(" "),
            consequences.join("; ")
        );
        let rules: Vec<&str> = denied.iter().map(|(need, _)| need.name).collect();
        let remedy = match (rules.is_empty(), absent.is_empty()) {
            (false, _) => format!("ACL SETUSER {user} with what deploy/redis/users.acl has, {} among it", rules.join(" ")),
            (true, false) => "the server does not have these commands, or they are renamed: allow them where it is configured".into(),
            (true, true) => String::new(),
        };
        findings.push(Finding::new("rights", level, says).remedy(remedy));
    }
    if findings.is_empty() {
        let says = format!("{user} may do all that a gateway does");
        findings.push(Finding::new("rights", Ok, says));
    }
    findings
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
    let Some(current) = facts.setting(NAME) else {
        return match &facts.settings {
            None => hidden("notifications", NAME)
                .remedy(format!("set {NAME} to Ktxe where the server is managed: gateways use it without seeing it, and poll otherwise")),
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
    let says = format!(
        "{NAME} is '{current}', and gateways do not add what is missing ({why}): plain XADD is found by polling, and deletions when rooms are verified"
    );
    Finding::new("notifications", Warning, says).remedy(set(NAME, &needed))
}
