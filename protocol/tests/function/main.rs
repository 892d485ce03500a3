//! The publish function and its twin for `EVAL`, against a real `redis-server`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ids;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;

use protocol::publish::{self, PublishArgs};
use protocol::{EventId, Keys, RoomName};
use redis::{Connection, FromRedisValue, RedisResult};
use serde_json::Value;
use support::{Server, vectors};

/// The two ways to run the one source.
#[derive(Debug, Clone, Copy)]
enum Way {
    Function,
    Script,
}

struct Publisher {
    connection: Connection,
    way: Way,
    keys: Keys,
}

type Entry = (EventId, Vec<(String, String)>);

impl Publisher {
    fn new(server: &Server, way: Way) -> Self {
        let mut publisher = Self {
            connection: server.connect().unwrap(),
            way,
            keys: Keys::new("sse:"),
        };
        publisher.ask::<()>(&["FLUSHALL"]);
        publisher.load();
        publisher
    }

    fn load(&mut self) {
        self.ask::<()>(&["FUNCTION", "LOAD", "REPLACE", &publish::library()]);
    }

    /// The residue class of an id that is given now.
    fn class(&mut self) -> u64 {
        self.publish(data("class")).0.seq % 65_536
    }

    fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connection).unwrap()
    }

    fn call<T: FromRedisValue>(&mut self, key: &str, arguments: &[Vec<u8>]) -> RedisResult<T> {
        self.call_on(&[key], arguments)
    }

    fn call_on<T: FromRedisValue>(
        &mut self,
        keys: &[&str],
        arguments: &[Vec<u8>],
    ) -> RedisResult<T> {
        let mut command = match self.way {
            Way::Function => redis::cmd("FCALL").arg(publish::FUNCTION_NAME).take(),
            Way::Script => redis::cmd("EVAL").arg(publish::script()).take(),
        };
        command.arg(keys.len()).arg(keys).arg(arguments);
        command.query(&mut self.connection)
    }

    /// Publishes in the room `r` and gives id, previous id and whether it was a repeat.
    fn publish(&mut self, arguments: PublishArgs<'_>) -> (EventId, String, bool) {
        let arguments = PublishArgs {
            full_reply: true,
            ..arguments
        };
        let (id, prev, repeat): (String, String, i64) =
            self.call("sse:room:r", &arguments.to_args()).unwrap();
        (EventId::parse(id.as_bytes()).unwrap(), prev, repeat == 1)
    }

    fn entries(&mut self) -> Vec<Entry> {
        let entries: Vec<(String, Vec<String>)> = self.ask(&["XRANGE", "sse:room:r", "-", "+"]);
        let pairs = |fields: Vec<String>| {
            fields
                .chunks(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect()
        };
        entries
            .into_iter()
            .map(|(id, fields)| (EventId::parse(id.as_bytes()).unwrap(), pairs(fields)))
            .collect()
    }
}

fn both(test: impl Fn(&Server, &mut Publisher)) {
    let server = Server::start();
    for way in [Way::Function, Way::Script] {
        test(&server, &mut Publisher::new(&server, way));
    }
}

fn data(data: &str) -> PublishArgs<'_> {
    PublishArgs {
        data: data.as_bytes(),
        ..PublishArgs::default()
    }
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let pair = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    fields.iter().map(pair).collect()
}

#[test]
fn entries_and_replies_form_a_chain() {
    both(|_, publisher| {
        let extensions = [("traceparent", "00-a-b-01"), ("x-shop_id", "7")];
        let (first, prev, repeat) = publisher.publish(PublishArgs {
            event: b"chat",
            ..data("one")
        });
        assert_eq!((prev.as_str(), repeat), ("0-0", false));
        let (second, prev, _) = publisher.publish(data(""));
        assert_eq!(prev, first.to_string());
        let (third, prev, _) = publisher.publish(PublishArgs {
            event: "ä b".as_bytes(),
            extensions: &extensions,
            max_len: Some(0),
            ..data("\r\n\0{}")
        });
        assert_eq!(prev, second.to_string());
        let (first_id, second_id) = (first.to_string(), second.to_string());
        let expected = [
            (
                first,
                owned(&[("event", "chat"), ("data", "one"), ("prev", "0-0")]),
            ),
            (second, owned(&[("data", ""), ("prev", &first_id)])),
            (
                third,
                owned(&[
                    ("event", "ä b"),
                    ("data", "\r\n\0{}"),
                    ("prev", &second_id),
                    ("traceparent", "00-a-b-01"),
                    ("x-shop_id", "7"),
                ]),
            ),
        ];
        assert_eq!(publisher.entries(), expected);
        let id: String = publisher.call("sse:room:r", &data("x").to_args()).unwrap();
        assert_eq!(publisher.entries()[3].0.to_string(), id);
    });
}

