//! Redis goes away, comes back, forgets, or loses messages. Streams stay open, and nothing that the
//! stream has is missing at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::redis::key;
use crate::support::{
    Client, Gateway, Load, Persistence, Proxy, RedisServer, Setup, assert_same_ids,
};

async fn clients(gateway: &Gateway, room: &str, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Client::of(&[gateway.address], room).open().await);
    }
    clients
}

/// Everyone has everything, on one connection, without a reset.
async fn assert_all_have_all(redis: &RedisServer, room: &str, clients: &[Client]) {
    let ids = redis.ids(room).await;
    for (number, client) in clients.iter().enumerate() {
        client.wait_id(ids.last().unwrap()).await;
        client.assert_ids(&format!("client {number}"), &ids);
        client.assert_never_reset();
        assert_eq!(client.seen().connections, 1, "streams stay open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_and_restarted_with_its_data_under_load() {
    let mut redis = RedisServer::start_with(Persistence::AofAlways).await;
    let gateway = Setup::redis(&redis).start().await;
    let clients = clients(&gateway, "demo", 10).await;
    let load = Load::start(&redis, "demo");
    for _ in 0..3 {
        load.wait_more(100).await;
        redis.kill();
        redis.up().await;
    }
    load.wait_more(100).await;
    load.stop().await;
    assert_all_have_all(&redis, "demo", &clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_killed_by_redis_under_load() {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis).start().await;
    let clients = clients(&gateway, "demo", 10).await;
    let load = Load::start(&redis, "demo");
    for round in 0..10 {
        load.wait_more(40).await;
        let kind = if round % 2 == 0 { "pubsub" } else { "normal" };
        redis.call(&["CLIENT", "KILL", "TYPE", kind]).await;
    }
    load.wait_more(40).await;
    load.stop().await;
    assert_all_have_all(&redis, "demo", &clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_cut_on_the_way_under_load() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::to(redis.address).await;
    let gateway = Setup::redis_at(proxy.address).start().await;
    let clients = clients(&gateway, "demo", 10).await;
    let load = Load::start(&redis, "demo");
    for _ in 0..8 {
        load.wait_more(40).await;
        proxy.cut();
    }
    load.wait_more(40).await;
    load.stop().await;
    assert_all_have_all(&redis, "demo", &clients).await;
}

/// Loses what comes on these of the room's channels while the switch is on.
fn losing(proxy: &Proxy, channel: bool, signal: bool) -> Arc<AtomicBool> {
    let on = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&on);
    proxy.lose(move |name, _| {
        let lost = (channel && name == key("demo"))
            || (signal && name.starts_with("__key") && name.ends_with("demo"));
        lost && switch.load(Ordering::SeqCst)
    });
    on
}

async fn lost_messages_are_repaired(channel: bool, signal: bool, quiet: bool, plain: bool) {
    let redis = RedisServer::start().await;
    let proxy = Proxy::to(redis.address).await;
    let gateway = Setup::redis_at(proxy.address).start().await;
    let clients = clients(&gateway, "demo", 3).await;
    let publish = async |data: &str| {
        if plain {
            redis.xadd("demo", &[("data", data)]).await
        } else {
            redis.publish("demo", "chat", data).await
        }
    };
    let first = publish("arrives").await;
    clients[0].wait_id(&first).await;
    for round in 0..3 {
        let switch = losing(&proxy, channel, signal);
        switch.store(true, Ordering::SeqCst);
        let before = proxy.lost();
        publish(&format!("is lost {round}")).await;
        eventually!(proxy.lost() > before, "nothing was lost");
        if quiet {
            // Nothing follows: only a look at the stream can find it. Its deadline is
            // `assert_all_have_all`'s, while the loss goes on.
            assert_all_have_all(&redis, "demo", &clients).await;
        }
        switch.store(false, Ordering::SeqCst);
        publish(&format!("arrives {round}")).await;
        assert_all_have_all(&redis, "demo", &clients).await;
    }
    proxy.lose_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_channel_message_is_repaired() {
    lost_messages_are_repaired(true, false, false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_channel_message_is_repaired_in_a_room_that_goes_quiet() {
    lost_messages_are_repaired(true, false, true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_message_and_its_signal_are_repaired_by_the_next() {
    lost_messages_are_repaired(true, true, false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_message_and_its_signal_are_repaired_in_a_room_that_goes_quiet() {
    lost_messages_are_repaired(true, true, true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_signal_of_a_plain_xadd_is_repaired() {
    lost_messages_are_repaired(false, true, false, true).await;
    lost_messages_are_repaired(false, true, true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_lost_at_random_under_load() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::to(redis.address).await;
    let gateway = Setup::redis_at(proxy.address).start().await;
    let clients = clients(&gateway, "demo", 5).await;
    let mut count = 0usize;
    proxy.lose(move |name, _| {
        count += 1;
        name.contains("demo") && (count * 2_654_435_761) % 7 < 2
    });
    let load = Load::start(&redis, "demo");
    load.wait_more(400).await;
    load.stop().await;
    assert!(proxy.lost() > 50, "{} lost", proxy.lost());
    assert_all_have_all(&redis, "demo", &clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_falls_silent_is_replaced() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::to(redis.address).await;
    let setup = Setup::redis_at(proxy.address).set("redis.response_timeout", "500ms");
    let gateway = setup.start().await;
    let clients = clients(&gateway, "demo", 3).await;
    for round in 0..2 {
        redis.publish("demo", "chat", "arrives").await;
        proxy.freeze();
        redis
            .publish("demo", "chat", &format!("into the silence {round}"))
            .await;
        assert_all_have_all(&redis, "demo", &clients).await;
    }
    let answer = gateway
        .post("demo", &[("Content-Type", "text/plain")], b"hi")
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_all_have_all(&redis, "demo", &clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_rooms_catch_up_after_a_lost_link() {
    const ROOMS: usize = 400;
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis).start().await;
    let names: Vec<String> = (0..ROOMS).map(|number| format!("room-{number}")).collect();
    let mut all = Vec::new();
    for name in &names {
        all.push(Client::of(&[gateway.address], name).start());
    }
    for client in &all {
        client.wait_open().await;
    }
    let mut connection = redis.connection().await.unwrap();
    for round in 0..4 {
        let mut pipe = redis::pipe();
        pipe.cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).ignore();
        for name in &names {
            let arguments = ["sse_publish", "1", &*key(name), "data", "x"];
            pipe.cmd("FCALL").arg(&arguments).ignore();
        }
        pipe.exec_async(&mut connection).await.unwrap();
        for client in &all {
            client.wait_events(round + 1).await;
        }
    }
    for (name, client) in names.iter().zip(&all) {
        assert_same_ids(name, &client.ids(), &redis.ids(name).await);
        client.assert_never_reset();
        assert_eq!(client.seen().connections, 1);
    }
}

/// As after a failover: the last events are gone, and the stream goes on from before them.
#[tokio::test(flavor = "multi_thread")]
async fn redis_restored_from_an_older_copy_hides_nothing_that_it_has() {
    let mut redis = RedisServer::start_with(Persistence::AofAlways).await;
    let gateway = Setup::redis(&redis).start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let calm = Client::of(&[gateway.address], "calm").open().await;
    let kept = redis.publish("demo", "chat", "kept").await;
    redis.publish("calm", "chat", "kept").await;
    redis.back_up();
    let lost = redis.publish("demo", "chat", "lost").await;
    client.wait_id(&lost).await;
    redis.kill();
    redis.restore();
    redis.up().await;
    let next = redis.publish("demo", "chat", "on the other branch").await;
    client.wait_id(&next).await;
    // It saw what was lost and misses nothing that there is: one reset at most.
    assert!(client.resets().len() <= 1, "{:?}", client.resets());
    assert_same_ids(
        "both branches",
        &client.ids(),
        &[kept, lost.clone(), next.clone()],
    );
    // A node that knows nothing of the lost one cannot prove the position.
    let other = Setup::redis(&redis).start().await;
    let back = Client::of(&[other.address], "demo")
        .last_event_id(&lost)
        .open()
        .await;
    back.wait_control("stream.reset").await;
    let id = redis.publish("calm", "chat", "next").await;
    calm.wait_id(&id).await;
    calm.assert_never_reset();
    assert_eq!((calm.seen().connections, client.seen().connections), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_restarted_without_its_data_has_functions_and_flags_again() {
    let mut redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis).start().await;
    let known = Client::of(&[gateway.address], "demo").open().await;
    let fresh = Client::of(&[gateway.address], "other").open().await;
    let id = redis.publish("demo", "chat", "gone soon").await;
    known.wait_id(&id).await;
    redis.kill();
    redis.up().await;
    eventually!(
        library_is_loaded(&redis).await,
        "no functions: {}",
        gateway.log()
    );
    eventually!(
        flags(&redis).await.contains(['t', 'A']),
        "no flags: {:?}",
        flags(&redis).await
    );
    for (room, client) in [("demo", &known), ("other", &fresh)] {
        let id = redis.publish(room, "chat", "by the function").await;
        client.wait_id(&id).await;
        let id = redis.xadd(room, &[("data", "plain")]).await;
        client.wait_id(&id).await;
        assert_eq!(client.seen().connections, 1);
    }
    // What Redis lost is told, once; where nothing was, nothing is told.
    assert_eq!(known.resets().len(), 1, "{:?}", known.resets());
    fresh.assert_never_reset();
}

async fn library_is_loaded(redis: &RedisServer) -> bool {
    let list = redis
        .call(&["FUNCTION", "LIST", "LIBRARYNAME", "sse"])
        .await;
    format!("{list:?}").contains("sse_publish")
}

async fn flags(redis: &RedisServer) -> String {
    let pair: Vec<String> = redis
        .try_call(&["CONFIG", "GET", "notify-keyspace-events"])
        .await
        .unwrap();
    pair[1].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_of_functions_is_repaired_and_harms_no_publisher_over_http() {
    let redis = RedisServer::start().await;
    let gateway = Setup::redis(&redis).start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    redis.call(&["FUNCTION", "FLUSH"]).await;
    let id = gateway.publish("demo", "chat", "at once").await;
    client.wait_id(&id).await;
    redis.call(&["FUNCTION", "FLUSH"]).await;
    eventually!(
        library_is_loaded(&redis).await,
        "without any publish: {}",
        gateway.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn notification_flags_of_others_are_kept_and_ours_come_again() {
    let redis = RedisServer::start().await;
    redis
        .call(&["CONFIG", "SET", "notify-keyspace-events", "Ex"])
        .await;
    let gateway = Setup::redis(&redis).start().await;
    let all = flags(&redis).await;
    assert!(
        all.contains('E') && all.contains('x') && all.contains('K') && all.contains(['t', 'A']),
        "{all}"
    );
    let client = Client::of(&[gateway.address], "demo").open().await;
    redis
        .call(&["CONFIG", "SET", "notify-keyspace-events", ""])
        .await;
    let id = redis.xadd("demo", &[("data", "no signal")]).await;
    client.wait_id(&id).await;
    client.assert_never_reset();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_flags_cannot_be_set_tails_are_polled() {
    let redis = RedisServer::start().await;
    redis.call(&["ACL", "SETUSER", "default", "-config"]).await;
    let gateway = Setup::redis(&redis).start().await;
    let clients = clients(&gateway, "demo", 2).await;
    for number in 0..10 {
        redis.xadd("demo", &[("data", &number.to_string())]).await;
        redis.publish("demo", "chat", &number.to_string()).await;
    }
    assert_all_have_all(&redis, "demo", &clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_streams_stay_and_new_ones_are_told() {
    let mut redis = RedisServer::start_with(Persistence::AofAlways).await;
    let gateway = Setup::redis(&redis)
        .set("stream.heartbeat", "1s")
        .start()
        .await;
    let old = Client::of(&[gateway.address], "demo").open().await;
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(redis.publish("demo", "chat", &number.to_string()).await);
    }
    old.wait_id(&ids[9]).await;
    redis.kill();
    eventually!(
        gateway
            .admin("/readyz")
            .await
            .is_ok_and(|answer| answer.text().contains("degraded")),
        "{:?}",
        gateway.admin("/readyz").await.map(|answer| answer.text())
    );
    assert!(gateway.is_ready().await, "once ready, it stays ready");

    let new = Client::of(&[gateway.address], "demo").open().await;
    let resumed = Client::of(&[gateway.address], "demo")
        .last_event_id(&ids[4])
        .open()
        .await;
    let elsewhere = Client::of(&[gateway.address], "another").open().await;
    for client in [&new, &resumed, &elsewhere] {
        assert_eq!(client.control("stream.open")[0]["live"], false);
    }
    for client in [&new, &elsewhere] {
        assert_eq!(
            client.control_id("stream.open"),
            None,
            "no position while it is not live"
        );
    }
    let answer = gateway
        .post("demo", &[("Content-Type", "text/plain")], b"hi")
        .await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let sentence = answer.error();
    assert!(sentence.contains("cannot serve now"), "{sentence}");
    let beats = old.seen().comments;
    eventually!(old.seen().comments > beats, "heartbeats go on");

    redis.up().await;
    for client in [&new, &resumed, &elsewhere] {
        assert_eq!(client.wait_control("stream.live").await["live"], true);
    }
    assert_eq!(
        new.control_id("stream.live").as_ref(),
        Some(&ids[9]),
        "the position of a new client"
    );
    let id = redis.publish("demo", "chat", "again").await;
    ids.push(id.clone());
    for (client, want) in [(&old, &ids[..]), (&new, &ids[10..]), (&resumed, &ids[5..])] {
        client.wait_id(&id).await;
        assert_same_ids("afterwards", &client.ids(), want);
        client.assert_never_reset();
        assert_eq!(client.seen().connections, 1);
    }
    let id = redis.publish("another", "chat", "first").await;
    elsewhere.wait_id(&id).await;
    eventually!(
        gateway
            .post("demo", &[("Content-Type", "text/plain")], b"hi")
            .await
            .status
            == 201,
        "publishing works again"
    );
    eventually!(
        gateway
            .admin("/readyz")
            .await
            .is_ok_and(|answer| !answer.text().contains("degraded")),
        "no longer degraded"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_readiness_follows_redis() {
    let mut redis = RedisServer::start().await;
    let mut gateway = Setup::redis(&redis)
        .set("drain.readiness_strict", "true")
        .start()
        .await;
    redis.kill();
    eventually!(!gateway.is_ready().await, "it stays ready");
    redis.up().await;
    gateway.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_is_away_too() {
    let redis = RedisServer::start().await;
    let setup = Setup::redis(&redis).set("redis.response_timeout", "500ms");
    let gateway = setup.start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    // Ends by itself after six seconds.
    let frozen = redis
        .try_call::<String>(&["CLIENT", "PAUSE", "6000", "ALL"])
        .await;
    assert!(frozen.is_ok());
    let answer = gateway
        .post("demo", &[("Content-Type", "text/plain")], b"hi")
        .await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    eventually!(
        gateway
            .post("demo", &[("Content-Type", "text/plain")], b"hi")
            .await
            .status
            == 201,
        "publishing works again"
    );
    let ids = redis.ids("demo").await;
    client.wait_id(ids.last().unwrap()).await;
    assert_same_ids("afterwards", &client.ids(), &ids);
    client.assert_never_reset();
    assert_eq!(client.seen().connections, 1);
}
