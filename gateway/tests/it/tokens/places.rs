//! Where in a request a token is.

use super::*;

/// Headers, query, whether it is let in, and else a word of the answer.
type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, bool, &'a str);

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tokens_the_more_deliberate_counts_and_in_one_place_there_is_one() {
    let gateway = setup(&format!("HS256 {SECRET}"))
        .set("tokens.cookie", "visitor")
        .set("tokens.query", "t")
        .start()
        .await;
    let good = hs256(&claims());
    let expired = changed(|claims| claims["exp"] = 1.into());
    let bearer = |token: &str| format!("Bearer {token}");
    let cookie = |token: &str| format!("visitor={token}");
    let (good_bearer, bad_bearer) = (bearer(&good), bearer(&expired));
    let (good_cookie, bad_cookie) = (cookie(&good), cookie(&expired));
    let (good_query, bad_query) = (format!("t={good}"), format!("t={expired}"));
    let two_cookies = format!("{good_cookie}; {good_cookie}");
    let two_queries = format!("{good_query}&{good_query}");
    let (a, c) = ("Authorization", "Cookie");
    let table: [Row<'_>; 13] = [
        (&[], &good_query, true, ""),
        (&[(c, &good_cookie)], &bad_query, true, ""),
        (&[(a, &good_bearer), (c, &bad_cookie)], &bad_query, true, ""),
        (&[(a, "Basic YTpi"), (c, &good_cookie)], "", true, ""),
        (&[(c, "visitor=; other=1")], &good_query, true, ""),
        (
            &[(a, &bad_bearer), (c, &good_cookie)],
            &good_query,
            false,
            "expired",
        ),
        (&[(c, &bad_cookie)], &good_query, false, "expired"),
        (
            &[(a, "Bearer x"), (c, &good_cookie)],
            "",
            false,
            "three parts",
        ),
        (
            &[(a, &good_bearer), (a, &good_bearer)],
            "",
            false,
            "two tokens",
        ),
        (&[(c, &two_cookies)], "", false, "two tokens"),
        (
            &[(c, &good_cookie), (c, &bad_cookie)],
            "",
            false,
            "two tokens",
        ),
        (&[], &two_queries, false, "two tokens"),
        (&[(c, "Visitor=x")], "T=x", false, "`visitor`"),
    ];
    for (headers, query, allowed, word) in table {
        for what in SUBSCRIBING {
            let answer = ask(&gateway, what, query, headers).await;
            let status = if allowed { 200 } else { 401 };
            assert_answer(&format!("{headers:?} {query}"), what, &answer, status, word);
        }
        let answer = ask(&gateway, PUBLISHING, query, headers).await;
        let status = if allowed { 201 } else { 401 };
        assert_answer(
            &format!("{headers:?} {query}"),
            PUBLISHING,
            &answer,
            status,
            word,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_looked_at_only_where_that_is_configured_and_nothing_shows_it() {
    let closed = setup(&format!("HS256 {SECRET}")).start().await;
    let query = format!("token={}", hs256(&claims()));
    assert_eq!(ask(&closed, "history", &query, &[]).await.status, 401);
    assert_eq!(ask(&closed, PUBLISHING, &query, &[]).await.status, 401);
    let open = setup(&format!("HS256 {SECRET}"))
        .set("tokens.query", "token")
        .set("log.access", "true")
        .set("log.level", "trace")
        .start()
        .await;
    for what in SUBSCRIBING {
        assert_eq!(ask(&open, what, &query, &[]).await.status, 200, "{what}");
    }
    assert_eq!(ask(&open, PUBLISHING, &query, &[]).await.status, 201);
    let misspelt = ask(&open, PUBLISHING, &format!("{query}&replica=1"), &[]).await;
    assert!(misspelt.error().contains("`replica`"));
    eventually!(open.log().contains("chat:1"), "{}", open.log());
    assert!(!open.log().contains("eyJ"), "a token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_keys_come_before_tokens() {
    let gateway = setup(&format!("HS256 {SECRET}"))
        .set("publish.keys", "a-key")
        .start()
        .await;
    for (token, status, word) in [
        ("a-key", 201, ""),
        (&hs256(&claims())[..], 201, ""),
        ("another-key", 401, "publish.keys"),
        (&without("sse"), 403, "names the room"),
    ] {
        let answer = with_token(&gateway, PUBLISHING, token).await;
        assert_answer(token, PUBLISHING, &answer, status, word);
    }
    let answer = ask(&gateway, PUBLISHING, "", &[]).await;
    assert_answer("nothing", PUBLISHING, &answer, 401, "publish.keys");
    // A key is no token: it opens no room for reading.
    assert_eq!(with_token(&gateway, "history", "a-key").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_for_tokens_the_answer_says_what_to_configure() {
    let gateway = Setup::memory()
        .set("dev", "false")
        .set("access.subscribe", "news:* open")
        .start()
        .await;
    let answer = ask(&gateway, "stream", "", &[]).await;
    assert_answer("no keys", "stream", &answer, 403, "tokens.key_files");
}
