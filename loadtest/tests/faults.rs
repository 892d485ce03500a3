//! A server that misbehaves on purpose: the tool has to see it, say it, and fail.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use fake::{Fault, Server, secure, shared};
use loadtest::report::model::{FaultKind, Report};
use std::process::Command;

/// Runs eight clients in two rooms against a server with a fault: the exit code and the report.
fn run(fault: Fault) -> (i32, Report) {
    run_with(fault, &[])
}

fn run_with(fault: Fault, more: &[&str]) -> (i32, Report) {
    let server = Server::start(fault);
    run_at(&format!("http://{}", server.address()), more)
}

fn run_at(url: &str, more: &[&str]) -> (i32, Report) {
    run_clients("8", url, more)
}

fn run_clients(clients: &str, url: &str, more: &[&str]) -> (i32, Report) {
    let output = Command::new(env!("CARGO_BIN_EXE_sse-loadtest"))
        .args(["run", "--url", url, "-c", clients, "--rooms", "2"])
        .args([
            "--rate",
            "40",
            "--duration",
            "1s",
            "--patience",
            "300ms",
            "--quiet",
            "--json",
        ])
        .args(more)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code().unwrap(), report)
}

fn kinds(report: &Report) -> Vec<FaultKind> {
    report
        .checking
        .first
        .iter()
        .map(|fault| fault.kind)
        .collect()
}

#[test]
fn a_server_that_does_all_right_is_clean() {
    let (code, report) = run(Fault::None);
    assert_eq!(code, 0, "{:?}", report.checking);
    assert!(report.checking.is_clean());
    assert_eq!(report.delivering.received, report.publishing.accepted * 4);
    assert_eq!(report.delivering.expected, report.delivering.received);
    assert_eq!(report.delivering.latency.count, report.delivering.received);
    assert_eq!(report.connecting.opened, 8);
}

#[test]
fn the_clients_of_several_workers_are_put_together() {
    let (code, report) = run_with(
        Fault::None,
        &["--workers", "3", "--source", "127.0.0.2,127.0.0.3"],
    );
    assert_eq!(code, 0, "{:?}", report.checking);
    assert_eq!(report.delivering.received, report.publishing.accepted * 4);
    assert_eq!((report.connecting.opened, report.tool.workers), (8, 3));
}

#[test]
fn clients_leave_only_once_all_have_come() {
    // Opened over 0.4 s: if some left meanwhile, there would be no moment at which all are there.
    let (_, report) = run_with(
        Fault::None,
        &["--connect-rate", "20", "--churn", "100/s", "--away", "1s"],
    );
    assert!(report.connecting.opened >= 8, "{:?}", report.connecting);
}

#[test]
fn an_event_that_one_client_misses_is_lost() {
    let (code, report) = run(Fault::Lose(5));
    assert_eq!(
        (code, report.checking.lost),
        (1, 1),
        "{:?}",
        report.checking
    );
    let fault = &report.checking.first[0];
    assert_eq!(
        (fault.kind, fault.what.as_str()),
        (FaultKind::Lost, "event 5 never came")
    );
    assert!(fault.room.ends_with('0'));
    assert_eq!(report.delivering.expected, report.delivering.received + 1);
}

#[test]
fn events_that_stop_are_lost_up_to_the_last_one() {
    let (code, report) = run(Fault::StopAfter(5));
    let published = report.publishing.accepted.div_ceil(2);
    assert_eq!(
        (code, report.checking.lost),
        (1, published - 5),
        "{:?}",
        report.checking
    );
}

#[test]
fn an_event_that_comes_twice_is_a_repeat() {
    let (code, report) = run(Fault::Repeat(5));
    assert_eq!(
        (code, report.checking.repeated),
        (1, 1),
        "{:?}",
        report.checking
    );
    assert_eq!(report.checking.lost + report.checking.reordered, 0);
    assert_eq!(report.delivering.expected, report.delivering.received);
}

#[test]
fn an_event_that_comes_after_a_later_one_is_out_of_order() {
    let (code, report) = run(Fault::Reorder(5));
    assert_eq!(
        (code, report.checking.reordered),
        (1, 1),
        "{:?}",
        report.checking
    );
    assert_eq!(report.checking.lost + report.checking.repeated, 0);
}

