//! Who may do what: publish keys, and a matrix of (who, what, where, by which way in) against a model of a few lines.

use std::sync::Mutex;

use ::http::{HeaderMap, header};
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Backend, Gateway, RedisServer, Reply, Setup, redis};

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
    assert_eq!(post(&gateway, "news", "second").await, 201);
    assert!(!gateway.log().contains("third") && !gateway.log().contains("second"));
    let output = Setup::memory().set("publish.key_files", file.to_str().unwrap());
    let output = output.output().await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{error}");
    assert!(
        error.contains("publish.key_files") && !error.contains("third"),
        "{error}"
    );
}

/// Tokens that the matrix shows are signed with it.
const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
const APP: &str = "https://app.example";
/// Requests that are generated.
const CASES: u32 = 2500;
/// How long an answer that should end by itself may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Rooms with a rule each; `open:private` has a rule above that of its neighbours, `other` has none.
const ROOMS: [(&str, Rule); 5] = [
    ("open:a", Rule::Open),
    ("open:private", Rule::Token),
    ("forward:a", Rule::Forward),
    ("token:a", Rule::Token),
    ("other", Rule::Token),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    Open,
    Token,
    Forward,
}

/// What `Authorization` holds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bearer {
    Nothing,
    Wrong,
    /// A key for every room.
    Key,
    /// A key for `news`.
    KeyElsewhere,
    Token(Token),
    Basic,
}

/// What the cookies hold.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cookie {
    Nothing,
    /// The backend knows it and lets it in...
    Yes,
    /// ...does not...
    No,
    /// ...or cannot say.
    Away,
    Token(Token),
}

/// A token for every room but those of `open:private`, or one that lacks something.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Token {
    Valid,
    Expired,
    OtherRoom,
    OtherSecret,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Stream,
    Recent,
    PostSubscribe,
    History,
    RoomInfo,
    Head,
    HeadRoom,
    PublishJson,
    PublishText,
    PublishForm,
    Put,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Page {
    None,
    Allowed,
    Evil,
    Null,
    CrossSite,
}

/// How the path is written, and how it is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Plain,
    Http10,
    Absolute,
    Prefix,
    PrefixMissing,
    PrefixTooMuch,
    Encoded,
    EncodedTwice,
    BehindAnother,
    Rewrite,
    DoubleSlash,
    DoubleSlashInside,
    EncodedSlash,
    DotDot,
    EncodedDotDot,
    UpperCase,
    TrailingSlash,
    Semicolon,
    Nul,
    Space,
    Wildcard,
}

impl Way {
    /// Whether it leads to the room.
    fn leads(self) -> bool {
        use Way::*;
        matches!(
            self,
            Plain | Http10 | Absolute | Prefix | Encoded | BehindAnother | Rewrite
        )
    }

    fn path(self, room: &str, rest: &str) -> String {
        let encode = |text: &str, mark: &str| -> String {
            text.bytes()
                .map(|byte| format!("{mark}{byte:02x}"))
                .collect()
        };
        let plain = format!("/rooms/{room}{rest}");
        match self {
            Self::Prefix | Self::PrefixTooMuch => format!("/live{plain}"),
            Self::Encoded => format!("/rooms/{}{rest}", encode(room, "%")),
            Self::EncodedTwice => format!("/rooms/{}{rest}", encode(room, "%25")),
            Self::DoubleSlash => format!("/{plain}"),
            Self::DoubleSlashInside => format!("/rooms//{room}{rest}"),
            Self::EncodedSlash => format!("/rooms%2F{room}{rest}"),
            Self::DotDot => format!("/rooms/open:a/../{room}{rest}"),
            Self::EncodedDotDot => format!("/rooms/open:a/%2e%2e/{room}{rest}"),
            Self::UpperCase => format!("/ROOMS/{}{rest}", room.to_ascii_uppercase()),
            Self::TrailingSlash => format!("{plain}/"),
            Self::Semicolon => format!("/rooms/{room};x=y{rest}"),
            Self::Nul => format!("/rooms/{room}%00{rest}"),
            Self::Space => format!("/rooms/{room}%20{rest}"),
            Self::Wildcard => format!("/rooms/*{rest}"),
            _ => plain,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    bearer: Bearer,
    cookie: Cookie,
    query: Option<Token>,
    act: Act,
    page: Page,
    room: usize,
    way: Way,
}

/// What has to become of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Allowed,
    Refused,
    /// Whoever decides cannot be asked.
    Away,
}

impl Act {
    fn publishes(self) -> bool {
        matches!(
            self,
            Self::PublishJson | Self::PublishText | Self::PublishForm
        )
    }

