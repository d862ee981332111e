//! The app's metrics beside our own, at the one address that Prometheus reaches in a pod whose ports are strict.
//!
//! Whenever `/metrics` is asked for, the app is asked at the one port and path that the configuration says, at the address
//! that the scraper dialled; nothing that the scraper sends chooses anything else. Our own come first, and come whatever the
//! app does: what it answers is bounded in time and size, read line by line, and left out whole if Prometheus could not read
//! it. A line with a name of ours is left out: an app does not speak for its sidecar.
//!
//! However many ask, the app is asked once a second at most, and they all get the same bytes: strangers reach this address, too.

mod ask;
mod lines;
mod openmetrics;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use signet_daemon::{Exposition, Scrape};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::AppMetrics;
use ask::{Asked, Failure};

/// For how long an answer is given to whoever else asks.
const FRESH: Duration = Duration::from_secs(1);
/// How long the app may take when the scraper does not say how long it waits itself.
const PATIENCE: Duration = Duration::from_secs(4);
/// And at most: the whole exchange has ten seconds, and the answer must be sent in them.
const LONGEST: Duration = Duration::from_secs(7);
/// What is left of the scraper's patience for everything but the app.
const REST: Duration = Duration::from_millis(500);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The formats that Prometheus reads as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    OpenMetrics,
}

/// See the module's story.
pub struct AppScrape {
    app: AppMetrics,
    registry: Registry,
    outcomes: IntCounterVec,
    dropped: IntCounter,
    last: Mutex<[Option<Last>; 2]>,
}

/// An answer, and when it was made.
struct Last {
    at: Instant,
    said: Exposition,
}

impl AppScrape {
    /// Registers the metrics of scraping beside all others.
    pub fn new(app: &AppMetrics, registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let outcomes = IntCounterVec::new(
            Opts::new("signet_app_scrapes_total", "Times that the app was asked for its metrics"),
            &["outcome"],
        )?;
        let dropped = IntCounter::new(
            "signet_app_metrics_dropped_total",
            "Lines of the app's metrics that were left out since they have a name of ours",
        )?;
        // A successor's doors may open after ones that failed before, whose counters nobody counts on.
        let _ = registry.unregister(Box::new(outcomes.clone()));
        let _ = registry.unregister(Box::new(dropped.clone()));
        registry.register(Box::new(outcomes.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        Ok(Arc::new(Self {
            app: app.clone(),
            registry: registry.clone(),
            outcomes,
            dropped,
            last: Mutex::default(),
        }))
    }

    /// What is said to this scraper.
    pub async fn answer(self: Arc<Self>, scrape: Scrape) -> Exposition {
        let patience = scrape.patience.map_or(PATIENCE, |all| all.saturating_sub(REST)).min(LONGEST);
        let end = Instant::now() + patience;
        match tokio::time::timeout_at(end, self.last.lock()).await {
            Ok(mut last) => {
                let [text, openmetrics] = &mut *last;
                let slot = if scrape.takes_openmetrics { openmetrics } else { text };
                match slot {
                    Some(Last { at, said }) if at.elapsed() < FRESH => said.clone(),
                    slot => {
                        let said = self.whole(&scrape, end).await;
                        *slot = Some(Last { at: Instant::now(), said: said.clone() });
                        said
                    }
                }
            }
            // Somebody else waits for the app, for longer than this one would.
            Err(_) => self.own(Err(Failure::Busy)),
        }
    }

    async fn whole(&self, scrape: &Scrape, end: Instant) -> Exposition {
        let asked = ask::ask(&self.app, scrape.dialled, scrape.takes_openmetrics, end);
        let answered = match tokio::time::timeout_at(end, asked).await {
            Ok(answered) => answered.and_then(|Asked { format, body }| {
                Ok((format, lines::sound(&body, format).map_err(Failure::Malformed)?))
            }),
            Err(_) => Err(Failure::Timeout),
        };
        self.own(answered)
    }

    /// Ours, and what came of the app behind them.
    fn own(&self, answered: Result<(Format, lines::Sound), Failure>) -> Exposition {
        let outcome = answered.as_ref().map_or_else(Failure::label, |_| "ok");
        self.outcomes.with_label_values(&[outcome]).inc();
        let app = match answered {
            Ok((format, sound)) => {
                self.dropped.inc_by(sound.dropped);
                Some((format, sound.text))
            }
            Err(why) => {
                tracing::debug!(target: "signet::scrape", %why, port = self.app.port.get(), "the app's metrics are left out");
                None
            }
        };
        let own = match Exposition::text(&self.registry) {
            Ok(said) => said.body,
            Err(error) => {
                tracing::warn!(target: "signet::scrape", %error, "own metrics cannot be written");
                Bytes::new()
            }
        };
        let Some((format, text)) = app else { return Exposition { content_type: TEXT, body: own } };
        match format {
            Format::Text => {
                Exposition { content_type: TEXT, body: [own.as_ref(), text.as_bytes()].concat().into() }
            }
            Format::OpenMetrics => {
                let own = openmetrics::of_text(&String::from_utf8_lossy(&own));
                let body = [own.as_bytes(), text.as_bytes(), b"# EOF\n"].concat();
                Exposition { content_type: OPENMETRICS, body: body.into() }
            }
        }
    }
}
