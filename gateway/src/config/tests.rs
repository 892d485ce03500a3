use std::io::Write;
use std::time::Duration;

use super::*;
use crate::cli::Cli;

fn cli(args: &[&str]) -> Cli {
    Cli::read([&["sse-gateway"], args].concat()).expect("a good command line")
}

fn from(args: &[&str], env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    load(&cli(args), env.into_iter())
}

fn from_file(text: &str, args: &[&str], env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    from(&[&["--config", path], args].concat(), env)
}

fn refused(result: Result<Loaded, ConfigError>) -> String {
    let sentence = result.expect_err("it must be refused").to_string();
    assert!(!sentence.contains('\n'), "more than a line: {sentence}");
    sentence
}

#[test]
fn defaults_are_complete_and_pass_their_own_rules() {
    let loaded = from(&[], &[]).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let config = loaded.config;
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin_addr().to_string(), "127.0.0.1:9080");
    assert_eq!(config.stream.heartbeat, Duration::from_secs(15));
    assert_eq!(config.redis.poll_interval, Duration::from_millis(250));
    assert_eq!(config.retention.expire, Duration::from_secs(86_400));
    assert_eq!(config.stream.log_memory, 256 << 20);
    assert!(config.node.ends_with(&format!("-{}", std::process::id())));
    assert!(config.shard_count() >= 1);
    assert!(config.dev_mode());
    assert_eq!(defaults().node, config.node);
}

#[test]
fn every_default_is_explained() {
    let mut explained = false;
    for line in DEFAULTS.lines() {
        let key = line.contains(" = ") && !line.starts_with('#');
        // `log_entries` shares the comment of `log_bytes`.
        assert!(
            !key || explained || line.starts_with("log_entries"),
            "{line}"
        );
        explained = line.starts_with('#');
    }
}

#[test]
fn later_layers_win() {
    let file =
        "listen = \"127.0.0.1:1111\"\nnode = \"file\"\nshards = 3\n[stream]\nretry = \"7s\"\n";
    let env = [("SSE_LISTEN", "127.0.0.1:2222"), ("SSE_NODE", "env")];
    let config = from_file(file, &["--node", "flag"], &env).unwrap().config;
    assert_eq!(config.node, "flag");
    assert_eq!(config.listen.port(), 2222);
    assert_eq!(config.shards, 3);
    assert_eq!(config.stream.retry, Duration::from_secs(7));
    assert_eq!(config.stream.retry_jitter, Duration::from_secs(3));
}

#[test]
fn environment_gives_every_kind_of_value() {
    let env = [
        ("SSE_REDIS__URL", "redis://:0012@localhost:6379/2"),
        ("SSE_REDIS__SET_NOTIFICATIONS", "false"),
        ("SSE_PUBLISH__KEYS", "0012, k2,"),
        ("SSE_ACCESS__PUBLISH", "demo open, lobby open"),
        (
            "SSE_HTTP__ALLOWED_ORIGINS",
            "https://a.example,http://b.example:8080",
        ),
        ("SSE_STREAM__LOG_ENTRIES", "99"),
        ("SSE_DRAIN__SPREAD", "250ms"),
        ("SSE_ADMIN__LISTEN", "[::1]:9"),
        ("SSE_DEV", "false"),
        ("SSE_LOG__FORMAT", "json"),
    ];
    let config = from(&[], &env).unwrap().config;
    assert_eq!(config.redis.url, "redis://:0012@localhost:6379/2");
    assert!(!config.redis.set_notifications);
    assert_eq!(
        config.publish.keys,
        ["0012", "k2"],
        "numbers in secrets stay text"
    );
    assert_eq!(config.access.publish, ["demo open", "lobby open"]);
    assert_eq!(config.http.allowed_origins.len(), 2);
    assert_eq!(config.stream.log_entries, 99);
    assert_eq!(config.drain.spread, Duration::from_millis(250));
    assert_eq!(config.admin_addr().to_string(), "[::1]:9");
    assert_eq!(config.dev, Some(false));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn a_single_numeric_key_in_the_environment_stays_text() {
    let config = from(&[], &[("SSE_PUBLISH__KEYS", "0012"), ("SSE_NODE", "0012")])
        .unwrap()
        .config;
    assert_eq!(config.publish.keys, ["0012"]);
    assert_eq!(config.node, "0012");
}

#[test]
fn unknown_variables_are_one_warning() {
    let env = [
        ("SSE_REDIS_URL", "redis://x"),
        ("SSE_GATEWAY_PORT", "tcp://10.0.0.1:80"),
        ("SSE_PUBLISH_KEY", "for sse-publish"),
        ("SSE_LOADTEST_CLIENTS", "9"),
        ("PATH", "/bin"),
    ];
    let loaded = from(&[], &env).unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "the environment variables SSE_GATEWAY_PORT, SSE_REDIS_URL are no settings and are ignored \
          (did you mean SSE_REDIS__URL?)"
        ]
    );
    let loaded = from(&[], &[("SSE_GATEWAY_PORT", "1")]).unwrap();
    assert_eq!(
        loaded.warnings,
        ["the environment variable SSE_GATEWAY_PORT is no setting and is ignored"]
    );
}

