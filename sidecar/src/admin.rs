//! The admin socket: for whoever runs this process, and nobody else (Unix, mode 0600).
//!
//! `GET /ready`, `GET /metrics`, `GET /config` (what was configured and what came from the control plane, no
//! secrets), `GET /heads` (the signed ends of the issuance log that are held), `GET /handshakes` (those that failed lately), `POST /loglevel` (body or query `level=debug`), `POST /shutdown` (drains).

use std::path::Path;
use std::sync::Arc;

use http::StatusCode;
use prometheus::{Encoder, Registry, TextEncoder};
use serde::Serialize;
use signet_daemon::logs::{Level, LogHandle};
use signet_daemon::{AdminRequest, AdminResponse, AdminServer, Routes, SocketError, Trigger};

use crate::config::Config;
use crate::status::{Report, Status};

/// What the socket acts on.
#[derive(Clone)]
pub struct Admin {
    /// As configured.
    pub config: Arc<Config>,
    /// As it is.
    pub status: Arc<Status>,
    /// Every metric.
    pub registry: Registry,
    /// The log's level; none where logs were not set up here.
    pub logs: Option<LogHandle>,
    /// Begins the drain.
    pub trigger: Trigger,
}

#[derive(Serialize)]
struct Effective<'a> {
    version: &'static str,
    config: &'a Config,
    #[serde(flatten)]
    report: Report,
}

impl Admin {
    /// Binds the socket.
    pub fn bind(self, path: &Path) -> Result<AdminServer, SocketError> {
        AdminServer::bind(path, self.routes())
    }

    fn routes(self) -> Routes {
        let (ready, metrics, config, heads, handshakes, level, shutdown) =
            (self.clone(), self.clone(), self.clone(), self.clone(), self.clone(), self.clone(), self);
        Routes::new()
            .get("/ready", move |_| {
                let answer = match (ready.trigger.token().is_draining(), ready.status.ready()) {
                    (true, _) => AdminResponse::error(StatusCode::SERVICE_UNAVAILABLE, "draining"),
                    (false, Ok(())) => AdminResponse::text("ready\n"),
                    (false, Err(missing)) => AdminResponse::error(StatusCode::SERVICE_UNAVAILABLE, missing),
                };
                async move { answer }
            })
            .get("/metrics", move |_| {
                let answer = metrics.metrics();
                async move { answer }
            })
            .get("/config", move |_| {
                let effective = Effective {
                    version: env!("CARGO_PKG_VERSION"),
                    config: &config.config,
                    report: config.status.report(),
                };
                let answer = AdminResponse::json(&effective);
                async move { answer }
            })
            .get("/heads", move |_| {
                let answer = AdminResponse::json(&heads.status.held_log_heads());
                async move { answer }
            })
            .get("/handshakes", move |_| {
                let answer = AdminResponse::json(&handshakes.status.handshakes());
                async move { answer }
            })
            .post("/loglevel", move |request| {
                let answer = level.level(&request);
                async move { answer }
            })
            .post("/shutdown", move |_| {
                tracing::info!(target: "signet::shutdown", "drain asked for on the admin socket");
                shutdown.trigger.drain();
                async { AdminResponse::text("draining\n") }
            })
    }

    fn metrics(&self) -> AdminResponse {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => AdminResponse::text(text),
            Err(error) => AdminResponse::error(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    fn level(&self, request: &AdminRequest) -> AdminResponse {
        let body = String::from_utf8_lossy(&request.body);
        let text = if request.query.is_empty() { body.trim() } else { request.query.trim() };
        let wanted = text.strip_prefix("level=").unwrap_or(text);
        let Some(logs) = &self.logs else {
            return AdminResponse::error(StatusCode::CONFLICT, "logs are not set up in this process");
        };
        match wanted.parse::<Level>().and_then(|level| logs.set_level(level).map(|()| level)) {
            Ok(level) => {
                tracing::info!(target: "signet::admin", %level, "log level changed");
                AdminResponse::text(format!("{level}\n"))
            }
            Err(error) => AdminResponse::error(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}
