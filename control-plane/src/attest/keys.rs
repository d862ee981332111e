//! The cluster's own signing keys, for the fast mode only.
//!
//! Fetched from the API server itself, over the connection that its own roots vouch for, and again every five minutes or
//! when a token names a key that is not there. Keys that could not be confirmed for an hour are not used.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::Deserialize;
use signet_token::Jwks;
use tokio::sync::Notify;

use super::api::{Api, ApiError};
use crate::fetch::jitter;

const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";
/// The server answers `application/json` alone with 406.
const ACCEPT_KEYS: &str = "application/jwk-set+json";
const MAX_BODY: usize = 256 * 1024;
const TIMEOUT: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(300);
/// However many unknown keys are named.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
const STALE: Duration = Duration::from_secs(3600);

/// Who signs, and with what.
#[derive(Debug, Clone)]
pub struct Keys {
    pub issuer: String,
    pub keys: Jwks,
    at: Instant,
}

/// See the module's story.
pub struct KeyRing {
    api: Arc<Api>,
    current: RwLock<Option<Arc<Keys>>>,
    wanted: Notify,
}

impl KeyRing {
    #[must_use]
    pub fn new(api: Arc<Api>) -> Arc<Self> {
        Arc::new(Self { api, current: RwLock::default(), wanted: Notify::new() })
    }

    /// The keys, if they are new enough to be used.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Keys>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone().filter(|keys| keys.at.elapsed() < STALE)
    }

    /// A token named a key that is not there.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Keeps the keys current until the future is dropped.
    pub async fn follow(self: Arc<Self>) {
        loop {
            let wait = match self.fetch().await {
                Ok(keys) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
                    EVERY
                }
                Err(error) => {
                    tracing::warn!(target: "signet::attest", reason = error.label(), %error, "the cluster's keys were not fetched");
                    AT_MOST_EVERY
                }
            };
            tokio::time::sleep(AT_MOST_EVERY).await;
            tokio::select! {
                () = tokio::time::sleep(wait.saturating_sub(AT_MOST_EVERY).mul_f64(1.0 + jitter().abs())) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    async fn fetch(&self) -> Result<Keys, ApiError> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
        }
        let body = self.api.get(DISCOVERY, "application/json", MAX_BODY, TIMEOUT).await?;
        let Discovery { issuer } = serde_json::from_slice(&body)
            .map_err(|_| ApiError::Unreadable("it is not a discovery document"))?;
        let body = self.api.get(KEYS, ACCEPT_KEYS, MAX_BODY, TIMEOUT).await?;
        let text = std::str::from_utf8(&body).map_err(|_| ApiError::Unreadable("it is not text"))?;
        let keys = Jwks::parse(text).map_err(|_| ApiError::Unreadable("it is not a key set"))?;
        Ok(Keys { issuer, keys, at: Instant::now() })
    }
}
