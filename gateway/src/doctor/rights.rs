//! What a gateway does on a server, tried with commands that have no effect: on a room that does
//! not exist, with conditions that do not hold, or with arguments that are refused after the
//! permission was checked.

use protocol::publish::{VERSION_FUNCTION_NAME, script_sha1};
use redis::{Cmd, ServerError, Value};

use super::Wanted;
use super::facts::{Denied, Right};
use super::report::Level;

/// No event was ever published here.
const ABSENT_ROOM: &str = "sse-gateway.doctor.absent";

/// One thing that a user needs a right for.
pub(super) struct Need {
    /// As it is written in an ACL rule, or a channel.
    pub(super) name: &'static str,
    /// `ROOM`, `ONCE`, `PROBE`, `KEYSPACE`, `DISCONNECTS` and `SHA` stand for names.
    words: &'static str,
    /// Where it is needed.
    place: Place,
    /// What it means to be without.
    pub(super) level: Level,
    pub(super) without: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Anywhere,
    Cluster,
    /// On servers that are no members of a cluster.
    Elsewhere,
}

const fn need(
    name: &'static str,
    words: &'static str,
    level: Level,
    without: &'static str,
) -> Need {
    Need {
        name,
        words,
        place: Place::Anywhere,
        level,
        without,
    }
}

const fn at(place: Place, need: Need) -> Need {
    Need { place, ..need }
}

const LIVE: &str = "nothing arrives live";
const READ: &str = "no history can be read";
const WRITE: &str = "the gateway cannot publish";

/// All of them; subscriptions last, because a connection with subscriptions is good for nothing else.
pub(super) const NEEDS: &[Need] = &[
    need("+publish", "PUBLISH PROBE doctor", Level::Problem, LIVE),
    at(
        Place::Elsewhere,
        need(
            "&room (publish)",
            "PUBLISH ROOM doctor",
            Level::Warning,
            WRITE,
        ),
    ),
    at(
        Place::Cluster,
        need("+spublish", "SPUBLISH ROOM doctor", Level::Warning, WRITE),
    ),
    at(
        Place::Cluster,
        need(
            "+cluster|slots",
            "CLUSTER SLOTS",
            Level::Problem,
            "the servers are not found",
        ),
    ),
    at(
        Place::Cluster,
        need(
            "+cluster|info",
            "CLUSTER INFO",
            Level::Problem,
            "the servers are not found",
        ),
    ),
    need("+multi", "MULTI", Level::Problem, READ),
    need("+exec", "EXEC", Level::Problem, READ),
    need("+xinfo|stream", "XINFO STREAM ROOM", Level::Problem, READ),
    need("+xrange", "XRANGE ROOM - + COUNT 1", Level::Problem, READ),
    need(
        "+xrevrange",
        "XREVRANGE ROOM + - COUNT 1",
        Level::Problem,
        READ,
    ),
    need(
        "+xread",
        "XREAD COUNT 1 STREAMS ROOM 0-0",
        Level::Problem,
        READ,
    ),
    need(
        "~disconnects",
        "XREAD COUNT 1 STREAMS DISCONNECTS 0-0",
        Level::Problem,
        "disconnects are not seen, so streams stay open and revoked tokens count",
    ),
    need(
        "+exists",
        "EXISTS ROOM",
        Level::Problem,
        "deleted rooms are not noticed",
    ),
    need(
        "+xadd",
        "XADD ROOM NOMKSTREAM * doctor 1",
        Level::Warning,
        WRITE,
    ),
    need("+xtrim", "XTRIM ROOM MAXLEN 1", Level::Warning, WRITE),
    need("+expire", "EXPIRE ROOM 1", Level::Warning, WRITE),
    need("+ttl", "TTL ROOM", Level::Warning, WRITE),
    need("+persist", "PERSIST ROOM", Level::Warning, WRITE),
    need(
        "+get",
        "GET ONCE",
        Level::Warning,
        "publishing with an idempotency key fails",
    ),
    need(
        "+set",
        "SET ONCE x XX",
        Level::Warning,
        "publishing with an idempotency key fails",
    ),
    need("+time", "TIME", Level::Warning, WRITE),
    need(
        "+fcall_ro",
        "FCALL_RO VERSION 0",
        Level::Warning,
        "the version of the publish function is not known",
    ),
    need("+fcall", "FCALL sse_publish 1 ROOM", Level::Warning, WRITE),
    need(
        "+function|load",
        "FUNCTION LOAD doctor",
        Level::Note,
        "the publish function has to be loaded by hand: sse-publish load",
    ),
    need(
        "+evalsha",
        "EVALSHA SHA 1 ROOM",
        Level::Note,
        "the script, for servers without functions, cannot be used",
    ),
    need(
        "+eval",
        "EVAL return 0",
        Level::Note,
        "the script, for servers without functions, cannot be loaded",
    ),
    need(
        "+config|get",
        "CONFIG GET notify-keyspace-events",
        Level::Note,
        "the gateway cannot see whether plain XADD is announced, and polls until it sees an announcement",
    ),
    need(
        "+config|set",
        "CONFIG SET sse-gateway-doctor 1",
        Level::Ok,
        "",
    ),
    need(
        "+info",
        "INFO server",
        Level::Note,
        "the gateway cannot say what server this is",
    ),
    at(
        Place::Elsewhere,
        need(
            "+pubsub|numsub",
            "PUBSUB NUMSUB ROOM",
            Level::Note,
            "the status page cannot count nodes",
        ),
    ),
    at(
        Place::Cluster,
        need(
            "+pubsub|shardnumsub",
            "PUBSUB SHARDNUMSUB ROOM",
            Level::Note,
            "the status page cannot count nodes",
        ),
    ),
    need(
        "+client|setname",
        "CLIENT SETNAME sse-gateway-doctor",
        Level::Note,
        "CLIENT LIST does not name the gateways",
    ),
    need("+subscribe", "SUBSCRIBE PROBE", Level::Problem, LIVE),
    at(
        Place::Elsewhere,
        need("&room", "SUBSCRIBE ROOM", Level::Problem, LIVE),
    ),
    need(
        "&__keyspace@*__:room",
        "SUBSCRIBE KEYSPACE",
        Level::Warning,
        "plain XADD is not seen until rooms are verified",
    ),
    at(
        Place::Cluster,
        need("+ssubscribe", "SSUBSCRIBE ROOM", Level::Problem, LIVE),
    ),
];

