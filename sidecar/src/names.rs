//! The app's name server, as it is configured: its sockets, its start, and what a successor is handed of it.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use prometheus::Registry;
use signet_dns::metrics::Metrics;
use signet_dns::names::Names;
use signet_dns::resolvers::Resolvers;
use signet_dns::{Bound, Limits, Running, Server};
use signet_proxy::state::State;

use crate::config::Config;
use crate::run::RunError;

/// Listeners by their names in `addresses.json`.
pub struct Doors(Vec<(String, Bound)>);

/// A name server that answers.
pub struct Answering {
    names: Vec<String>,
    /// Its thread.
    pub running: Running,
}

impl Doors {
    /// Takes the configured addresses, or goes on with the sockets of a predecessor.
    pub fn open(config: &Config, sockets: &mut HashMap<String, Vec<OwnedFd>>) -> Result<Self, RunError> {
        let listen = config.dns.iter().flat_map(|dns| &dns.listen);
        let bound = listen.enumerate().map(|(at, address)| {
            let name = format!("dns/{at}");
            let bound = Bound::inherited(*address, sockets.remove(&name).unwrap_or_default())?;
            Ok::<_, RunError>((name, bound))
        });
        Ok(Doors(bound.collect::<Result<_, _>>()?))
    }

    /// Answers; the addresses are added to the list. `None` where nothing is configured.
    pub fn answer(
        self,
        config: &Config,
        state: Arc<State>,
        registry: &Registry,
        addresses: &mut BTreeMap<String, String>,
    ) -> Result<Option<Answering>, RunError> {
        let Some(dns) = &config.dns else { return Ok(None) };
        let (names, bound): (Vec<_>, Vec<_>) = self.0.into_iter().unzip();
        let mut own = Vec::new();
        for (name, bound) in names.iter().zip(&bound) {
            let address = bound.address().map_err(signet_dns::StartError::Thread)?;
            tracing::info!(target: "signet::sidecar", %address, name, "listening");
            addresses.insert(name.clone(), address.to_string());
            own.push(address);
        }
        let server = Server {
            names: Names::new(state, &dns.cluster_domain),
            resolvers: Resolvers::new(dns.resolv_conf.clone(), own),
            limits: Limits::default(),
            metrics: Metrics::new(registry)?,
        };
        Ok(Some(Answering { names, running: server.start(bound)? }))
    }
}

impl Answering {
    /// The sockets by their listeners' names, for a successor.
    pub fn sockets(&self) -> std::io::Result<Vec<(String, Vec<OwnedFd>)>> {
        Ok(self.names.iter().cloned().zip(self.running.sockets()?).collect())
    }
}
