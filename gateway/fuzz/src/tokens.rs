//! JSON Web Tokens before anything about them is known to be true: their parts, claims, keys and key sets.

use protocol::RoomName;
use protocol::token::{
    Algorithm, Claims, DEFAULT_CLAIM, Key, KeyLine, KeySource, MAX_PATTERNS, MAX_USER_BYTES, Token,
    read_set,
};

pub fn check(bytes: &[u8]) {
    claims(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(token) = Token::split(text) {
            assert_eq!(text.matches('.').count(), 2);
            claims(&token.payload);
            // Nobody who does not know the key has signed it.
            let key = Key::new(None, Algorithm::HS256, &[7; 32]).unwrap();
            assert!(!token.is_signed_by(&key));
        }
        let _ = KeyLine::read(text);
    }
    let of_url = read_set(bytes, KeySource::Url, |_| ());
    let of_file = read_set(bytes, KeySource::File, |_| {
        unreachable!("a file is refused whole")
    });
    // A secret is no key of a set that anyone may fetch; what else a file has, a URL has too.
    if let (Ok(of_url), Ok(of_file)) = (of_url, of_file) {
        assert!(of_url.len() <= of_file.len());
        let symmetric = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        assert!(of_url.iter().all(|key| !symmetric.contains(&key.algorithm)));
    }
}

fn claims(bytes: &[u8]) {
    let Ok(claims) = Claims::read(bytes, DEFAULT_CLAIM) else {
        return;
    };
    if let Some(user) = &claims.user {
        assert!(user.len() <= MAX_USER_BYTES);
    }
    let room = RoomName::parse("some:room").unwrap();
    for rooms in [&claims.subscribe, &claims.publish] {
        assert!(rooms.iter().len() <= MAX_PATTERNS);
        for pattern in rooms.iter() {
            assert!(protocol::pattern::is_pattern(pattern), "{pattern}");
        }
        let any = rooms
            .iter()
            .any(|pattern| protocol::pattern::fits(pattern, room.as_str()));
        assert_eq!(rooms.fit(&room), any);
    }
}