impl Need {
    /// Whether it is needed on this server.
    pub(super) fn applies(&self, wanted: &Wanted) -> bool {
        match self.place {
            Place::Anywhere => true,
            Place::Cluster => wanted.is_cluster,
            Place::Elsewhere => !wanted.is_cluster,
        }
    }

    pub(super) fn is_subscription(&self) -> bool {
        self.words.starts_with("SUBSCRIBE") || self.words.starts_with("SSUBSCRIBE")
    }

    /// The command that tries it.
    pub(super) fn command(&self, wanted: &Wanted, database: i64) -> Cmd {
        let room = format!("{}room:{ABSENT_ROOM}", wanted.prefix);
        let mut command = Cmd::new();
        for word in self.words.split(' ') {
            match word {
                "ROOM" => command.arg(&room),
                "ONCE" => command.arg(format!("{{{room}}}:once:doctor")),
                "PROBE" => command.arg(format!("{}probe:sse-gateway-doctor", wanted.prefix)),
                "KEYSPACE" => command.arg(format!("__keyspace@{database}__:{room}")),
                "DISCONNECTS" => command.arg(format!("{}disconnects", wanted.prefix)),
                "SHA" => command.arg(script_sha1()),
                "VERSION" => command.arg(VERSION_FUNCTION_NAME),
                // The script of EVAL is one argument, and it has no keys.
                "return" => command.arg("return 0"),
                word => command.arg(word),
            };
        }
        command
    }
}

/// Reads an answer: whatever is said after the permission was checked is a permission.
pub(super) fn right(value: &Value) -> Right {
    match value {
        Value::ServerError(error) => refused(error),
        _ => Right::Allowed,
    }
}

fn refused(error: &ServerError) -> Right {
    let detail = error.details().unwrap_or_default().to_ascii_lowercase();
    match error.code() {
        "NOPERM" if detail.contains("to run the") => Right::Denied(Denied::Command),
        "NOPERM" if detail.contains("channel") => Right::Denied(Denied::Channel),
        "NOPERM" => Right::Denied(Denied::Key),
        _ if detail.starts_with("unknown command") || detail.starts_with("unknown subcommand") => {
            Right::Absent
        }
        _ => Right::Allowed,
    }
}
