//! The gateways that the matrix asks, and what their answers have to be.

use std::time::Duration;

use ::http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::case::{APP, Act, Case, Fate, ROOMS, SECRET, Way};
use crate::support::{Authority, Backend, Gateway, Http2, RedisServer, Reply, Setup, redis};

/// How long an answer that should end by itself may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway at the root, one under a prefix, one with TLS, one Redis, and an event in each room.
pub struct World {
    plain: Gateway,
    prefixed: Gateway,
    secure: Gateway,
    authority: Authority,
    /// A connection to the first, with the requests of many.
    shared: Mutex<Http2>,
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
            let cookies = headers.get(header::COOKIE);
            let mut cookies = cookies.map_or("", |all| all.to_str().unwrap()).split("; ");
            Reply::status(match cookies.find(|cookie| cookie.starts_with("user=")) {
                Some("user=yes") => 200,
                Some("user=no") => 403,
                Some("user=away") => 500,
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
        let authority = Authority::new();
        let secure = authority.secure(setup());
        let secure = secure.set("tls.client_ca_file", &authority.file("ca.pem"));
        let secure = secure.start().await;
        let mut canaries = Vec::new();
        for (room, _) in ROOMS {
            let data = format!("canary-of-{room}");
            let id = redis.publish(room, "canary", &data).await;
            canaries.push((data, id));
        }
        Self {
            shared: Mutex::new(Http2::connect(plain.address).await),
            plain,
            prefixed,
            secure,
            authority,
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
            Way::Tls | Way::TlsCertified | Way::Http2Tls | Way::Http2Certified => &self.secure,
            _ => &self.plain,
        };
        let secure = async |protocol| {
            let (certificate, protocols) =
                (case.way.is_certified().then_some("client"), [protocol]);
            let stream = self
                .authority
                .connect(gateway.address, certificate, &protocols);
            stream.await.unwrap()
        };
        let bytes = case.bytes(&gateway.address.to_string());
        match case.way {
            Way::Http2 => ask(&Http2::connect(gateway.address).await, case, until).await,
            Way::Http2Shared => {
                let mut client = self.shared.lock().await;
                if client.has_ended() {
                    *client = Http2::connect(gateway.address).await;
                }
                ask(&client, case, until).await
            }
            Way::Http2Tls | Way::Http2Certified => {
                ask(&Http2::over(secure("h2").await).await, case, until).await
            }
            Way::Tls | Way::TlsCertified => talk(secure("http/1.1").await, &bytes, until).await,
            way => {
                let socket = TcpStream::connect(gateway.address).await.unwrap();
                let text = talk(socket, &bytes, until).await;
                if way != Way::BehindAnother {
                    return text;
                }
                let at = text.find("\r\n\r\n").expect("the first answer") + 4;
                text[at..].to_owned()
            }
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

fn has(answer: &[u8], until: &[&str]) -> bool {
    let text = String::from_utf8_lossy(answer);
    until.iter().any(|word| text.contains(word))
}

/// Over HTTP/1.
async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    bytes: &[u8],
    until: &[&str],
) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !has(&answer, until) && matches!(stream.read_buf(&mut answer).await, Ok(1..)) {}
    };
    // What does not end is judged by what came.
    let _ = timeout(PATIENCE, read).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Over HTTP/2; the answer as HTTP/1 would write it.
async fn ask(client: &Http2, case: &Case, until: &[&str]) -> String {
    let request = case.request();
    let headers = request.headers.iter();
    let headers: Vec<_> = headers.map(|(name, value)| (*name, &value[..])).collect();
    let body = request.body.as_bytes();
    let answer = client.send(request.method, &request.target, &headers, body);
    let answer = timeout(PATIENCE, answer).await.expect("a head").unwrap();
    let (head, mut body) = answer.into_parts();
    let mut text = format!("HTTP/2.0 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    let read = async {
        while !has(&text, until)
            && let Some(Ok(frame)) = body.frame().await
        {
            text.extend(frame.into_data().unwrap_or_default());
        }
    };
    let _ = timeout(PATIENCE, read).await;
    String::from_utf8_lossy(&text).into_owned()
}
