//! Asks sentinels and cluster nodes where the primaries are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionInfo, Pipeline, Value};

use super::{Address, Kind, Layout, Primary, Servers, ServersError};

/// Nodes of a cluster that are asked at a time.
const ASKED: usize = 8;
/// How long a later view of a cluster stands against earlier ones.
const STALE: Duration = Duration::from_secs(5);

/// Keeps its connections to those it asks.
#[derive(Debug)]
pub struct Locator {
    servers: Arc<Servers>,
    patience: Duration,
    open: HashMap<Address, MultiplexedConnection>,
    /// Nodes that the cluster named.
    named: Vec<Address>,
    /// The view of the highest epoch.
    latest: Option<View>,
}

/// One answer, and how recent its view is.
#[derive(Debug, Clone)]
struct View {
    layout: Layout,
    epoch: u64,
    is_ok: bool,
    seen: Instant,
}

impl Locator {
    /// Waits for `patience` at most for each connection and each answer.
    #[must_use]
    pub fn new(servers: Arc<Servers>, patience: Duration) -> Self {
        Self {
            servers,
            patience,
            open: HashMap::new(),
            named: Vec::new(),
            latest: None,
        }
    }

    /// The primaries of now. Where several are asked, the most recent view of a majority counts.
    ///
    /// # Errors
    /// Nobody who knows could be asked.
    pub async fn locate(&mut self) -> Result<Layout, ServersError> {
        let servers = self.servers.clone();
        match servers.kind() {
            Kind::Single => Ok(Layout::single(servers.known()[0].clone())),
            Kind::Sentinel { master } => self.by_sentinels(master).await,
            Kind::Cluster => self.by_nodes().await,
        }
    }

    async fn by_sentinels(&mut self, master: &str) -> Result<Layout, ServersError> {
        let (mut state, mut address) = (redis::cmd("SENTINEL"), redis::cmd("SENTINEL"));
        state.arg("MASTER").arg(master);
        address.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let known = self.servers.known().to_vec();
        let commands = [state, address];
        let answers = self.ask_majority(known, true, &commands, |_, values| {
            sentinel_view(&values[0], &values[1]).ok_or_else(|| match &values[0] {
                Value::ServerError(error) => said(error),
                _ => ServersError("an answer of a sentinel could not be understood".into()),
            })
        });
        let views = answers.await?;
        let newest = views.into_iter().max_by_key(|view| view.epoch);
        let newest = newest.ok_or_else(|| ServersError("no sentinel answers".into()))?;
        if let Some(before) = self.latest.clone()
            && newest.epoch < before.epoch
            && self.primary(before.layout.clone()).await.is_ok()
        {
            // Those who answered first have not heard of the last failover.
            return Ok(before.layout);
        }
        self.latest = Some(newest.clone());
        self.primary(newest.layout).await
    }

    /// The layout, if its server says that it is a primary.
    async fn primary(&mut self, layout: Layout) -> Result<Layout, ServersError> {
        // A sentinel names the old primary until the new one is promoted.
        let address = layout.primaries()[0].address.clone();
        let info = self.servers.connection_info(&address)?;
        let role = self.ask(&address, info, &[redis::cmd("ROLE")]).await?;
        match role.first() {
            Some(Value::Array(role)) if text(role.first()).is_some_and(|role| role != "master") => {
                Err(ServersError(format!(
                    "the sentinels name {address}, which is not a primary (yet)"
                )))
            }
            _ => Ok(layout),
        }
    }

    async fn by_nodes(&mut self) -> Result<Layout, ServersError> {
        let mut nodes = self.named.clone();
        for known in self.servers.known() {
            if !nodes.contains(known) {
                nodes.push(known.clone());
            }
        }
        nodes.truncate(ASKED);
        let (mut info, mut slots) = (redis::cmd("CLUSTER"), redis::cmd("CLUSTER"));
        info.arg("INFO");
        slots.arg("SLOTS");
        let views = self
            .ask_majority(nodes, false, &[info, slots], |asked, values| {
                cluster_view(asked, values)
            })
            .await?;
        let newest = views
            .into_iter()
            .max_by_key(|view| (view.is_ok, view.epoch))
            .ok_or_else(|| ServersError("no node of the cluster answers".into()))?;
        if let Some(before) = &self.latest
            && newest.epoch < before.epoch
            && before.seen.elapsed() < STALE
        {
            return Ok(before.layout.clone());
        }
        self.latest = Some(newest.clone());
        self.named.clear();
        for primary in newest.layout.primaries() {
            self.named.push(primary.address.clone());
        }
        for primary in newest.layout.primaries() {
            self.named.extend(primary.replicas.iter().cloned());
        }
        Ok(newest.layout)
    }

