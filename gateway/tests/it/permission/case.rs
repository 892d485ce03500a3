//! A request of the matrix, what has to become of it, and its bytes.

use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;

/// Tokens that the matrix shows are signed with it.
pub const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
pub const APP: &str = "https://app.example";

/// Rooms with a rule each; `open:private` has a rule above that of its neighbours, `other` has none.
pub const ROOMS: [(&str, Rule); 5] = [
    ("open:a", Rule::Open),
    ("open:private", Rule::Token),
    ("forward:a", Rule::Forward),
    ("token:a", Rule::Token),
    ("other", Rule::Token),
];

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    Open,
    Token,
    Forward,
}

/// What `Authorization` holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bearer {
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
pub enum Cookie {
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
pub enum Token {
    Valid,
    Expired,
    OtherRoom,
    OtherSecret,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Act {
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
pub enum Page {
    None,
    Allowed,
    Evil,
    Null,
    CrossSite,
}

/// How the path is written, and how it is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
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
    Tls,
    /// With a client certificate, which stands for a key.
    TlsCertified,
    /// HTTP/2 with prior knowledge...
    Http2,
    /// ...on a connection that has served other cases...
    Http2Shared,
    /// ...and over TLS...
    Http2Tls,
    /// ...with a client certificate.
    Http2Certified,
}

/// Those that lead to the room.
const LEADS: [Way; 13] = {
    use Way::*;
    [
        Plain,
        Http10,
        Absolute,
        Prefix,
        Encoded,
        BehindAnother,
        Rewrite,
        Tls,
        TlsCertified,
        Http2,
        Http2Shared,
        Http2Tls,
        Http2Certified,
    ]
};

impl Way {
    pub fn leads(self) -> bool {
        LEADS.contains(&self)
    }

    pub fn is_certified(self) -> bool {
        matches!(self, Self::TlsCertified | Self::Http2Certified)
    }

    pub fn is_http2(self) -> bool {
        use Way::*;
        matches!(self, Http2 | Http2Shared | Http2Tls | Http2Certified)
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
pub struct Case {
    bearer: Bearer,
    cookie: Cookie,
    query: Option<Token>,
    pub act: Act,
    page: Page,
    pub room: usize,
    pub way: Way,
}

/// What has to become of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    Allowed,
    Refused,
    /// Whoever decides cannot be asked.
    Away,
}

impl Act {
    pub fn publishes(self) -> bool {
        matches!(
            self,
            Self::PublishJson | Self::PublishText | Self::PublishForm
        )
    }

    /// Whether there is such a thing to do.
    pub fn exists(self) -> bool {
        !matches!(self, Self::Put | Self::Delete)
    }
}

impl Case {
    pub fn fate(&self) -> Fate {
        if !self.way.leads() || !self.act.exists() || self.is_forged() {
            return Fate::Refused;
        }
        let publishes = self.act.publishes();
        match ROOMS[self.room].1 {
            _ if publishes && (self.bearer == Bearer::Key || self.way.is_certified()) => {
                Fate::Allowed
            }
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

    /// The request, without what belongs to a connection.
    pub fn request(&self) -> Request {
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
        let path = self.way.path(room, rest);
        let token = self.query.map(|token| format!("token={}", token.text()));
        let query = [token.as_deref().unwrap_or(""), query].join("&");
        let mut headers = Vec::new();
        let mut add = |name, value: &str| headers.push((name, value.to_owned()));
        match self.bearer {
            Bearer::Nothing => {}
            Bearer::Wrong => add("Authorization", "Bearer nobodys-key"),
            Bearer::Key => add("Authorization", "Bearer the-key"),
            Bearer::KeyElsewhere => add("Authorization", "Bearer news-key"),
            Bearer::Token(token) => add("Authorization", &format!("Bearer {}", token.text())),
            Bearer::Basic => add("Authorization", "Basic dGhlLWtleTp0aGUta2V5"),
        }
        if self.way.is_http2() && self.cookie != Cookie::Nothing {
            // Browsers send each cookie by itself (RFC 9113, section 8.2.3).
            add("Cookie", "theme=dark");
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
        let kind = "Content-Type";
        let mut body = "";
        match self.act {
            Act::PostSubscribe => add("Accept", "text/event-stream"),
            Act::History => add("Accept", "application/json"),
            Act::PublishJson => (add(kind, "application/json"), body = r#"{"data":"stored"}"#).0,
            Act::PublishText => (add(kind, "text/plain"), body = "stored").0,
            Act::PublishForm => (add(kind, "application/x-www-form-urlencoded"), body = "a=b").0,
            _ => {}
        }
        Request {
            method,
            target: format!("{path}?{query}"),
            headers,
            body,
        }
    }

    /// The request's bytes, over HTTP/1.
    pub fn bytes(&self, host: &str) -> Vec<u8> {
        let request = self.request();
        let (method, body) = (request.method, request.body);
        let (before, version) = match self.way {
            Way::Absolute => (format!("http://{host}"), "1.1"),
            Way::Http10 => (String::new(), "1.0"),
            _ => (String::new(), "1.1"),
        };
        let mut head = format!(
            "{method} {before}{} HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\n",
            request.target
        );
        for (name, value) in &request.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !matches!(method, "GET" | "HEAD") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let first = if self.way == Way::BehindAnother {
            format!("OPTIONS /rooms/open:a HTTP/1.1\r\nHost: {host}\r\n\r\n")
        } else {
            String::new()
        };
        format!("{first}{head}\r\n{body}").into_bytes()
    }
}

/// See [`Case::request`].
pub struct Request {
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: &'static str,
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

pub fn cases() -> impl Strategy<Value = Case> {
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
        prop_oneof![3 => prop::sample::select(&LEADS), 1 => prop::sample::select(leads_not)]
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
