//! The servers of a deployment: which one to ask, and connections to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::servers::{Address, Kind, Layout, Locator, Servers, ServersConfig, ServersError};

use super::CONNECT_TIMEOUT;
use super::server::Server;
use crate::target::{Failure, FailureKind};

/// One server, or those that sentinels or a cluster name. What is known of them is kept until it
/// turns out to be wrong.
#[derive(Debug)]
pub struct Deployment {
    servers: Arc<Servers>,
    locator: Locator,
    layout: Option<Layout>,
    open: HashMap<Address, Server>,
    patience: Duration,
}

impl Deployment {
    /// As the settings say; nothing is sent yet. An answer may take as long as `patience`.
    ///
    /// # Errors
    /// The settings cannot be used, or a file that they name.
    pub fn new(config: &ServersConfig, patience: Duration) -> Result<Self, Failure> {
        let unusable = |error: ServersError| {
            Failure::refused(format!("the Redis URL cannot be used: {error}"))
        };
        let servers = Arc::new(Servers::new(config).map_err(unusable)?);
        // Bad files are better told at once.
        for address in servers.known() {
            let info = match servers.kind() {
                Kind::Sentinel { .. } => servers.sentinel_info(address),
                Kind::Single | Kind::Cluster => {
                    Ok(servers.connection_info(address).map_err(unusable)?)
                }
            };
            info.map_err(unusable)?;
        }
        servers.login().map_err(unusable)?;
        Ok(Self {
            locator: Locator::new(servers.clone(), CONNECT_TIMEOUT),
            servers,
            layout: None,
            open: HashMap::new(),
            patience,
        })
    }

    /// Whether channels are shard channels.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.servers.is_cluster()
    }

    /// Where the primary of a slot is.
    ///
    /// # Errors
    /// It cannot be found out ([`FailureKind::Unavailable`], [`FailureKind::Forbidden`]).
    pub async fn primary_of(&mut self, slot: u16) -> Result<Address, Failure> {
        let layout = self.layout().await?;
        if let Some(address) = layout.primary_of(slot) {
            return Ok(address.clone());
        }
        let uncovered = layout.uncovered();
        self.forget();
        Err(Failure::unavailable(format!(
            "{}: nobody serves the slot of this room, and {uncovered} slots in all",
            self.servers
        )))
    }

    /// Where all primaries are.
    ///
    /// # Errors
    /// As [`Deployment::primary_of`].
    pub async fn primaries(&mut self) -> Result<Vec<Address>, Failure> {
        let primaries = self.layout().await?.primaries();
        Ok(primaries.iter().map(|one| one.address.clone()).collect())
    }

    /// The server at an address of this deployment.
    pub fn server(&mut self, address: &Address) -> &mut Server {
        self.open
            .entry(address.clone())
            .or_insert_with(|| Server::new(self.servers.clone(), address.clone(), self.patience))
    }

    /// A server has said where a slot is served.
    ///
    /// # Errors
    /// The URL names a single server, which turns out to be one of a cluster.
    pub fn moved(&mut self, slot: u16, to: Address) -> Result<(), Failure> {
        if !self.is_cluster() {
            return Err(Failure::refused(format!(
                "{} is a node of a cluster: write redis+cluster:// (with TLS rediss+cluster://)",
                self.servers
            )));
        }
        self.layout = self.layout.take().map(|layout| layout.moved(slot, to));
        Ok(())
    }

    /// What is known turned out to be wrong, or may: it is found out again.
    pub fn forget(&mut self) {
        self.layout = None;
        self.open.clear();
    }

    async fn layout(&mut self) -> Result<&Layout, Failure> {
        let layout = match self.layout.take() {
            Some(layout) => layout,
            None => self.locator.locate().await.map_err(|error| {
                let ServersError(reason) = &error;
                let refused = ["WRONGPASS", "NOAUTH", "NOPERM", "AuthenticationFailed"];
                let kind = match refused.iter().any(|word| reason.contains(word)) {
                    true => FailureKind::Forbidden,
                    false => FailureKind::Unavailable,
                };
                let sentence = format!("the primary is not known from {}: {error}", self.servers);
                Failure::new(kind, sentence)
            })?,
        };
        Ok(self.layout.insert(layout))
    }
}