#[test]
fn the_channel_carries_exact_bytes() {
    both(|server, publisher| {
        let mut listener = server.connect().unwrap();
        let mut channel = listener.as_pubsub();
        channel.subscribe("sse:room:r").unwrap();
        let mut heard = || -> Vec<u8> { channel.get_message().unwrap().get_payload().unwrap() };
        let (first, ..) = publisher.publish(data(""));
        assert_eq!(heard(), format!("SSE/1 {first} 0-0\n\n").as_bytes());
        let extensions = [("traceparent", "00-a-b-01"), ("x-a", "b: c")];
        let (second, ..) = publisher.publish(PublishArgs {
            event: b"chat",
            extensions: &extensions,
            ..data("{\"m\":\"a\\n\"}\n\nraw")
        });
        let expected = format!(
            "SSE/1 {second} {first}\nevent: chat\ntraceparent: 00-a-b-01\nx-a: b: c\n\n{{\"m\":\"a\\n\"}}\n\nraw"
        );
        assert_eq!(heard(), expected.as_bytes());
        let mut sharded = server.connect().unwrap();
        sharded
            .send_packed_command(
                &redis::cmd("SSUBSCRIBE")
                    .arg("sse:room:r")
                    .get_packed_command(),
            )
            .unwrap();
        sharded.recv_response().unwrap();
        let (third, ..) = publisher.publish(PublishArgs {
            sharded: true,
            ..data("s")
        });
        let message: (String, String, String) =
            redis::from_redis_value(sharded.recv_response().unwrap()).unwrap();
        assert_eq!(message.2, format!("SSE/1 {third} {second}\n\ns"));
    });
}

#[test]
fn retention_follows_the_call() {
    both(|_, publisher| {
        let length = |publisher: &mut Publisher| publisher.ask::<i64>(&["XLEN", "sse:room:r"]);
        publisher.publish(data("x"));
        let left: i64 = publisher.ask(&["TTL", "sse:room:r"]);
        assert!((86_000..=86_400).contains(&left), "{left}");
        publisher.publish(PublishArgs {
            expire_seconds: Some(50),
            ..data("x")
        });
        let left: i64 = publisher.ask(&["TTL", "sse:room:r"]);
        assert!((1..=50).contains(&left), "{left}");
        publisher.publish(PublishArgs {
            expire_seconds: Some(0),
            ..data("x")
        });
        assert_eq!(publisher.ask::<i64>(&["TTL", "sse:room:r"]), -1);
        for _ in 0..1_500 {
            publisher.publish(PublishArgs {
                max_len: Some(0),
                ..data("x")
            });
        }
        assert_eq!(length(publisher), 1_503);
        // Rough trimming removes whole nodes, of 100 entries by default.
        publisher.publish(data("x"));
        assert!((1_000..=1_100).contains(&length(publisher)));
        publisher.publish(PublishArgs {
            max_len: Some(200),
            ..data("x")
        });
        assert!((200..=300).contains(&length(publisher)));
        publisher.ask::<()>(&["DEL", "sse:room:r"]);
        for n in 1..=150 {
            publisher.ask::<()>(&["XADD", "sse:room:r", &format!("{n}-0"), "data", "old"]);
        }
        let (_, prev, _) = publisher.publish(PublishArgs {
            max_age_seconds: Some(60),
            ..data("x")
        });
        assert_eq!(prev, "150-0");
        assert!(length(publisher) <= 51);
        publisher.publish(PublishArgs {
            max_age_seconds: Some(9_007_199_254_740_991),
            ..data("x")
        });
    });
}