    /// Asks all, and goes on once more than half of them have answered, or nobody is left.
    async fn ask_majority(
        &mut self,
        addresses: Vec<Address>,
        are_sentinels: bool,
        commands: &[Cmd],
        read: impl Fn(&Address, &[Value]) -> Result<View, ServersError>,
    ) -> Result<Vec<View>, ServersError> {
        let enough = addresses.len() / 2 + 1;
        let mut asked = FuturesUnordered::new();
        let mut views = Vec::new();
        let mut why = None;
        for address in addresses {
            let info = if are_sentinels {
                self.servers.sentinel_info(&address)?
            } else {
                self.servers.connection_info(&address)?
            };
            let (open, patience) = (self.open.get(&address).cloned(), self.patience);
            asked.push(async move {
                let outcome = ask(open, info, commands, patience).await;
                (address, outcome)
            });
        }
        while let Some((address, outcome)) = asked.next().await {
            let view = outcome.and_then(|(connection, values)| {
                let view = read(&address, &values)?;
                self.open.insert(address.clone(), connection);
                Ok(view)
            });
            match view {
                Ok(view) => views.push(view),
                Err(error) => {
                    self.open.remove(&address);
                    why = Some(ServersError(format!("{address}: {error}")));
                }
            }
            if views.len() >= enough {
                break;
            }
        }
        match why {
            Some(why) if views.is_empty() => {
                // All may have other addresses now: the names of the URL are asked again.
                self.named.clear();
                Err(why)
            }
            _ => Ok(views),
        }
    }

    async fn ask(
        &mut self,
        address: &Address,
        info: ConnectionInfo,
        commands: &[Cmd],
    ) -> Result<Vec<Value>, ServersError> {
        let open = self.open.remove(address);
        let (connection, values) = ask(open, info, commands, self.patience)
            .await
            .map_err(|error| ServersError(format!("{address}: {error}")))?;
        self.open.insert(address.clone(), connection);
        Ok(values)
    }
}

/// On the connection of before, or a new one.
async fn ask(
    open: Option<MultiplexedConnection>,
    info: ConnectionInfo,
    commands: &[Cmd],
    patience: Duration,
) -> Result<(MultiplexedConnection, Vec<Value>), ServersError> {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command.clone());
    }
    if let Some(mut connection) = open
        && let Ok(values) = connection
            .req_packed_commands(&pipeline, 0, commands.len())
            .await
    {
        return Ok((connection, values));
    }
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(Some(patience));
    let failed = |error: redis::RedisError| ServersError(error.to_string());
    let client = Client::open(info).map_err(failed)?;
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(failed)?;
    let values = connection
        .req_packed_commands(&pipeline, 0, commands.len())
        .await
        .map_err(failed)?;
    if values.len() < commands.len() {
        return Err(ServersError("an answer is missing".into()));
    }
    Ok((connection, values))
}

fn said(error: &redis::ServerError) -> ServersError {
    let detail = error.details().unwrap_or_default();
    ServersError(format!("{} {detail}", error.code()).trim_end().to_owned())
}

fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}

fn integer(value: Option<&Value>) -> Option<u16> {
    match value? {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    }
}

/// `SENTINEL MASTER` for its `config-epoch`, `SENTINEL GET-MASTER-ADDR-BY-NAME` for the address: during
/// a failover only the latter names the new primary at once.
fn sentinel_view(value: &Value, address: &Value) -> Option<View> {
    let pairs: Vec<(String, String)> = match value {
        Value::Array(list) => list
            .chunks_exact(2)
            .filter_map(|pair| Some((text(pair.first())?, text(pair.get(1))?)))
            .collect(),
        Value::Map(map) => map
            .iter()
            .filter_map(|(name, value)| Some((text(Some(name))?, text(Some(value))?)))
            .collect(),
        _ => return None,
    };
    let field = |name: &str| {
        let found = pairs.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    };
    let Value::Array(address) = address else {
        return None;
    };
    let port = text(address.get(1))?.parse().ok()?;
    let address = Address::Tcp(text(address.first())?, port);
    Some(View {
        layout: Layout::single(address),
        epoch: field("config-epoch")
            .and_then(|epoch| epoch.parse().ok())
            .unwrap_or(0),
        is_ok: true,
        seen: Instant::now(),
    })
}

