//! Streams end when the permission they were opened with ends.

use serde_json::{Value, json};

use crate::support::http;
use crate::support::{Client, Gateway, Setup};

const SECRET: &str = "a secret of at least as many bytes as the hash has";

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// `Authorization` with a token of these claims, for all rooms.
pub fn bearer(mut claims: Value) -> String {
    claims["sse"] = json!({ "subscribe": ["*"], "publish": ["*"] });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key);
    format!("Bearer {}", token.unwrap())
}

/// The same for a user, issued at a time and good for an hour.
pub fn bearer_of(user: &str, issued: u64) -> String {
    bearer(json!({ "sub": user, "iat": issued, "exp": issued + 3600 }))
}

/// Every room needs a token.
pub fn with_tokens(setup: Setup) -> Setup {
    setup
        .set("dev", "false")
        .set("access.publish", "* token")
        .set("tokens.keys", &format!("HS256 base64:{}", base64(SECRET)))
}

/// RFC 4648, section 4.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in text.as_bytes().chunks(3) {
        let bits = part
            .iter()
            .chain([&0; 2])
            .take(3)
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for digit in 0..=part.len() {
            out.push(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char);
        }
    }
    out + &"=".repeat((3 - text.len() % 3) % 3)
}

async fn publish(gateway: &Gateway, data: &str) -> String {
    let target = "/rooms/demo/events";
    let headers = [
        ("Authorization", &bearer_of("backend", now())[..]),
        ("Content-Type", "text/plain"),
    ];
    let answer = http::request(gateway.address, "POST", target, &headers, data.as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token_and_a_fresh_one_goes_on_from_there() {
    let setup = with_tokens(Setup::memory());
    let gateway = setup.set("tokens.leeway", "1s").start().await;
    let short = bearer(json!({ "sub": "ann", "iat": now(), "exp": now() + 3 }));
    let of = |token: &str| Client::of(&[gateway.address], "demo").header("Authorization", token);
    let client = of(&short).open().await;
    let other = of(&bearer_of("bob", now())).open().await;
    let first = publish(&gateway, "one").await;
    client.wait_id(&first).await;
    let close = client.wait_control("stream.close").await;
    assert_eq!(close["reason"], "expired");
    assert!(client.seen().retry_ms.is_some());
    assert_eq!(client.seen().clean_ends, 0);
    // It comes back with the same token, which does not count any more.
    eventually!(
        client.seen().refused.is_some(),
        "it goes on: {}",
        client.summary()
    );
    assert!(other.seen().connected);
    let second = publish(&gateway, "two").await;
    let last = client.seen().last_event_id.clone();
    let fresh = of(&bearer_of("ann", now())).last_event_id(&last);
    let fresh = fresh.open().await;
    fresh.wait_id(&second).await;
    fresh.assert_ids("with a fresh token", &[second]);
    let ended = "sse_gateway_streams_closed_total{reason=\"expired\"}";
    assert!(
        gateway
            .metric(ended)
            .await
            .is_some_and(|ended| ended >= 1.0)
    );
    assert!(
        !gateway.log().contains(&short[7..]),
        "a token is in the log"
    );
}
