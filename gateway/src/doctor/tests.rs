//! Checks, with facts that nobody has to set up servers for.

use std::time::Duration;

use protocol::servers::Address;

use super::facts::{
    Deployment, Facts, Fields, Growing, Library, Right, Role, Sample, Sentinel, Server, Silence,
};
use super::rights::NEEDS;
use super::{Finding, Level, Report, Wanted, checks};

const HEALTHY: &str = "redis_version:7.2.4\r\nredis_mode:standalone\r\nrole:master\r\nused_memory:50\r\nmaxmemory:100\r\n\
    aof_enabled:1\r\nconnected_slaves:1\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=1,lag=0\r\n\
    connected_clients:10\r\nmaxclients:100\r\n";
const SETTINGS: &str = "notify-keyspace-events:Ktxeg\nmaxmemory-policy:noeviction\nappendfsync:everysec\nsave:\n\
    client-output-buffer-limit:normal 0 0 0 slave 0 0 0 pubsub 33554432 8388608 60\ntcp-keepalive:300\ntimeout:0\n\
    min-replicas-to-write:1";

fn wanted() -> Wanted {
    Wanted {
        prefix: "sse:".into(),
        is_cluster: false,
        max_len: 1000,
        expires: true,
        set_notifications: true,
        connections: 5,
    }
}

fn facts(info: &str, settings: &str) -> Facts {
    let mut facts = Facts {
        round_trips: vec![Duration::from_micros(80); 20],
        info: Fields::parse(HEALTHY),
        settings: Some(Fields::parse(SETTINGS)),
        rights: NEEDS
            .iter()
            .map(|need| (need.name, Right::Allowed))
            .collect(),
        library: Some(Library::Version(i64::from(
            protocol::publish::LIBRARY_VERSION,
        ))),
        rooms: Some(Ok(Sample {
            is_whole: true,
            ..Sample::default()
        })),
        ..Facts::default()
    };
    facts.info.0.extend(Fields::parse(info).0);
    if let Some(known) = &mut facts.settings {
        known.0.extend(Fields::parse(settings).0);
    }
    facts
}

fn server(role: Role, facts: Facts) -> Server {
    Server {
        address: Address::Tcp("10.0.0.1".into(), 6379),
        role,
        facts: Ok(facts),
    }
}

fn judge(servers: Vec<Server>, wanted: &Wanted) -> Vec<Finding> {
    let deployment = Deployment {
        name: "Redis".into(),
        servers,
        sentinels: Vec::new(),
        trouble: None,
    };
    checks::all(&deployment, wanted)
}

/// Level and text of one check of one primary.
fn one(check: &str, facts: Facts, wanted: &Wanted) -> (Level, String) {
    let findings = judge(vec![server(Role::Primary, facts)], wanted);
    let found = findings.iter().find(|finding| finding.check == check);
    let found = found.unwrap_or_else(|| panic!("no {check} in {findings:?}"));
    (found.level, format!("{} {}", found.says, found.remedy))
}

#[test]
fn a_healthy_server_is_all_right() {
    let findings = judge(vec![server(Role::Primary, facts("", ""))], &wanted());
    let wrong: Vec<_> = findings
        .iter()
        .filter(|finding| finding.level != Level::Ok)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(findings.len() > 12, "{findings:?}");
}