    /// Whether there is such a thing to do.
    fn exists(self) -> bool {
        !matches!(self, Self::Put | Self::Delete)
    }
}

impl Case {
    fn fate(&self) -> Fate {
        if !self.way.leads() || !self.act.exists() || self.is_forged() {
            return Fate::Refused;
        }
        let publishes = self.act.publishes();
        match ROOMS[self.room].1 {
            _ if publishes && self.bearer == Bearer::Key => Fate::Allowed,
            Rule::Open => Fate::Allowed,
            Rule::Forward if publishes && self.bearer == Bearer::KeyElsewhere => Fate::Refused,
            Rule::Forward => match self.cookie {
                Cookie::Yes => Fate::Allowed,
                Cookie::Away => Fate::Away,
                Cookie::Nothing | Cookie::No | Cookie::Token(_) => Fate::Refused,
            },
            Rule::Token => self.by_token(),
        }
    }

    /// A page that may not, or what could be a form of one.
    fn is_forged(&self) -> bool {
        let form = matches!(self.act, Act::PublishText | Act::PublishForm);
        match self.page {
            Page::Evil | Page::Null | Page::CrossSite => true,
            Page::None => form && self.cookie != Cookie::Nothing,
            Page::Allowed => false,
        }
    }

    /// The most deliberate counts, whatever else is shown: `Authorization`, then the cookie, then the query.
    fn by_token(&self) -> Fate {
        let bearer = match self.bearer {
            Bearer::Token(token) => Some(token),
            Bearer::Wrong | Bearer::Key | Bearer::KeyElsewhere => Some(Token::None),
            Bearer::Nothing | Bearer::Basic => None,
        };
        let cookie = match self.cookie {
            Cookie::Token(token) => Some(token),
            _ => None,
        };
        let shown = bearer.or(cookie).or(self.query);
        match shown {
            Some(Token::Valid) if ROOMS[self.room].0 != "open:private" => Fate::Allowed,
            _ => Fate::Refused,
        }
    }

