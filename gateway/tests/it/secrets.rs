//! TLS to Redis, and passwords and certificates that are replaced while the gateway runs.

use crate::servers::{assert_all_works, reasons};
use crate::support::{Authority, Client, Gateway, RedisServer, Setup, port};

fn text(path: &std::path::Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A server that takes TLS connections of known clients at a second port, which is given.
async fn server(authority: &Authority, more: &[&str]) -> (RedisServer, u16) {
    let port = port::free().port();
    let (number, ca) = (port.to_string(), authority.file("ca.pem"));
    let (cert, key) = (authority.file("server.pem"), authority.file("server.key"));
    let tls = ["--tls-port", &number, "--tls-ca-cert-file", &ca];
    let own = ["--tls-cert-file", &cert, "--tls-key-file", &key];
    let redis = RedisServer::start_as(&[&tls[..], &own, more].concat(), "").await;
    (redis, port)
}

fn setup(authority: &Authority, port: u16) -> Setup {
    Setup::redis_by(&format!("rediss://127.0.0.1:{port}"))
        .set("redis.ca_file", &authority.file("ca.pem"))
}

fn known(authority: &Authority, setup: Setup) -> Setup {
    setup
        .set("redis.cert_file", &authority.file("client.pem"))
        .set("redis.key_file", &authority.file("client.key"))
}

/// The first publish may meet a connection that was killed, and is not confirmed then.
async fn assert_commands_come_back(gateway: &Gateway, client: &Client) {
    let headers = [("Content-Type", "text/plain"), ("Idempotency-Key", "one")];
    eventually!(gateway.post("demo", &headers, b"over HTTP").await.status == 201);
    eventually!(client.data().last().is_some_and(|data| data == "over HTTP"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_and_a_client_certificate_all_works() {
    let authority = Authority::new();
    let (redis, port) = server(&authority, &["--tls-auth-clients", "yes"]).await;
    let gateway = known(&authority, setup(&authority, port)).start().await;
    assert_all_works(&redis, &gateway).await;
    let unknown = setup(&authority, port).spawn();
    unknown.wait_alive().await;
    eventually!(
        reasons(&unknown)
            .await
            .to_lowercase()
            .contains("certificate"),
        "{}",
        reasons(&unknown).await
    );
    assert!(!unknown.is_ready().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_another_ca_has_signed_is_not_trusted() {
    let (theirs, ours) = (Authority::new(), Authority::new());
    let (_redis, port) = server(&theirs, &["--tls-auth-clients", "no"]).await;
    let gateway = setup(&ours, port).spawn();
    gateway.wait_alive().await;
    eventually!(
        reasons(&gateway).await.contains("certificate"),
        "{}",
        reasons(&gateway).await
    );
    assert!(!gateway.is_ready().await);
    let setup = setup(&theirs, port)
        .set("redis.ca_file", "/none.pem")
        .spawn();
    setup.wait_alive().await;
    eventually!(reasons(&setup).await.contains("/none.pem"));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_read_again_for_each_connection() {
    let authority = Authority::new();
    let (redis, port) = server(&authority, &["--tls-auth-clients", "yes"]).await;
    let gateway = known(&authority, setup(&authority, port)).start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    // From now on the old one is of no use, as one that has expired.
    let other = Authority::new();
    for name in ["ca.pem", "client.pem", "client.key"] {
        std::fs::copy(other.file(name), authority.file(name)).unwrap();
    }
    let files = ["tls-ca-cert-file", "tls-cert-file", "tls-key-file"];
    let paths = ["ca.pem", "server.pem", "server.key"].map(|name| other.file(name));
    let mut words = vec!["CONFIG", "SET"];
    for (file, path) in files.iter().zip(&paths) {
        words.extend([*file, path]);
    }
    redis.call(&words).await;
    redis.call(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    redis.call(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    let id = redis.publish("demo", "chat", "after").await;
    client.wait_id(&id).await;
    assert_commands_come_back(&gateway, &client).await;
    client.assert_never_reset();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_a_file_is_read_again_for_each_connection() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "pa55-one\n").unwrap();
    let redis = RedisServer::start().await;
    let user = async |password: &str| {
        let password = format!(">{password}");
        let words = [
            "ACL", "SETUSER", "gateway", "reset", "on", &password, "~*", "&*", "+@all",
        ];
        redis.call(&words).await
    };
    user("pa55-one").await;
    let setup = Setup::redis_by(&format!("redis://gateway@{}", redis.address));
    let gateway = setup
        .set("redis.password_file", &text(file.path()))
        .start()
        .await;
    assert_all_works(&redis, &gateway).await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    std::fs::write(file.path(), "pa55-two").unwrap();
    user("pa55-two").await;
    redis.call(&["CLIENT", "KILL", "USER", "gateway"]).await;
    let id = redis.publish("demo", "chat", "after").await;
    client.wait_id(&id).await;
    assert_commands_come_back(&gateway, &client).await;
    client.assert_never_reset();
    for secret in ["pa55-one", "pa55-two"] {
        assert!(!gateway.log().contains(secret), "{}", gateway.log());
    }
}

/// The primary is found by sentinels that want a password of their own.
#[tokio::test(flavor = "multi_thread")]
async fn sentinels_may_have_a_password_of_their_own() {
    let redis = RedisServer::start_as(&["--requirepass", "data"], ":data@").await;
    let directory = tempfile::tempdir().unwrap();
    let (file, port) = (directory.path().join("sentinel.conf"), port::free().port());
    let master = format!("{} {}", redis.address.ip(), redis.address.port());
    let settings = format!(
        "port {port}\nrequirepass watch\nsentinel monitor main {master} 1\nsentinel auth-pass main data\n"
    );
    std::fs::write(&file, settings).unwrap();
    let _sentinel = Sentinel(
        std::process::Command::new("redis-server")
            .args([text(&file), "--sentinel".into()])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    );
    let url = format!("redis+sentinel://:data@127.0.0.1:{port}/main");
    let gateway = Setup::redis_by(&url)
        .set("redis.sentinel_password", "watch")
        .start()
        .await;
    assert_all_works(&redis, &gateway).await;
    let without = Setup::redis_by(&url).spawn();
    without.wait_alive().await;
    eventually!(
        reasons(&without).await.contains("NOAUTH"),
        "{}",
        reasons(&without).await
    );
}

struct Sentinel(std::process::Child);

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