#[test]
fn each_fact_has_its_level_and_its_remedy() {
    use Level::{Note, Ok, Problem, Warning};
    for (check, info, settings, level, part) in [
        (
            "version",
            "redis_version:6.0.9",
            "",
            Problem,
            "6.2 or later",
        ),
        ("version", "redis_version:6.2.14", "", Note, "no functions"),
        (
            "version",
            "redis_version:7.2.4\nvalkey_version:8.1.8",
            "",
            Ok,
            "Valkey 8.1.8",
        ),
        (
            "version",
            "executable:/usr/bin/keydb-server",
            "",
            Warning,
            "not tested",
        ),
        (
            "role",
            "role:slave\nmaster_link_status:up",
            "",
            Problem,
            "is a replica",
        ),
        (
            "role",
            "redis_mode:cluster",
            "",
            Problem,
            "redis+cluster://",
        ),
        (
            "role",
            "redis_mode:sentinel",
            "",
            Problem,
            "redis+sentinel://",
        ),
        (
            "notifications",
            "",
            "notify-keyspace-events:Eg",
            Note,
            "a gateway adds",
        ),
        (
            "eviction",
            "",
            "maxmemory-policy:volatile-lru",
            Problem,
            "CONFIG SET maxmemory-policy noeviction",
        ),
        (
            "eviction",
            "maxmemory:0",
            "maxmemory-policy:allkeys-lru",
            Note,
            "once maxmemory is set",
        ),
        (
            "eviction",
            "evicted_keys:7",
            "maxmemory-policy:allkeys-lfu",
            Problem,
            "7 keys were evicted",
        ),
        ("memory", "used_memory:95", "", Warning, "95 %"),
        (
            "memory",
            "used_memory:101",
            "",
            Problem,
            "refuses to publish",
        ),
        ("memory", "maxmemory:0", "", Note, "without a limit"),
        (
            "persistence",
            "aof_enabled:0",
            "",
            Warning,
            "nothing is on disk",
        ),
        (
            "persistence",
            "aof_enabled:0",
            "save:3600 1",
            Warning,
            "snapshots only",
        ),
        (
            "persistence",
            "",
            "appendfsync:no",
            Warning,
            "appendfsync everysec",
        ),
        (
            "persistence",
            "aof_last_write_status:err",
            "",
            Problem,
            "is its disk full",
        ),
        ("persistence", "loading:1", "", Problem, "loading"),
        ("replication", "connected_slaves:0", "", Note, "no replica"),
        (
            "replication",
            "slave0:ip=a,port=1,state=online,offset=1,lag=11",
            "",
            Warning,
            "behind",
        ),
        (
            "replication",
            "slave0:ip=a,port=1,state=wait_bgsave,offset=1,lag=0",
            "",
            Warning,
            "not in step",
        ),
        (
            "replication",
            "",
            "min-replicas-to-write:0",
            Note,
            "min-replicas-to-write 1",
        ),
        (
            "buffers",
            "",
            "client-output-buffer-limit:pubsub 0 0 0",
            Warning,
            "no limit",
        ),
        (
            "buffers",
            "",
            "client-output-buffer-limit:pubsub 1048576 1048576 60",
            Warning,
            "bursts",
        ),
        (
            "keepalive",
            "",
            "tcp-keepalive:0",
            Warning,
            "tcp-keepalive 300",
        ),
        ("keepalive", "", "timeout:5", Note, "after 5 s"),
        (
            "connections",
            "connected_clients:85",
            "",
            Warning,
            "85 of 100",
        ),
        (
            "connections",
            "connected_clients:100",
            "",
            Problem,
            "LimitNOFILE",
        ),
    ] {
        let found = one(check, facts(info, settings), &wanted());
        assert_eq!(found.0, level, "{check} {info} {settings}: {}", found.1);
        assert!(
            found.1.contains(part),
            "{check} {info} {settings}: {}",
            found.1
        );
    }
}

#[test]
fn what_a_server_does_not_show_is_not_guessed() {
    let mut hidden = facts("", "");
    hidden.settings = None;
    hidden.info = Fields::default();
    for check in [
        "version",
        "notifications",
        "eviction",
        "memory",
        "persistence",
        "replication",
    ] {
        let found = one(check, hidden.clone(), &wanted());
        assert_eq!(found.0, Level::Note, "{check}: {}", found.1);
    }
}

#[test]
fn slow_answers_and_wrong_clocks_are_warned_of() {
    let mut slow = facts("", "");
    slow.round_trips = vec![Duration::from_millis(30); 20];
    slow.clock_ahead_ms = -90_000;
    assert_eq!(one("reach", slow.clone(), &wanted()).0, Level::Warning);
    let (level, says) = one("clock", slow.clone(), &wanted());
    assert_eq!(level, Level::Warning);
    assert!(says.contains("90000 ms behind"), "{says}");
    let servers = vec![
        server(Role::Primary, facts("", "")),
        server(Role::Replica, slow),
    ];
    let findings = judge(servers, &wanted());
    let clocks = findings
        .iter()
        .find(|finding| finding.check == "clocks")
        .unwrap();
    assert_eq!(clocks.level, Level::Warning, "{clocks:?}");
}

#[test]
fn a_missing_right_names_its_rule() {
    use super::facts::Denied;
    let deny = |name: &str, right| {
        let mut facts = facts("", "");
        facts.user = Some("ann".into());
        let known = facts
            .rights
            .iter_mut()
            .find(|(known, _)| *known == name)
            .unwrap();
        known.1 = right;
        one("rights", facts, &wanted())
    };
    for (name, what, level, part) in [
        (
            "+xrange",
            Denied::Command,
            Level::Problem,
            "ACL SETUSER ann +xrange ",
        ),
        (
            "+xrange",
            Denied::Key,
            Level::Problem,
            "ACL SETUSER ann ~sse:* ~{sse:* ",
        ),
        (
            "&room",
            Denied::Channel,
            Level::Problem,
            "ACL SETUSER ann &sse:* ",
        ),
        (
            "&room (publish)",
            Denied::Command,
            Level::Warning,
            "ACL SETUSER ann +publish ",
        ),
        (
            "&__keyspace@*__:room",
            Denied::Channel,
            Level::Warning,
            "ann &__keyspace@*__:sse:* ",
        ),
        ("+fcall", Denied::Command, Level::Warning, "cannot publish"),
        (
            "+function|load",
            Denied::Command,
            Level::Note,
            "sse-publish load",
        ),
        ("+evalsha", Denied::Command, Level::Ok, "may do all"),
        ("+config|set", Denied::Command, Level::Ok, "may do all"),
    ] {
        let found = deny(name, Right::Denied(what));
        assert_eq!(found.0, level, "{name}: {}", found.1);
        assert!(found.1.contains(part), "{name}: {}", found.1);
    }
    let absent = deny("+xtrim", Right::Absent);
    assert!(absent.1.contains("renamed"), "{}", absent.1);
}

