//! Who may do what: publish keys, and a matrix of (who, what, where, by which way in) against a model of a few lines.

use std::sync::Mutex;

use proptest::test_runner::{Config, TestRunner};

use crate::support::{Gateway, Setup, http};

mod case;
mod world;

use case::{Fate, cases};
use world::World;

/// Requests that are generated.
const CASES: u32 = 2500;

/// `printf hashed | sha256sum`
const HASHED: &str = "sha256:1a06df824ed741b53c785079a6347f00eec5af82f9850775409ca69dff4068a6";

async fn post(gateway: &Gateway, room: &str, key: &str) -> u16 {
    let key = format!("Bearer {key}");
    let answer = gateway.post(room, &[("Authorization", &key)], b"hi").await;
    answer.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_key_counts_in_its_rooms() {
    let keys = format!("any,chats chat:* lobby,{HASHED} news");
    let setup = Setup::memory().set("publish.keys", &keys);
    let gateway = setup.start().await;
    for (room, key, status) in [
        ("chat:1", "any", 201),
        ("chat:1", "chats", 201),
        ("lobby", "chats", 201),
        ("news", "chats", 403),
        ("news", "hashed", 201),
        ("lobby", "hashed", 403),
        ("news", HASHED, 401),
        ("news", "other", 401),
    ] {
        assert_eq!(post(&gateway, room, key).await, status, "{room} {key}");
    }
    for (reason, count) in [("room", 2.0), ("unknown_key", 2.0)] {
        let series =
            format!("sse_gateway_http_refused_total{{action=\"publish\",reason=\"{reason}\"}}");
        assert_eq!(gateway.metric(&series).await, Some(count), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_a_file_count_as_soon_as_they_stand_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    std::fs::write(&file, "# the first\nfirst chat:*\n").unwrap();
    let setup = Setup::memory().set("publish.key_files", file.to_str().unwrap());
    let gateway = setup.start().await;
    assert_eq!(post(&gateway, "chat:1", "first").await, 201);
    assert_eq!(post(&gateway, "news", "first").await, 403);
    // As orchestrators do it: another file in its place.
    let next = directory.path().join("next");
    std::fs::write(&next, "second\n").unwrap();
    std::fs::rename(&next, &file).unwrap();
    eventually!(
        post(&gateway, "news", "second").await == 201,
        "{}",
        gateway.log()
    );
    assert_eq!(post(&gateway, "chat:1", "first").await, 401);
    std::fs::write(&file, "third a/b\n").unwrap();
    eventually!(gateway.log().contains("line 1"), "{}", gateway.log());
    let unusable = "sse_gateway_publish_key_files_unusable";
    eventually!(gateway.metric(unusable).await == Some(1.0));
    assert_eq!(post(&gateway, "news", "second").await, 201);
    // Emptied before it is written anew; other settings can change meanwhile, and its keys stay.
    std::fs::write(&file, "").unwrap();
    eventually!(gateway.log().contains("no key in it"), "{}", gateway.log());
    gateway.signal("HUP");
    eventually!(gateway.log().contains("was reloaded"), "{}", gateway.log());
    assert_eq!(post(&gateway, "news", "second").await, 201);
    assert!(!gateway.log().contains("third") && !gateway.log().contains("second"));
    std::fs::write(&file, "third a/b\n").unwrap();
    let output = Setup::memory().set("publish.key_files", file.to_str().unwrap());
    let output = output.output().await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(
        error.contains("publish.key_files") && !error.contains("third"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn development_mode_that_nobody_asked_for_is_for_this_machine() {
    for (key, value, through, warned) in [
        ("log.level", "info", 403, true),
        ("dev", "true", 201, false),
        ("http.trusted_proxies", "10.0.0.1", 201, false),
    ] {
        let gateway = Setup::memory().set(key, value).start().await;
        let post = async |more: &[(&str, &str)]| gateway.post("demo", more, b"hi").await;
        assert_eq!(post(&[]).await.status, 201);
        let proxied = post(&[("X-Forwarded-For", "192.0.2.1")]).await;
        assert_eq!(proxied.status, through, "{key}");
        // A page whose name leads here: to a browser it is of the same origin.
        let origin = "http://evil.example";
        let request = format!(
            "POST /rooms/demo/events HTTP/1.1\r\nHost: evil.example\r\nOrigin: {origin}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
        );
        let answer = http::exchange(gateway.address, request.as_bytes())
            .await
            .unwrap();
        let answer = http::complete(&answer);
        assert_eq!(answer.status, through, "{key}");
        if through == 403 {
            assert!(answer.error().contains("dev = true"), "{}", answer.error());
        }
        assert_eq!(gateway.log().contains("this is development mode"), warned);
    }
}

/// Nobody without permission receives a byte of an event or stores one, and whoever has it does.
#[test]
fn nobody_does_what_it_may_not_by_any_way_in() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::start());
    let fates = Mutex::new(Vec::new());
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&cases(), |case| {
        let fate = runtime.block_on(world.check(&case));
        fates.lock().unwrap().push(fate);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    // The generator reaches all that the model knows.
    let fates = fates.into_inner().unwrap();
    for fate in [Fate::Allowed, Fate::Refused, Fate::Away] {
        let count = fates.iter().filter(|one| **one == fate).count();
        assert!(count >= 5, "{fate:?} only {count} times");
    }
}