#[test]
fn an_idempotency_key_stores_once() {
    both(|_, publisher| {
        let once = |key| PublishArgs {
            once: Some(key),
            ..data("x")
        };
        let (first, _, repeat) = publisher.publish(once("k: é"));
        assert!(!repeat);
        let (again, _, repeat) = publisher.publish(once("k: é"));
        assert_eq!((again, repeat), (first, true));
        let plain: String = publisher
            .call("sse:room:r", &once("k: é").to_args())
            .unwrap();
        assert_eq!(plain, first.to_string());
        publisher.publish(once("other"));
        assert_eq!(publisher.entries().len(), 2);
        let room = RoomName::parse("r").unwrap();
        let key = publisher.keys.once(&room, "k: é");
        let left: i64 = publisher.ask(&["TTL", &key]);
        assert!((1..=300).contains(&left), "{left}");
        publisher.publish(PublishArgs {
            once_seconds: Some(20),
            ..once("short")
        });
        let key = publisher.keys.once(&room, "short");
        let left: i64 = publisher.ask(&["TTL", &key]);
        assert!((1..=20).contains(&left), "{left}");
    });
}

#[test]
fn a_call_may_name_what_remembers_its_idempotency_key() {
    both(|_, publisher| {
        let once = PublishArgs {
            once: Some("k: é"),
            ..data("x")
        };
        let room = RoomName::parse("r").unwrap();
        let key = publisher.keys.once(&room, "k: é");
        let (stream, arguments) = ("sse:room:r", once.to_args());
        let first: String = publisher.call_on(&[stream, &key], &arguments).unwrap();
        assert_eq!(publisher.ask::<String>(&["GET", &key]), first);
        for keys in [&[stream, &key][..], &[stream]] {
            let again: String = publisher.call_on(keys, &arguments).unwrap();
            assert_eq!(again, first);
        }
        let other = publisher.keys.once(&room, "k");
        for (keys, arguments) in [
            ([stream, &other], arguments),
            ([stream, stream], once.to_args()),
            ([stream, &key], data("x").to_args()),
        ] {
            let error = publisher.call_on::<String>(&keys, &arguments).unwrap_err();
            let detail = error.detail().unwrap_or_default();
            assert!(detail.contains("a second key must be"), "{error}");
        }
        assert_eq!(publisher.entries().len(), 1);
    });
}

#[test]
fn refusals_say_why_and_store_nothing() {
    let long = "x".repeat(257);
    let wide = "x".repeat(1_025);
    let big = "x".repeat(65_537);
    let room = format!("sse:room:{}", "x".repeat(129));
    let long_field = format!("x-{}", "a".repeat(63));
    let many: Vec<&str> = ["data", "x"]
        .into_iter()
        .chain(["x-a", "1"].repeat(17))
        .collect();
    let ok = "sse:room:r";
    let cases: &[(&str, &[&str], &str)] = &[
        ("sse:room:", &["data", "x"], "key"),
        ("sse:room:a b", &["data", "x"], "key"),
        ("sse:room:a/b", &["data", "x"], "key"),
        ("sse:room:ä", &["data", "x"], "key"),
        ("sse:room:.", &["data", "x"], "key"),
        ("sse:room:..", &["data", "x"], "key"),
        ("demo", &["data", "x"], "key"),
        ("", &["data", "x"], "key"),
        (&room, &["data", "x"], "128"),
        (ok, &[], "data is missing"),
        (ok, &["event", "x"], "data is missing"),
        (ok, &["data"], "pairs"),
        (ok, &["data", "x", "frob", "1"], "unknown argument frob"),
        (ok, &["data", "x", "x-a:b", "1"], "unknown argument"),
        (ok, &["data", "x", "maxlen", "many"], "maxlen"),
        (ok, &["data", "x", "maxlen", "-1"], "maxlen"),
        (ok, &["data", "x", "maxage", "1.5"], "maxage"),
        (ok, &["data", "x", "expire", ""], "expire"),
        (ok, &["data", "x", "onceexpire", "nan"], "onceexpire"),
        (ok, &["data", "x", "maxbytes", "inf"], "maxbytes"),
        (ok, &["data", "x", "sharded", "yes"], "sharded"),
        (ok, &["data", "x", "once", ""], "1 to 256"),
        (ok, &["data", "x", "once", &long], "1 to 256"),
        (ok, &["data", "x", "event", "stream.open"], "'stream.'"),
        (ok, &["data", "x", "event", "a\nb"], "CR, LF"),
        (ok, &["data", "x", "event", "a\rb"], "CR, LF"),
        (ok, &["data", "x", "event", "a\0b"], "CR, LF"),
        (ok, &["data", "x", "event", &long], "256"),
        (ok, &["data", "x", "traceparent", "a\nb"], "traceparent"),
        (ok, &["data", "x", "x-a", &wide], "1024"),
        (ok, &["data", "x", &long_field, "1"], "64 bytes"),
        (ok, &many, "16 extension fields"),
        (ok, &["data", &big], "65537 bytes, over the limit of 65536"),
        (ok, &["data", "xxx", "maxbytes", "2"], "limit of 2"),
    ];
    both(|_, publisher| {
        for (key, arguments, word) in cases {
            let arguments: Vec<Vec<u8>> = arguments.iter().map(|a| a.as_bytes().to_vec()).collect();
            let error = publisher.call::<String>(key, &arguments).unwrap_err();
            let detail = error.detail().unwrap_or_default();
            assert_eq!(error.code(), Some("ERR"), "{key} {error}");
            assert!(detail.starts_with("sse: "), "{key} {error}");
            assert!(detail.contains(word), "no {word:?} in {error}");
        }
        assert_eq!(publisher.ask::<i64>(&["DBSIZE"]), 0);
        publisher.publish(PublishArgs {
            max_bytes: Some(65_537),
            ..data(&big)
        });
    });
}