#[test]
fn rooms_that_only_grow_are_named() {
    let mut facts = facts("", "");
    let room = Growing {
        key: "sse:room:a".into(),
        length: 5000,
    };
    facts.rooms = Some(Ok(Sample {
        looked_at: 9,
        is_whole: false,
        lasting: 2,
        growing: vec![room],
    }));
    let (level, says) = one("rooms", facts.clone(), &wanted());
    assert_eq!(level, Level::Warning);
    assert!(
        says.contains("a sample of 9") && says.contains("sse:room:a (5000 events)"),
        "{says}"
    );
    facts.rooms = Some(Ok(Sample {
        looked_at: 9,
        is_whole: true,
        lasting: 2,
        growing: Vec::new(),
    }));
    assert_eq!(one("rooms", facts.clone(), &wanted()).0, Level::Note);
    let forever = Wanted {
        expires: false,
        ..wanted()
    };
    assert_eq!(one("rooms", facts, &forever).0, Level::Ok);
}

#[test]
fn a_cluster_is_judged_as_a_whole() {
    // Valkey names the mode otherwise.
    let mut valkey = facts("server_mode:cluster", "");
    valkey.info.0.remove("redis_mode");
    assert_eq!(one("role", valkey, &wanted()).0, Level::Problem);
    let wanted = Wanted {
        is_cluster: true,
        ..wanted()
    };
    let mut whole = facts("redis_mode:cluster", "cluster-require-full-coverage:yes");
    whole.cluster = Fields::parse("cluster_state:ok\r\ncluster_slots_ok:16384\r\n");
    let mut broken = whole.clone();
    broken.cluster = Fields::parse("cluster_state:fail\r\ncluster_slots_ok:10000\r\n");
    broken.info.0.insert("connected_slaves".into(), "0".into());
    let level = |servers, check| {
        let findings = judge(servers, &wanted);
        let found: Vec<_> = findings
            .into_iter()
            .filter(|finding| finding.check == check)
            .collect();
        found
            .iter()
            .map(|finding| finding.level)
            .collect::<Vec<_>>()
    };
    let healthy = || vec![server(Role::Primary, whole.clone())];
    assert_eq!(level(healthy(), "cluster"), [Level::Ok]);
    assert_eq!(level(healthy(), "coverage"), [Level::Note]);
    assert_eq!(level(healthy(), "ephemeral"), [Level::Note]);
    let partly = vec![
        server(Role::Primary, whole.clone()),
        server(Role::Primary, broken),
    ];
    assert_eq!(level(partly, "cluster"), [Level::Problem, Level::Warning]);
}

#[test]
fn sentinels_are_judged_by_their_quorum() {
    let view =
        "name:mymaster\nip:10.0.0.1\nport:6379\nflags:master\nnum-slaves:1\nnum-other-sentinels:2";
    let level = |view: &str, quorum: Result<&str, &str>| {
        let quorum = quorum.map(str::to_owned).map_err(str::to_owned);
        checks::deployment::sentinel(&Fields::parse(view), &quorum).level
    };
    assert_eq!(level(view, Ok("OK")), Level::Ok);
    assert_eq!(
        level(view, Err("NOQUORUM 1 usable Sentinels.")),
        Level::Problem
    );
    assert_eq!(level(view, Err("NOPERM this user")), Level::Note);
    assert_eq!(
        level(
            &view.replace("flags:master", "flags:master,s_down"),
            Ok("OK")
        ),
        Level::Problem
    );
    assert_eq!(
        level(&view.replace("num-slaves:1", "num-slaves:0"), Ok("OK")),
        Level::Warning
    );
}

#[test]
fn silence_is_told_apart_from_refusal() {
    let deployment = |silence| Deployment {
        name: "Redis".into(),
        servers: vec![Server {
            facts: Err(silence),
            ..server(Role::Primary, Facts::default())
        }],
        sentinels: Vec::<Sentinel>::new(),
        trouble: None,
    };
    let away = deployment(Silence::Away("connection refused".into()));
    assert!(away.is_unreachable());
    let refused = deployment(Silence::Refused("WRONGPASS".into()));
    assert!(!refused.is_unreachable());
    let report = Report::new(checks::all(&refused, &wanted()), false);
    assert!(report.has_problems());
    assert_eq!(report.findings()[0].check, "login");
}

#[test]
fn a_report_is_lines_or_json() {
    let mut finding = Finding::new("eviction", Level::Problem, "it evicts").remedy("set it");
    finding.server = "a:1".into();
    let report = Report::new(vec![finding], false);
    assert_eq!(
        report.text(false),
        "problem  a:1  eviction  it evicts. What to do: set it\n1 problem, 0 warnings, 0 notes, 0 ok\n"
    );
    assert!(report.text(true).starts_with("\x1b[31mproblem\x1b[0m"));
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    let expected = serde_json::json!([{ "server": "a:1", "check": "eviction", "level": "problem", "says": "it evicts", "do": "set it" }]);
    assert_eq!(json, expected);
}
