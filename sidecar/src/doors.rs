//! What people, probes and apps come in by, beside the data plane: the admin socket, the metrics port, the workload socket.
//!
//! They are bound at the start. A successor waits until the process before has left them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use signet_daemon::logs::LogHandle;
use signet_daemon::{LocalServer, MetricsServer, Shutdown, SystemClock, Trigger};
use signet_workload::{Bounds, Listen, Provider};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::agent;
use crate::app_api::AppApi;
use crate::config::{Config, ListenAddress, Role};
use crate::probes::{ProbeError, ProbeServer};
use crate::run::RunError;
use crate::scrape::AppScrape;
use crate::status::Status;

/// What they need.
pub struct Doors {
    /// As configured.
    pub config: Arc<Config>,
    /// What they show.
    pub status: Arc<Status>,
    /// Its metrics.
    pub registry: Registry,
    /// Its log.
    pub logs: Option<LogHandle>,
    /// Ends the process.
    pub trigger: Trigger,
    /// Where the process stands.
    pub shutdown: Shutdown,
}

/// Those that are open; they close when this is dropped.
pub struct Open {
    tasks: JoinSet<()>,
    workload: Option<UnixListener>,
    app: Option<LocalServer>,
}

/// How long a predecessor may take to leave them: it has been told to, and closes sockets.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who is served at the workload socket, with its metrics.
pub type Offer = (Arc<dyn Provider>, signet_workload::Metrics);

impl Doors {
    /// Opens all that are configured; their addresses are added to the list.
    pub async fn open(&self, addresses: &mut BTreeMap<String, String>) -> Result<Open, RunError> {
        let mut tasks = JoinSet::new();
        let config = &self.config;
        if let Some(admin) = &config.admin {
            let routes = Admin {
                config: config.clone(),
                status: self.status.clone(),
                registry: self.registry.clone(),
                logs: self.logs.clone(),
                trigger: self.trigger.clone(),
            };
            let server = routes.bind(&admin.socket)?;
            addresses.insert("admin".to_owned(), format!("unix:{}", admin.socket.display()));
            tasks.spawn(server.run(self.shutdown.clone()));
        }
        if let Some(listen) = config.metrics.as_ref().map(|metrics| metrics.listen) {
            let failed = |source| RunError::Metrics { address: listen, source };
            let ready = self.status.clone();
            let server = MetricsServer::bind(listen, self.registry.clone(), move || ready.ready());
            let mut server = server.await.map_err(failed)?;
            if let Some(app) = config.app_metrics() {
                let app = AppScrape::new(app, &self.registry).map_err(RunError::Registry)?;
                server = server.with_source(move |scrape| app.clone().answer(scrape));
            }
            addresses.insert("metrics".to_owned(), server.local_addr().map_err(failed)?.to_string());
            tasks.spawn(server.run(self.shutdown.clone()));
        }
        if let Some(probes) = &config.probes {
            let failed = |source| RunError::Probes { address: probes.listen, source };
            let server = ProbeServer::bind(probes, &self.registry).await;
            let server = server.map_err(|error| match error {
                ProbeError::Io(source) => failed(source),
                ProbeError::Metrics(error) => RunError::Registry(error),
            })?;
            addresses.insert("probes".to_owned(), server.local_addr().map_err(failed)?.to_string());
            tasks.spawn(server.run(self.shutdown.clone()));
        }
        let workload = config.workload_api.as_ref().map(|api| {
            addresses.insert("workload".to_owned(), format!("unix:{}", api.socket.display()));
            signet_daemon::bind_socket_with_mode(&api.socket, api.mode_bits(config.role))
        });
        let workload = workload.transpose().map_err(RunError::Workload)?;
        Ok(Open { tasks, workload, app: self.app(addresses).await? })
    }

    /// The app's own, bound and silent until there is an answer to give.
    async fn app(&self, addresses: &mut BTreeMap<String, String>) -> Result<Option<LocalServer>, RunError> {
        let Some(api) = &self.config.app_api else { return Ok(None) };
        let server = match &api.listen {
            ListenAddress::Tcp(address) => {
                let failed = |source| RunError::AppAddress { address: *address, source };
                let server = LocalServer::on_loopback(*address).await.map_err(failed)?;
                let bound = server.local_addr().unwrap_or(*address);
                addresses.insert("app".to_owned(), bound.to_string());
                server
            }
            ListenAddress::Unix(path) => {
                addresses.insert("app".to_owned(), format!("unix:{}", path.display()));
                LocalServer::on_socket(path, api.mode_bits(), api.allowed_uids.clone())
                    .map_err(RunError::AppSocket)?
            }
        };
        Ok(Some(server))
    }

    /// The same, as soon as they are free.
    pub async fn open_when_free(&self, addresses: &mut BTreeMap<String, String>) -> Result<Open, RunError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.open(addresses).await {
                Err(
                    RunError::Admin(_)
                    | RunError::Metrics { .. }
                    | RunError::Probes { .. }
                    | RunError::Workload(_)
                    | RunError::AppAddress { .. }
                    | RunError::AppSocket(_),
                ) if Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                opened => return opened,
            }
        }
    }
}

impl Open {
    /// Serves the workload socket, if there is one.
    pub fn offer(&mut self, offer: Option<Offer>, config: &Config, shutdown: &Shutdown) {
        let (Some(listener), Some((provider, metrics))) = (self.workload.take(), offer) else { return };
        let listen = Listen {
            provider,
            clock: Arc::new(SystemClock),
            metrics,
            uids: config.workload_api.as_ref().and_then(|api| api.allowed_uids.clone()),
            bounds: if config.role == Role::Agent { agent::BOUNDS } else { Bounds::default() },
            shutdown: shutdown.clone(),
        };
        // Ends with the drain, which is no failure.
        self.tasks.spawn(signet_workload::listen(listener, listen));
    }

    /// Answers the app, if it has a door.
    pub fn answer_app(&mut self, api: Option<Arc<AppApi>>, shutdown: &Shutdown) {
        let (Some(server), Some(api)) = (self.app.take(), api) else { return };
        let shutdown = shutdown.clone();
        self.tasks.spawn(server.run(shutdown, move |request| api.clone().answer(request)));
    }

    /// Closes them, and returns when they are free.
    pub async fn close(mut self) {
        self.workload = None;
        self.app = None;
        self.tasks.shutdown().await;
    }
}
