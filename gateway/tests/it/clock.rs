//! The clock of Redis is set back: ids go on rising. The server runs with a `gettimeofday` of ours, which is an hour behind while
//! a file is there; the fault suite does the like to single rooms, by an id from the future.

use std::path::Path;
use std::process::Command;

use crate::support::{Client, Persistence, RedisServer, Setup, assert_same_ids};

const CLOCK: &str = r#"
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int gettimeofday(struct timeval *restrict tv, void *restrict tz) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  tv->tv_sec = now.tv_sec - (access(getenv("CLOCK_IS_BACK"), F_OK) == 0 ? 3600 : 0);
  tv->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"#;

/// Compiles the clock, with the compiler that Rust links by.
fn compile(directory: &Path) -> String {
    let (source, library) = (directory.join("clock.c"), directory.join("clock.so"));
    std::fs::write(&source, CLOCK).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-w", "-o"]);
    let done = compiler.arg(&library).arg(&source).status().unwrap();
    assert!(done.success());
    library.to_str().unwrap().to_owned()
}

async fn seconds(redis: &RedisServer) -> u64 {
    let time: Vec<String> = redis.try_call(&["TIME"]).await.unwrap();
    time[0].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_does_not_set_ids_back() {
    let mut redis = RedisServer::prepare(Persistence::AofAlways);
    let back = redis.directory().join("back");
    redis.variable("LD_PRELOAD", &compile(redis.directory()));
    redis.variable("CLOCK_IS_BACK", back.to_str().unwrap());
    redis.up().await;
    let gateway = Setup::redis(&redis).start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let mut ids = Vec::new();
    let publish = async |redis: &RedisServer, ids: &mut Vec<String>| {
        for _ in 0..3 {
            ids.push(redis.publish("demo", "chat", "by the function").await);
            ids.push(redis.xadd("demo", &[("data", "plain")]).await);
            ids.push(gateway.publish("demo", "chat", "over HTTP").await);
        }
    };
    publish(&redis, &mut ids).await;
    let before = seconds(&redis).await;
    std::fs::write(&back, "").unwrap();
    assert!(seconds(&redis).await + 3000 < before, "it is not back");
    publish(&redis, &mut ids).await;
    redis.kill();
    redis.up().await;
    eventually!(gateway.is_ready().await);
    eventually!(
        gateway
            .post("demo", &[("Content-Type", "text/plain")], b"again")
            .await
            .status
            == 201,
        "publishing works again"
    );
    publish(&redis, &mut ids).await;
    std::fs::remove_file(&back).unwrap();
    assert!(seconds(&redis).await >= before, "it is back still");
    publish(&redis, &mut ids).await;
    let stored = redis.ids("demo").await;
    assert!(ids.iter().all(|id| stored.contains(id)), "{ids:?}");
    client.wait_id(stored.last().unwrap()).await;
    assert_same_ids("a clock that goes back and forth", &client.ids(), &stored);
    client.assert_never_reset();
    let resumed = Client::of(&[gateway.address], "demo")
        .last_event_id(&ids[2])
        .open()
        .await;
    resumed.wait_id(stored.last().unwrap()).await;
    assert_same_ids("resumed", &resumed.ids(), &stored[3..]);
    resumed.assert_never_reset();
}