#[test]
fn unknown_keys_in_the_file_are_errors_that_name_key_and_file() {
    for (text, key, hint) in [
        ("[redis]\nulr = \"\"\n", "redis.ulr", "`redis.url`"),
        ("url = \"\"\n", "url", "`redis.url`"),
        ("[strem]\nretry = \"1s\"\n", "strem.retry", "`stream.retry`"),
        ("[nothing.like.it]\nx = 1\n", "nothing.like.it.x", ""),
        ("[nothing]\n", "nothing", ""),
    ] {
        let sentence = refused(from_file(text, &[], &[]));
        assert!(
            sentence.contains(&format!("unknown key `{key}`")),
            "{sentence}"
        );
        assert!(sentence.contains(".toml"), "{sentence}");
        assert!(sentence.contains(hint), "{sentence}");
    }
}

#[test]
fn a_bad_file_is_one_sentence_with_the_place() {
    let sentence = refused(from(&["--config", "/does/not/exist.toml"], &[]));
    assert!(
        sentence.starts_with("cannot read /does/not/exist.toml: "),
        "{sentence}"
    );
    let sentence = refused(from_file("node = \"a\"\nlisten = \n", &[], &[]));
    assert!(
        sentence.contains("is not valid TOML: line 2: "),
        "{sentence}"
    );
    let sentence = refused(from_file("redis = 1\n", &[], &[]));
    assert!(sentence.contains("redis"), "{sentence}");
}

#[test]
fn a_bad_value_names_its_key() {
    for (key, value) in [
        ("SSE_STREAM__RETRY", "2"),
        ("SSE_STREAM__LOG_BYTES", "many"),
        ("SSE_LISTEN", "8080"),
        ("SSE_ADMIN__LISTEN", "localhost:9"),
        ("SSE_DEV", "perhaps"),
        ("SSE_LOG__FORMAT", "xml"),
        ("SSE_DRAIN__READINESS_STRICT", "perhaps"),
    ] {
        let sentence = refused(from(&[], &[(key, value)]));
        let name = key.rsplit('_').next().unwrap().to_lowercase();
        assert!(sentence.contains(&name), "{key}: {sentence}");
        assert!(sentence.contains(value), "{key}: {sentence}");
    }
    let sentence = refused(from_file("[stream]\nheartbeat = \"soon\"\n", &[], &[]));
    assert!(
        sentence.contains("stream.heartbeat") && sentence.contains(".toml"),
        "{sentence}"
    );
}

