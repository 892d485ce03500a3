//! The gateways that the matrix asks, and what their answers have to be.

use std::time::Duration;

use ::http::{HeaderMap, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::case::{APP, Act, Case, Fate, ROOMS, SECRET, Way};
use crate::support::{Backend, Gateway, RedisServer, Reply, Setup, redis};

/// How long an answer that should end by itself may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway at the root, one under a prefix, one Redis, and an event in each room.
pub struct World {
    plain: Gateway,
    prefixed: Gateway,
    connection: ::redis::aio::MultiplexedConnection,
    _redis: RedisServer,
    _backend: Backend,
    /// Data and id of the event in each room.
    canaries: Vec<(String, String)>,
}

impl World {
    pub async fn start() -> Self {
        let redis = RedisServer::start().await;
        let backend = Backend::start(|headers: &HeaderMap| {
            let cookie = headers.get(header::COOKIE).map(|cookie| cookie.as_bytes());
            Reply::status(match cookie {
                Some(b"user=yes") => 200,
                Some(b"user=no") => 403,
                Some(b"user=away") => 500,
                _ => 401,
            })
        })
        .await;
        let rules = "open:private token,open:* open,forward:* forward,token:* token";
        let setup = || {
            Setup::redis(&redis)
                .arguments(&["--publish-key", "the-key", "--publish-key", "news-key news"])
                .set("access.subscribe", rules)
                .set("access.publish", rules)
                .set("http.allowed_origins", APP)
                .set("forward.url", &backend.url())
                .set("tokens.keys", &format!("HS256 {SECRET}"))
                .set("tokens.query", "token")
        };
        let plain = setup().start().await;
        let prefixed = setup().set("http.path_prefix", "/live").start().await;
        let mut canaries = Vec::new();
        for (room, _) in ROOMS {
            let data = format!("canary-of-{room}");
            let id = redis.publish(room, "canary", &data).await;
            canaries.push((data, id));
        }
        Self {
            plain,
            prefixed,
            connection: redis.connection().await.unwrap(),
            _redis: redis,
            _backend: backend,
            canaries,
        }
    }

    async fn lengths(&self) -> Vec<u64> {
        let mut pipe = ::redis::pipe();
        for (room, _) in ROOMS {
            pipe.cmd("XLEN").arg(redis::key(room));
        }
        let mut connection = self.connection.clone();
        pipe.query_async(&mut connection).await.unwrap()
    }

    /// Sends a request; reads to the end, or to the first of `until`.
    async fn exchange(&self, case: &Case, until: &[&str]) -> String {
        let gateway = match case.way {
            Way::Prefix | Way::PrefixMissing => &self.prefixed,
            _ => &self.plain,
        };
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        let bytes = case.bytes(&gateway.address.to_string());
        socket.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let has = |answer: &[u8]| {
            let text = String::from_utf8_lossy(answer).into_owned();
            until.iter().any(|word| text.contains(word))
        };
        let read = async {
            while !has(&answer) && matches!(socket.read_buf(&mut answer).await, Ok(1..)) {}
        };
        // What does not end is judged by what came.
        let _ = timeout(PATIENCE, read).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        match case.way {
            Way::BehindAnother => {
                let at = text.find("\r\n\r\n").expect("the first answer") + 4;
                text[at..].to_owned()
            }
            _ => text,
        }
    }

    pub async fn check(&self, case: &Case) -> Fate {
        let (data, id) = &self.canaries[case.room];
        let before = self.lengths().await;
        let fate = case.fate();
        // A stream that is open does not end.
        let until: &[&str] = match fate {
            Fate::Refused => &[],
            _ => &[data],
        };
        let answer = self.exchange(case, until).await;
        let after = self.lengths().await;
        let status: u16 = answer
            .get(9..12)
            .and_then(|status| status.parse().ok())
            .unwrap_or_default();
        let told = format!("{case:?}: {fate:?}\n{answer}");
        let leaks = self
            .canaries
            .iter()
            .any(|(data, id)| answer.contains(data) || answer.contains(id));
        let stored: u64 = after.iter().sum::<u64>() - before.iter().sum::<u64>();
        match fate {
            Fate::Refused => {
                assert!((400..500).contains(&status), "{told}");
                assert!(!leaks, "{told}");
                assert_eq!(before, after, "{told}");
            }
            Fate::Away => {
                let stream = matches!(case.act, Act::Stream | Act::Recent | Act::PostSubscribe);
                assert_eq!(status, if stream { 200 } else { 503 }, "{told}");
                assert_eq!(stream, answer.contains("event: stream.close"), "{told}");
                assert!(!leaks, "{told}");
                assert_eq!(before, after, "{told}");
            }
            Fate::Allowed => {
                assert_eq!(stored, u64::from(case.act.publishes()), "{told}");
                assert_eq!(after[case.room] - before[case.room], stored, "{told}");
                match case.act {
                    Act::Stream | Act::Recent | Act::PostSubscribe | Act::History => {
                        assert!(status == 200 && answer.contains(data), "{told}");
                    }
                    Act::RoomInfo => assert!(status == 200 && answer.contains(id), "{told}"),
                    Act::Head | Act::HeadRoom => assert_eq!(status, 200, "{told}"),
                    _ => assert_eq!(status, 201, "{told}"),
                }
            }
        }
        fate
    }
}