/// `CLUSTER INFO` and `CLUSTER SLOTS`.
fn cluster_view(asked: &Address, values: &[Value]) -> Result<View, ServersError> {
    let unreadable = || ServersError("an answer of a cluster node could not be understood".into());
    for value in values {
        if let Value::ServerError(error) = value {
            return Err(said(error));
        }
    }
    let info = text(values.first()).ok_or_else(unreadable)?;
    let field = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value.trim())
    };
    let Some(Value::Array(ranges)) = values.get(1) else {
        return Err(unreadable());
    };
    let mut layout = Layout::empty_cluster();
    for range in ranges {
        let Value::Array(range) = range else {
            return Err(unreadable());
        };
        let (Some(first), Some(last)) = (integer(range.first()), integer(range.get(1))) else {
            return Err(unreadable());
        };
        let mut nodes = range
            .iter()
            .skip(2)
            .filter_map(|node| node_address(asked, node));
        let Some(address) = nodes.next() else {
            continue;
        };
        let replicas = nodes.collect();
        layout.assign(first, last, Primary { address, replicas });
    }
    Ok(View {
        layout,
        epoch: field("cluster_current_epoch")
            .and_then(|epoch| epoch.parse().ok())
            .unwrap_or(0),
        is_ok: field("cluster_state") == Some("ok"),
        seen: Instant::now(),
    })
}

/// A node of `CLUSTER SLOTS`. Without an endpoint it is at the host that was asked
/// (`cluster-preferred-endpoint-type unknown-endpoint`).
fn node_address(asked: &Address, node: &Value) -> Option<Address> {
    let Value::Array(parts) = node else {
        return None;
    };
    let port = integer(parts.get(1)).filter(|&port| port > 0)?;
    let name = text(parts.first()).filter(|name| !name.is_empty() && name != "?");
    match (name, asked) {
        (Some(name), _) => Some(Address::Tcp(name, port)),
        (None, Address::Tcp(host, _)) => Some(Address::Tcp(host.clone(), port)),
        (None, Address::Unix(_)) => None,
    }
}

/// Where `MOVED slot host:port` and `ASK slot host:port` lead, and the slot; `asked` stands in for a
/// host that is left out.
#[must_use]
pub fn redirection(asked: &Address, detail: &str) -> Option<(u16, Address)> {
    let (slot, target) = detail.split_once(' ')?;
    let slot = slot.parse().ok()?;
    let (name, port) = target.trim().rsplit_once(':')?;
    let port = port.parse().ok()?;
    let address = match (name, asked) {
        ("" | "?", Address::Tcp(name, _)) => Address::Tcp(name.clone(), port),
        ("" | "?", Address::Unix(_)) => return None,
        (name, _) => Address::Tcp(name.trim_matches(['[', ']']).to_owned(), port),
    };
    Some((slot, address))
}

/// The layout in the answers of a sentinel (`SENTINEL MASTER`, `SENTINEL GET-MASTER-ADDR-BY-NAME`) or of a cluster node
/// (`CLUSTER INFO`, `CLUSTER SLOTS`), for the fuzz targets; `None` where they cannot be understood.
#[cfg(fuzzing)]
#[must_use]
pub fn layout(asked: &Address, are_sentinels: bool, values: &[Value]) -> Option<Layout> {
    let view = if are_sentinels {
        sentinel_view(values.first()?, values.get(1)?)
    } else {
        cluster_view(asked, values).ok()
    };
    view.map(|view| view.layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_name_a_slot_and_a_server() {
        let asked = Address::Tcp("a".into(), 1);
        let at = |host: &str, port| Some((7, Address::Tcp(host.into(), port)));
        assert_eq!(redirection(&asked, "7 10.0.0.1:6379"), at("10.0.0.1", 6379));
        assert_eq!(redirection(&asked, "7 ::1:6379"), at("::1", 6379));
        assert_eq!(redirection(&asked, "7 :6380"), at("a", 6380));
        assert_eq!(redirection(&asked, "x 10.0.0.1:6379"), None);
        assert_eq!(redirection(&asked, "7 10.0.0.1"), None);
    }
}