#[test]
fn rules_are_enforced() {
    for (file, part) in [
        ("node = \"a b\"", "node `a b`"),
        ("listen = \"127.0.0.1:65000\"", "admin.listen"),
        (
            "listen = \"127.0.0.1:8080\"\n[admin]\nlisten = \"127.0.0.1:8080\"",
            "both 127.0.0.1:8080",
        ),
        ("shards = 5000", "shards is 5000"),
        ("[http]\npath_prefix = \"live\"", "path_prefix `live`"),
        ("[http]\npath_prefix = \"/live/\"", "path_prefix"),
        ("[http]\npath_prefix = \"/a/../b\"", "path_prefix"),
        (
            "[http]\nallowed_origins = [\"https://a.example/\"]",
            "write `https://a.example`",
        ),
        (
            "[http]\nallowed_origins = [\"*\"]",
            "allowed_origins names `*`",
        ),
        ("[http]\nmax_head_bytes = 100", "max_head_bytes is 100"),
        ("[log]\nlevel = \"inof\"", "log.level: `inof`"),
        ("[redis]\nprefix = \"\"", "redis.prefix"),
        ("[redis]\nprefix = \"{a}:\"", "redis.prefix"),
        (
            "[redis]\nurl = \"http://:secret@localhost\"",
            "redis.url `http://:***@localhost/`",
        ),
        ("[redis]\npool_size = 0", "pool_size is 0"),
        (
            "[access]\npublish = [\"a/b open\"]",
            "access.publish has `a/b open`, in which `a/b` is not a pattern",
        ),
        (
            "[access]\nsubscribe = [\"a:* opne\"]",
            "in which `opne` is none of open, token and forward",
        ),
        (
            "[access]\nsubscribe = [\"a:*\"]",
            "which is not a pattern of rooms and",
        ),
        (
            "[access]\nsubscribe = [\"a:* forward\"]",
            "there is no forward.url",
        ),
        ("[publish]\nkeys = [\"a b/\"]", "publish.keys"),
        (
            "[publish]\nmax_bytes = 2000000",
            "stream.log_bytes (1048576) is less than publish.max_bytes",
        ),
        (
            "[stream]\nheartbeat = \"500ms\"",
            "stream.heartbeat is 500ms, not 1s to 1m",
        ),
        ("[stream]\nheartbeat = \"61s\"", "stream.heartbeat"),
        ("[stream]\nlog_memory = 1000", "stream.log_memory"),
        (
            "shards = 1000\n[stream]\nlog_bytes = 65536\nlog_memory = 1048576",
            "stream.log_memory (1048576) is too little for 1000 shards",
        ),
        (
            "[metrics]\nroom_classes = [\"chat\"]",
            "metrics.room_classes has `chat`, which is not a name",
        ),
        (
            "[metrics]\nroom_classes = [\"chat=a b\"]",
            "such as chat=chat:*",
        ),
        (
            "[http]\ntrusted_proxies = [\"10.0.0.0/8\", \"proxy\"]",
            "http.trusted_proxies names `proxy`, which is not an address or a network such as 10.0.0.0/8",
        ),
        ("[retention]\nexpire = \"10ms\"", "retention.expire is 10ms"),
        (
            "[retention]\nmax_age = \"40000d\"",
            "retention.max_age is 40000d, not 1s to 36500d",
        ),
        (
            "[retention]\nrooms = [\"chat:* max_len=1\", \"a/b max_len=1\"]",
            "retention.rooms has `a/b max_len=1`, which does not begin with a pattern of rooms",
        ),
        (
            "[retention]\nrooms = [\"\"]",
            "retention.rooms has ``, which does not begin",
        ),
        (
            "[retention]\nrooms = [\"chat:* maxlen=1\"]",
            "in which `maxlen=1` is none of max_len=, max_age= and expire=",
        ),
        (
            "[retention]\nrooms = [\"chat:* max_len=1 max_len=2\"]",
            "in which max_len stands twice",
        ),
        (
            "[retention]\nrooms = [\"chat:* max_len=1k\"]",
            "in which max_len is `1k`, not 0 to",
        ),
        (
            "[retention]\nrooms = [\"chat:* expire=7\"]",
            "in which expire is `7`, not a duration",
        ),
        (
            "[retention]\nrooms = [\"chat:* expire=7ms\"]",
            "in which expire is 7ms, not 1s to 36500d",
        ),
        (
            "[publish]\nwait_replicas = 17",
            "wait_replicas is 17, not 0 to 16",
        ),
        (
            "[publish]\nwait_timeout = \"0s\"",
            "wait_timeout is 0s, not 1ms to 10s",
        ),
        (
            "[drain]\nspread = \"31s\"",
            "do not fit into drain.grace (30s)",
        ),
        ("listen = \"0.0.0.0:8080\"", "--dev"),
    ] {
        let sentence = refused(from_file(file, &[], &[]));
        assert!(sentence.contains(part), "{file}: {sentence}");
        assert!(!sentence.contains("secret"), "{file}: {sentence}");
    }
}