#[test]
fn a_key_of_another_type_is_left_alone() {
    both(|_, publisher| {
        publisher.ask::<()>(&["SET", "sse:room:r", "text"]);
        let arguments = PublishArgs {
            once: Some("k"),
            ..data("x")
        };
        let error = publisher
            .call::<String>("sse:room:r", &arguments.to_args())
            .unwrap_err();
        assert_eq!(error.code(), Some("WRONGTYPE"), "{error}");
        assert_eq!(publisher.ask::<String>(&["GET", "sse:room:r"]), "text");
        assert_eq!(publisher.ask::<i64>(&["DBSIZE"]), 1);
    });
}

#[test]
fn a_quiet_minute_is_counted_from_the_last_event() {
    both(|_, publisher| {
        let minute = PublishArgs {
            expire_seconds: Some(60),
            ..data("x")
        };
        publisher.publish(minute);
        publisher.ask::<()>(&["EXPIRE", "sse:room:r", "5"]);
        publisher.publish(minute);
        let left: i64 = publisher.ask(&["TTL", "sse:room:r"]);
        assert!((6..=60).contains(&left), "{left}");
    });
}

#[test]
fn room_names_follow_the_vectors() {
    let names = vectors("room-names.json");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    both(|_, publisher| {
        for name in names["valid"].as_array().unwrap() {
            let key = format!("sse:room:{}", text(name));
            publisher
                .call::<String>(&key, &data("x").to_args())
                .unwrap();
            publisher.ask::<()>(&["DEL", &key]);
        }
        for case in names["invalid"].as_array().unwrap() {
            let key = format!("sse:room:{}", text(&case["name"]));
            let error = publisher
                .call::<String>(&key, &data("x").to_args())
                .unwrap_err();
            assert_eq!(error.code(), Some("ERR"), "{key} {error}");
        }
        assert_eq!(publisher.ask::<i64>(&["DBSIZE"]), 0);
    });
}

#[test]
fn a_server_that_has_the_script_runs_it_by_its_sha1() {
    let server = Server::start();
    let mut publisher = Publisher::new(&server, Way::Script);
    let by_sha1 = |publisher: &mut Publisher| -> RedisResult<String> {
        redis::cmd("EVALSHA")
            .arg(publish::script_sha1())
            .arg(1)
            .arg("sse:room:r")
            .arg(data("x").to_args())
            .query(&mut publisher.connection)
    };
    let error = by_sha1(&mut publisher).unwrap_err();
    assert_eq!(error.code(), Some("NOSCRIPT"), "{error}");
    publisher.publish(data("x"));
    let id = by_sha1(&mut publisher).unwrap();
    assert_eq!(publisher.entries()[1].0.to_string(), id);
}

#[test]
fn the_library_tells_its_version() {
    let server = Server::start();
    let mut publisher = Publisher::new(&server, Way::Function);
    let version: u32 = publisher.ask(&["FCALL_RO", publish::VERSION_FUNCTION_NAME, "0"]);
    assert_eq!(version, publish::LIBRARY_VERSION);
    let sha1: String = publisher.ask(&["SCRIPT", "LOAD", publish::script()]);
    assert_eq!(sha1, publish::script_sha1());
    let libraries: Vec<HashMap<String, redis::Value>> = publisher.ask(&["FUNCTION", "LIST"]);
    assert_eq!(libraries.len(), 1);
}
