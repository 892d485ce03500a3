use super::*;

type Headers = [(&'static str, &'static str)];

const HOST: (&str, &str) = ("host", "gate.example");

fn map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

fn judge(method: &Method, headers: &Headers) -> Result<Caller, Failure> {
    judge_by(method, headers, false)
}

fn judge_by(method: &Method, headers: &Headers, tls: bool) -> Result<Caller, Failure> {
    let allowed = [
        "https://app.example",
        "https://*.wide.example",
        "https://guest.example no-credentials",
        "https://*.guest.example no-credentials",
        "https://known.guest.example",
    ];
    let allowed = allowed.map(|line| AllowedOrigin::read(line).unwrap());
    let uri = Uri::from_static("/rooms/a/events");
    Caller::judge(method, &uri, &map(headers), &allowed, tls)
}

#[test]
fn own_and_allowed_origins_are_echoed() {
    for (origin, host) in [
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("https://Gate.example", "gate.example:443"),
        ("http://gate.example", "gate.example"),
        ("https://app.example", "gate.example"),
        ("https://a.b.wide.example", "gate.example"),
        ("https://known.guest.example", "gate.example"),
    ] {
        let caller = judge(&Method::GET, &[("origin", origin), ("host", host)]).unwrap();
        assert_eq!(caller, Caller::Page(HeaderValue::from_static(origin)));
        let mut answer = options("GET");
        caller.allow(&mut answer);
        let headers = answer.headers();
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], origin);
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    }
}

#[test]
fn a_page_over_http_is_not_of_a_gateway_with_tls() {
    for (origin, tls, is_own) in [
        ("http://gate.example", false, true),
        ("http://gate.example", true, false),
        ("https://gate.example", true, true),
        ("https://gate.example", false, true),
    ] {
        let caller = judge_by(&Method::POST, &[("origin", origin), HOST], tls);
        assert_eq!(caller.is_ok(), is_own, "{origin} {tls}");
        let referer = [("referer", origin), HOST];
        let caller = judge_by(&Method::POST, &referer, tls);
        assert_eq!(caller.is_ok(), is_own, "{origin} {tls}");
    }
}

#[test]
fn a_guest_brings_no_credentials() {
    for origin in ["https://guest.example", "https://a.guest.example"] {
        let caller = judge(&Method::POST, &[("origin", origin), HOST]).unwrap();
        assert_eq!(caller, Caller::Anonymous(HeaderValue::from_static(origin)));
        let mut answer = Failure::away("not now").into_response();
        caller.allow(&mut answer);
        let headers = answer.headers();
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], origin);
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
        assert_eq!(
            headers[header::ACCESS_CONTROL_EXPOSE_HEADERS],
            EXPOSED_HEADERS
        );
    }
    for (shown, left) in [
        (&[("cookie", "a=b")][..], &[][..]),
        (&[("authorization", "Basic YTpi")], &[]),
        (
            &[
                ("authorization", "Bearer a"),
                ("authorization", "Basic YTpi"),
            ],
            &[],
        ),
        (
            &[("authorization", "bearer a"), ("accept", "*/*")],
            &[("authorization", "bearer a"), ("accept", "*/*")],
        ),
    ] {
        let mut headers = map(shown);
        drop_credentials(&mut headers);
        assert_eq!(headers, map(left));
    }
}

#[test]
fn other_origins_are_refused() {
    for origin in [
        "null",
        "",
        "http://gate.example:81",
        "https://evil.example",
        "http://",
        "https://app.example.evil",
        "https://wide.example",
        "http://a.wide.example",
    ] {
        for method in [Method::GET, Method::POST, Method::OPTIONS, Method::HEAD] {
            let failure = judge(&method, &[("origin", origin), HOST]).unwrap_err();
            assert_eq!(failure.status, StatusCode::FORBIDDEN, "{origin}");
        }
    }
    let two = [
        ("origin", "https://app.example"),
        ("origin", "https://app.example"),
        HOST,
    ];
    assert!(judge(&Method::GET, &two).is_err());
}

/// What arrives without `Origin`, and whether it goes on.
#[test]
fn without_an_origin_the_rest_decides() {
    use Method as M;
    const SAME: (&str, &str) = ("sec-fetch-site", "same-site");
    const CROSS: (&str, &str) = ("sec-fetch-site", "cross-site");
    const COOKIE: (&str, &str) = ("cookie", "sse_token=x");
    let kind = |kind| ("content-type", kind);
    let form = kind("application/x-www-form-urlencoded");
    let rows: &[(M, &Headers, bool)] = &[
        // No browser: curl, a backend, a stream of an old page of the same origin.
        (M::GET, &[], true),
        (M::GET, &[COOKIE], true),
        (M::POST, &[], true),
        (M::POST, &[form], true),
        (M::POST, &[COOKIE, kind("application/json")], true),
        // The same origin, and what the user typed.
        (M::GET, &[("sec-fetch-site", "same-origin"), COOKIE], true),
        (
            M::POST,
            &[("sec-fetch-site", "same-origin"), COOKIE, form],
            true,
        ),
        (
            M::GET,
            &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
            true,
        ),
        // A link on another site; an image, a script and a fetch without CORS.
        (
            M::GET,
            &[CROSS, ("sec-fetch-mode", "navigate"), COOKIE],
            true,
        ),
        (M::GET, &[SAME, ("sec-fetch-mode", "navigate")], true),
        (
            M::GET,
            &[CROSS, ("sec-fetch-mode", "no-cors"), COOKIE],
            false,
        ),
        (M::GET, &[SAME, ("sec-fetch-mode", "no-cors")], false),
        (M::HEAD, &[CROSS, ("sec-fetch-mode", "no-cors")], false),
        (M::GET, &[CROSS], false),
        // A form, from a browser that leaves `Origin` out.
        (
            M::POST,
            &[CROSS, ("sec-fetch-mode", "navigate"), form],
            false,
        ),
        (
            M::POST,
            &[SAME, ("sec-fetch-mode", "navigate"), form],
            false,
        ),
        (M::POST, &[("sec-fetch-site", "of-tomorrow"), form], false),
        // One that knows no `Sec-Fetch-Site` either.
        (
            M::POST,
            &[form, ("referer", "https://evil.example/form")],
            false,
        ),
        (
            M::POST,
            &[form, ("referer", "https://app.example/form")],
            true,
        ),
        (M::POST, &[form, ("referer", "https://gate.example/")], true),
        (M::POST, &[form, ("referer", "nonsense")], false),
        (M::POST, &[COOKIE, form], false),
        (M::POST, &[COOKIE, kind("Text/Plain; charset=utf-8")], false),
        (
            M::POST,
            &[COOKIE, kind("multipart/form-data; boundary=b")],
            false,
        ),
        (M::POST, &[COOKIE], false),
        (M::POST, &[COOKIE, kind("application/json"), form], false),
        // A client that is no browser subscribes by POST.
        (M::POST, &[COOKIE, ("accept", "text/event-stream")], true),
    ];
    for (method, headers, goes_on) in rows {
        let caller = judge(method, &[*headers, &[HOST]].concat());
        match caller {
            Ok(caller) => assert!(*goes_on && caller == Caller::Direct, "{method} {headers:?}"),
            Err(failure) => assert!(!goes_on && failure.status == 403, "{method} {headers:?}"),
        }
    }
}