#[test]
fn retention_by_pattern_is_read_and_bounded() {
    let line = |n: usize| format!("\"room{n}:* max_len={n}\"");
    let file = |count| {
        let lines: Vec<String> = (0..count).map(line).collect();
        format!("[retention]\nrooms = [{}]", lines.join(","))
    };
    let rules = from_file(&file(64), &[], &[])
        .unwrap()
        .config
        .retention
        .rules();
    let of = |room: &str| rules.of(&protocol::RoomName::parse(room).unwrap());
    assert_eq!((of("room63:a").max_len, of("room64:a").max_len), (63, 1000));
    assert!(refused(from_file(&file(65), &[], &[])).contains("65 patterns, more than 64"));
    let env = [(
        "SSE_RETENTION__ROOMS",
        "chat:*  expire=7d max_len=0, log max_age=1h",
    )];
    let rules = from(&[], &env).unwrap().config.retention.rules();
    let of = |room: &str| rules.of(&protocol::RoomName::parse(room).unwrap());
    let day = Duration::from_secs(86_400);
    assert_eq!((of("chat:a").max_len, of("chat:a").expire), (0, 7 * day));
    assert_eq!((of("log").max_age, of("log").expire), (day / 24, day));
}

#[test]
fn development_mode_is_for_loopback_unless_asked_for() {
    let dev = |args: &[&str]| from(args, &[]).unwrap();
    assert!(dev(&[]).config.dev_mode());
    assert!(dev(&["--listen", "[::1]:0"]).config.dev_mode());
    assert!(!dev(&["--redis", "redis://127.0.0.1"]).config.dev_mode());
    assert!(
        dev(&["--redis", "redis://127.0.0.1", "--dev"])
            .config
            .dev_mode()
    );
    let others = ["--listen", "0.0.0.0:80", "--redis", "redis://127.0.0.1"];
    let sentence = refused(from(&others, &[]));
    assert!(
        sentence.contains("nothing says who may subscribe"),
        "{sentence}"
    );
    for (name, value) in [
        ("SSE_ACCESS__SUBSCRIBE", "* open"),
        ("SSE_TOKENS__JWKS_URL", "https://login.example.com/jwks"),
        ("SSE_DEV", "true"),
    ] {
        let config = from(&others, &[(name, value)]).unwrap().config;
        assert_eq!(config.dev_mode(), name == "SSE_DEV");
    }

    let keyed = dev(&["--publish-key", "a-key-that-is-long"]);
    assert!(!keyed.config.dev_mode(), "a configured key is looked at");
    for (warning, part) in keyed
        .warnings
        .iter()
        .zip(["who may subscribe", "no redis.url"])
    {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!(keyed.warnings.len(), 2);
    let open = dev(&["--listen", "0.0.0.0:80", "--dev"]);
    assert!(open.config.dev_mode());
    assert!(
        open.warnings[0].contains("anyone who can reach it"),
        "{:?}",
        open.warnings
    );
    let both = dev(&["--dev", "--publish-key", "k"]);
    assert!(
        both.warnings[0].contains("whatever [access]"),
        "{:?}",
        both.warnings
    );
}

#[test]
fn port_zero_stays_zero() {
    let config = from(&["--listen", "127.0.0.1:0"], &[]).unwrap().config;
    assert_eq!(config.admin_addr().to_string(), "127.0.0.1:0");
}

#[test]
fn printing_hides_secrets_and_can_be_read_back() {
    let env = [
        ("SSE_REDIS__URL", "redis://ann:hunter2@localhost:6379/1"),
        ("SSE_PUBLISH__KEYS", "hunter2,hunter3"),
        (
            "SSE_TOKENS__JWKS_URL",
            "https://login.example/keys?k=hunter4",
        ),
    ];
    let config = from(&["--node", "n1"], &env).unwrap().config;
    let printed = print(&config);
    assert!(!printed.contains("hunter"), "{printed}");
    assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
    assert!(
        printed.contains("url = \"redis://ann:***@localhost:6379/1\""),
        "{printed}"
    );
    let again = printed.replace("***", "another1");
    let again = from_file(&again, &[], &[]).unwrap().config;
    assert_eq!(print(&again), printed);
    assert_eq!(again.publish.keys, ["another1", "another1"]);
    // What is shown in place of a key is none.
    let error = from_file(&printed, &[], &[]).unwrap_err().to_string();
    assert!(error.contains("publish.keys"), "{error}");
}

#[test]
fn passwords_are_hidden_wherever_they_stand() {
    for (url, shown) in [
        ("", ""),
        ("redis://localhost", "redis://localhost"),
        ("redis://:p@localhost", "redis://:***@localhost"),
        (
            "redis+unix:///run/redis.sock?db=1&pass=p",
            "redis+unix:///run/redis.sock?***",
        ),
        ("ann:p@localhost", "***"),
        ("localhost", "***"),
    ] {
        assert_eq!(print::hide_password(url), shown);
    }
}

#[test]
fn durations_survive_writing_and_reading() {
    for text in ["0s", "1ms", "250ms", "15s", "5m", "12h", "1d", "90s"] {
        let duration = values::parse_duration(text).unwrap();
        let written = values::format_duration(duration);
        assert_eq!(values::parse_duration(&written), Some(duration), "{text}");
    }
    assert_eq!(values::format_duration(Duration::from_secs(86_400)), "1d");
    assert_eq!(values::parse_duration("0"), Some(Duration::ZERO));
    for text in [
        "",
        "s",
        "5",
        "-1s",
        "1.5s",
        "1 s",
        "5min",
        "99999999999999999d",
    ] {
        assert_eq!(values::parse_duration(text), None, "{text}");
    }
}

#[test]
fn a_short_key_is_a_warning_here_and_an_error_where_others_can_try() {
    let keys = ("SSE_PUBLISH__KEYS", "long-enough-for-this,short chat:*");
    let loaded = from(&["--dev"], &[keys]).unwrap();
    let about: Vec<_> = loaded
        .warnings
        .iter()
        .filter(|line| line.contains("16 bytes"))
        .collect();
    assert!(
        about.len() == 1 && about[0].contains("key 2"),
        "{:?}",
        loaded.warnings
    );
    assert!(!about[0].contains("short chat"));
    let open = [keys, ("SSE_ACCESS__SUBSCRIBE", "* open")];
    assert!(from(&[], &open).is_ok());
    let error = from(&["--listen", "0.0.0.0:80"], &open).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("publish.keys, key 2") && !error.contains("short"),
        "{error}"
    );
    // Where anyone may publish, keys are for nothing.
    assert!(from(&["--listen", "0.0.0.0:80", "--dev"], &open).is_ok());
}

#[test]
fn a_room_is_not_taken_for_a_key_that_is_not_there() {
    let keys = |text| from(&[], &[("SSE_PUBLISH__KEYS", text)]);
    // `$KEY news` and `$KEY news,$OTHER` without a KEY.
    for text in [" news", " news,another-key"] {
        let error = keys(text).unwrap_err().to_string();
        assert!(
            error.contains("publish.keys, key 1") && error.contains("KEY is not set"),
            "{error}"
        );
    }
    assert!(from(&["--publish-key", " news"], &[]).is_err());
    assert!(from_file("publish.keys = [\"a-key\", \" news\"]", &[], &[]).is_err());
    // Blanks behind commas and line ends are nobody's.
    for text in ["one, two news", "one,\n  two\n", "\none"] {
        assert!(keys(text).is_ok(), "{text:?}");
    }
}