    /// The request's bytes.
    fn bytes(&self, host: &str) -> Vec<u8> {
        let room = ROOMS[self.room].0;
        let (method, rest) = match self.act {
            Act::Stream => ("GET", "/events?lastEventId=0-0"),
            Act::Recent => ("GET", "/events?recent=1000"),
            Act::History => ("GET", "/events?after=0-0&limit=1000"),
            Act::RoomInfo => ("GET", ""),
            Act::Head => ("HEAD", "/events?lastEventId=0-0"),
            Act::HeadRoom => ("HEAD", ""),
            Act::PostSubscribe => ("POST", "/events?lastEventId=0-0"),
            Act::PublishJson | Act::PublishText | Act::PublishForm => ("POST", "/events"),
            Act::Put => ("PUT", "/events"),
            Act::Delete => ("DELETE", ""),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut target = self.way.path(room, rest);
        let token = self.query.map(|token| format!("token={}", token.text()));
        let query = [token.as_deref().unwrap_or(""), query].join("&");
        if self.way == Way::Absolute {
            target = format!("http://{host}{target}");
        }
        let version = if self.way == Way::Http10 {
            "1.0"
        } else {
            "1.1"
        };
        let mut head = format!(
            "{method} {target}?{query} HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\n"
        );
        let mut add = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
        match self.bearer {
            Bearer::Nothing => {}
            Bearer::Wrong => add("Authorization", "Bearer nobodys-key"),
            Bearer::Key => add("Authorization", "Bearer the-key"),
            Bearer::KeyElsewhere => add("Authorization", "Bearer news-key"),
            Bearer::Token(token) => add("Authorization", &format!("Bearer {}", token.text())),
            Bearer::Basic => add("Authorization", "Basic dGhlLWtleTp0aGUta2V5"),
        }
        match self.cookie {
            Cookie::Nothing => {}
            Cookie::Yes => add("Cookie", "user=yes"),
            Cookie::No => add("Cookie", "user=no"),
            Cookie::Away => add("Cookie", "user=away"),
            Cookie::Token(token) => add("Cookie", &format!("sse_token={}", token.text())),
        }
        match self.page {
            Page::None => {}
            Page::Allowed => add("Origin", APP),
            Page::Evil => add("Origin", "https://evil.example"),
            Page::Null => add("Origin", "null"),
            Page::CrossSite => add("Sec-Fetch-Site", "cross-site"),
        }
        if self.way == Way::Rewrite {
            // What other servers would listen to.
            for name in [
                "X-Original-URL",
                "X-Rewrite-URL",
                "X-HTTP-Method-Override",
                "X-Sse-User",
            ] {
                add(name, "/rooms/open:a/events");
            }
            add("X-Forwarded-For", "127.0.0.1");
            add("X-Sse-Room", "open:a");
        }
        let mut body = "";
        match self.act {
            Act::PostSubscribe => add("Accept", "text/event-stream"),
            Act::History => add("Accept", "application/json"),
            Act::PublishJson => {
                (
                    add("Content-Type", "application/json"),
                    body = r#"{"data":"stored"}"#,
                )
                    .0
            }
            Act::PublishText => (add("Content-Type", "text/plain"), body = "stored").0,
            Act::PublishForm => {
                (
                    add("Content-Type", "application/x-www-form-urlencoded"),
                    body = "a=b",
                )
                    .0
            }
            _ => {}
        }
        if !matches!(method, "GET" | "HEAD") {
            add("Content-Length", &body.len().to_string());
        }
        let first = if self.way == Way::BehindAnother {
            format!("OPTIONS /rooms/open:a HTTP/1.1\r\nHost: {host}\r\n\r\n")
        } else {
            String::new()
        };
        format!("{first}{head}\r\n{body}").into_bytes()
    }
}

impl Token {
    fn text(self) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.unwrap().as_secs();
        let rooms: &[&str] = match self {
            Self::OtherRoom => &["news:*"],
            _ => &["open:a", "forward:*", "token:*", "other"],
        };
        let (issued, ends) = match self {
            Self::Expired => (now - 7200, now - 3600),
            _ => (now, now + 3600),
        };
        let claims = serde_json::json!({
            "sub": "ann", "iat": issued, "exp": ends,
            "sse": { "subscribe": rooms, "publish": rooms },
        });
        let secret = match self {
            Self::OtherSecret => "another-secret-of-thirty-two-bytes-and-more",
            _ => SECRET,
        };
        let key = EncodingKey::from_secret(secret.as_bytes());
        let text = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
        match self {
            // {"alg":"none","typ":"JWT"}
            Self::None => {
                let claims = text.split('.').nth(1).unwrap();
                format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
            }
            _ => text,
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let token = || {
        use Token::*;
        prop::sample::select(vec![Valid, Valid, Expired, OtherRoom, OtherSecret, None])
    };
    let bearer = prop_oneof![
        4 => Just(Bearer::Nothing),
        2 => Just(Bearer::Key),
        1 => Just(Bearer::Wrong),
        1 => Just(Bearer::KeyElsewhere),
        1 => Just(Bearer::Basic),
        2 => token().prop_map(Bearer::Token),
    ];
    let cookie = prop_oneof![
        4 => Just(Cookie::Nothing),
        3 => Just(Cookie::Yes),
        1 => Just(Cookie::No),
        3 => Just(Cookie::Away),
        2 => token().prop_map(Cookie::Token),
    ];
    let query = prop_oneof![3 => Just(None), 1 => token().prop_map(Some)];
    let act = {
        use Act::*;
        let all = vec![
            Stream,
            Recent,
            PostSubscribe,
            History,
            RoomInfo,
            Head,
            HeadRoom,
            PublishJson,
            PublishText,
            PublishForm,
            Put,
            Delete,
        ];
        prop::sample::select(all)
    };
    let page = {
        use Page::*;
        prop_oneof![6 => Just(None), 2 => Just(Allowed), 1 => Just(Evil), 1 => Just(Null), 1 => Just(CrossSite)]
    };
    let way = {
        use Way::*;
        let leads = vec![
            Plain,
            Http10,
            Absolute,
            Prefix,
            Encoded,
            BehindAnother,
            Rewrite,
        ];
        let leads_not = vec![
            PrefixMissing,
            PrefixTooMuch,
            EncodedTwice,
            DoubleSlash,
            DoubleSlashInside,
            EncodedSlash,
            DotDot,
            EncodedDotDot,
            UpperCase,
            TrailingSlash,
            Semicolon,
            Nul,
            Space,
            Wildcard,
        ];
        prop_oneof![3 => prop::sample::select(leads), 1 => prop::sample::select(leads_not)]
    };
    (
        bearer,
        cookie,
        query,
        act,
        page,
        prop::sample::select(vec![0, 1, 2, 2, 3, 4]),
        way,
    )
        .prop_map(|(bearer, cookie, query, act, page, room, way)| Case {
            bearer,
            cookie,
            query,
            act,
            page,
            room,
            way,
        })
}

/// A gateway at the root, one under a prefix, one Redis, and an event in each room.
struct World {
    plain: Gateway,
    prefixed: Gateway,
    connection: ::redis::aio::MultiplexedConnection,
    _redis: RedisServer,
    _backend: Backend,
    /// Data and id of the event in each room.
    canaries: Vec<(String, String)>,
}

impl World {
    async fn start() -> Self {
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

    async fn check(&self, case: &Case) -> Fate {
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