#[test]
fn an_event_that_comes_late_is_in_the_latency() {
    let (code, report) = run(Fault::Delay(5));
    assert_eq!(code, 0, "{:?}", report.checking);
    assert!(
        report.delivering.latency.max >= 300_000,
        "{:?}",
        report.delivering.latency
    );
}

#[test]
fn an_event_that_was_changed_is_garbled() {
    let (code, report) = run(Fault::Garble(5));
    assert_eq!(
        (code, report.checking.garbled),
        (1, 1),
        "{:?}",
        report.checking
    );
    assert!(kinds(&report).contains(&FaultKind::Garbled));
}

#[test]
fn an_event_of_another_room_is_garbled() {
    let (code, report) = run(Fault::Alien(5));
    assert_eq!(
        (code, report.checking.garbled),
        (1, 1),
        "{:?}",
        report.checking
    );
}

#[test]
fn a_broken_chunk_is_garbled_and_the_client_comes_back() {
    let (code, report) = run(Fault::BreakChunk(5));
    assert_eq!(
        (code, report.checking.garbled),
        (1, 1),
        "{:?}",
        report.checking
    );
    assert_eq!(report.checking.closed, 1);
}

#[test]
fn a_loss_that_a_reset_tells_is_told_from_one_in_silence() {
    let (code, report) = run(Fault::Reset(5));
    assert_eq!(
        (code, report.checking.told, report.checking.lost),
        (1, 1, 0),
        "{:?}",
        report.checking
    );
    assert_eq!(report.checking.resets, 1);
}

#[test]
fn an_answer_that_ends_an_event_source_is_named() {
    for fault in [Fault::Refuse, Fault::NotAStream] {
        let (code, report) = run(fault);
        assert_eq!(
            (code, report.checking.ended),
            (1, 1),
            "{:?}",
            report.checking
        );
        assert_eq!(report.connecting.opened, 7);
    }
}

#[test]
fn each_client_shows_its_token() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    // Even clients are in the first room, odd ones in the second, and the lines are taken in turn.
    std::fs::write(path, "token-0\ntoken-1\n").unwrap();
    let cookie = ["--tokens", path, "--header", "Cookie: a={token}"];
    for more in [&cookie[..2], &cookie[..]] {
        let (code, report) = run_with(Fault::Tokens, more);
        assert_eq!(code, 0, "{:?}", report.checking);
        assert_eq!(report.delivering.received, report.publishing.accepted * 4);
    }
    std::fs::write(path, "token-0\n").unwrap();
    let (code, report) = run_with(Fault::Tokens, &cookie);
    assert_eq!((code, report.checking.ended), (1, 4));
}

#[test]
fn clients_and_publishers_speak_tls() {
    let secure = |fault| {
        let front = secure::Front::start(&Server::start(fault).address());
        let ca_file = front.ca_file();
        run_at(&front.url(), &["--ca-file", ca_file.to_str().unwrap()])
    };
    let (code, report) = secure(Fault::None);
    assert_eq!(code, 0, "{:?}", report.checking);
    assert_eq!(report.delivering.received, report.publishing.accepted * 4);
    assert_eq!(report.connecting.opened, 8);
    let (code, report) = secure(Fault::Lose(5));
    assert_eq!((code, report.checking.lost), (1, 1));
    let (code, report) = secure(Fault::BreakChunk(5));
    assert_eq!((code, report.checking.garbled), (1, 1));
}

#[test]
fn publishing_that_is_refused_is_no_success() {
    let (code, report) = run(Fault::RefusePublish);
    assert_eq!(code, 1, "{:?}", report.publishing);
    assert!(report.checking.is_clean() && report.publishing.is_in_vain());
    assert_eq!(report.publishing.failed, report.publishing.offered);
    for (fault, code) in [(Fault::None, 0), (Fault::RefusePublish, 1)] {
        // Without clients.
        let server = Server::start(fault);
        let (found, report) = run_clients("0", &format!("http://{}", server.address()), &[]);
        assert_eq!(found, code, "{:?}", report.publishing);
        assert_eq!(report.connecting.opened, 0);
        assert_eq!(report.publishing.is_in_vain(), code == 1);
    }
}

#[test]
fn clients_share_connections_and_are_checked_all_the_same() {
    let on_two = |fault| {
        let front = shared::Front::start(&Server::start(fault).address(), usize::MAX);
        let (code, report) = run_at(&front.url(), &["--http2", "4"]);
        assert_eq!(front.connections(), 2);
        (code, report)
    };
    let (code, report) = on_two(Fault::None);
    assert_eq!(code, 0, "{:?}", report.checking);
    assert_eq!(report.delivering.received, report.publishing.accepted * 4);
    assert_eq!(report.delivering.latency.count, report.delivering.received);
    assert_eq!(report.connecting.opened, 8);
    let (code, report) = on_two(Fault::Lose(5));
    assert_eq!((code, report.checking.lost), (1, 1));
    let (code, report) = on_two(Fault::Repeat(5));
    assert_eq!((code, report.checking.repeated), (1, 1));
    let (code, report) = on_two(Fault::Reorder(5));
    assert_eq!((code, report.checking.reordered), (1, 1));
    let (code, report) = on_two(Fault::Garble(5));
    assert_eq!((code, report.checking.garbled), (1, 1));
    let (code, report) = on_two(Fault::Reset(5));
    assert_eq!((code, report.checking.told), (1, 1));
    // A stream that is reset ends alone, and its client comes back on the same connection.
    let (_, report) = on_two(Fault::BreakChunk(5));
    assert_eq!((report.checking.closed, report.checking.garbled), (1, 0));
    for fault in [Fault::Refuse, Fault::NotAStream] {
        let (code, report) = on_two(fault);
        assert_eq!((code, report.checking.ended), (1, 1));
        assert_eq!(report.connecting.opened, 7);
    }
}

#[test]
fn clients_whose_connection_is_gone_come_back_on_others() {
    let front = shared::Front::start(&Server::start(Fault::None).address(), 3);
    let (code, report) = run_at(&front.url(), &["--http2", "4"]);
    assert_eq!(code, 0, "{:?}", report.checking);
    assert_eq!(front.connections(), 3);
    assert_eq!(report.checking.closed + report.connecting.failed, 4);
    assert_eq!(report.delivering.received, report.publishing.accepted * 4);
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let front = secure::Front::start(&Server::start(Fault::None).address());
    let other = secure::Front::start("127.0.0.1:9");
    for (more, word) in [
        (other.ca_file(), "invalid peer certificate"),
        ("/no/such/file".into(), "/no/such/file cannot be used"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_sse-loadtest"))
            .args(["run", "--url", &front.url(), "-q", "--ca-file"])
            .arg(more)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn tokens_that_are_not_there_are_said() {
    let bad = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sse-loadtest"))
            .args(["run", "--url", "http://127.0.0.1:9", "-q"])
            .args(more)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(bad(&["--tokens", "/no/such/file"]).contains("/no/such/file cannot be read"));
    assert!(bad(&["--header", "Cookie: a={token}"]).contains("needs --tokens"));
}

#[test]
fn a_publisher_that_is_held_up_hides_nothing() {
    // Every confirmation takes 100 ms, of two that can be under way: events wait, and their latency counts
    // from the moment at which they were due.
    let (code, report) = run(Fault::SlowPublish);
    assert_eq!(code, 0, "{:?}", report.checking);
    let publishing = &report.publishing;
    assert!(
        publishing.accepted + publishing.unsent >= 35,
        "{publishing:?}"
    );
    assert!(publishing.unsent > 0, "{publishing:?}");
    assert!(
        report.delivering.latency.max >= 300_000,
        "{:?}",
        report.delivering.latency
    );
    assert!(
        report
            .remarks
            .iter()
            .any(|remark| remark.contains("never sent"))
    );
}

#[test]
fn a_server_that_is_not_there_is_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_sse-loadtest"))
        .args(["run", "--url", "http://127.0.0.1:9", "-q"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("cannot connect to 127.0.0.1:9"), "{error}");
}
