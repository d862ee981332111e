//! The app's metrics beside our own, at the one address that Prometheus reaches in a pod whose ports are strict.
//!
//! Whenever `/metrics` is asked for, the app is asked at the one port and path that the configuration says, at the address
//! that the scraper dialled; nothing that the scraper sends chooses anything else. Our own come first, and come whatever the
//! app does: what it answers is bounded in time and size, read line by line, and left out whole if Prometheus could not read
//! it. A line with a name of ours is left out: an app does not speak for its sidecar.
//!
//! However many ask, the app is asked once a second at most, and they all get the same bytes: strangers reach this address, too.
//! So how long the app may take is for us to say, and how long somebody waits for that is his own affair: whoever waits for
//! nothing takes nothing from the others. Nor does whoever dials an address at which the app is not: each has its own answer.

mod ask;
mod lines;
mod openmetrics;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use signet_daemon::{Exposition, Scrape};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::AppMetrics;
use ask::{Asked, Failure};

/// For how long an answer is given to whoever else asks.
const FRESH: Duration = Duration::from_secs(1);
/// How long the app may take, whoever asks.
const APP: Duration = Duration::from_secs(7);
/// How long a scraper waits that does not say so.
const PATIENCE: Duration = Duration::from_secs(4);
/// And at most: the whole exchange has ten seconds, and the answer must be sent in them.
const LONGEST: Duration = Duration::from_millis(7500);
/// What is left of the scraper's patience for everything but the app.
const REST: Duration = Duration::from_millis(500);
/// Answers at a time: a host has a few addresses, and each may be dialled for either format.
const PLACES: usize = 16;

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
    questions: Mutex<HashMap<Question, Answer>>,
}

/// What the app is asked: at which address, and whether for OpenMetrics.
type Question = (IpAddr, bool);
/// An answer, when it is there, and when it was made.
type Answer = watch::Receiver<Option<(Instant, Exposition)>>;

/// Whether whoever asks may have it, or wait for it.
fn is_good(answer: &Answer) -> bool {
    // In this order: who would answer may end in between.
    let is_alive = answer.has_changed().is_ok();
    answer.borrow().as_ref().map_or(is_alive, |(at, _)| at.elapsed() < FRESH)
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
            questions: Mutex::default(),
        }))
    }

    /// What is said to this scraper.
    pub async fn answer(self: Arc<Self>, scrape: Scrape) -> Exposition {
        let patience = scrape.patience.map_or(PATIENCE, |all| all.saturating_sub(REST)).min(LONGEST);
        let end = Instant::now() + patience;
        let Some(mut answer) = self.question((scrape.dialled, scrape.takes_openmetrics)) else {
            return self.own(Err(Failure::Busy));
        };
        let said = match tokio::time::timeout_at(end, answer.wait_for(Option::is_some)).await {
            Ok(Ok(said)) => said.as_ref().map(|(_, said)| said.clone()),
            // It goes on for the others.
            Ok(Err(_)) | Err(_) => None,
        };
        said.unwrap_or_else(|| self.own(Err(Failure::Impatient)))
    }

    /// The answer that is there or on its way. Otherwise the app is asked, whether or not whoever began it waits.
    fn question(self: &Arc<Self>, question: Question) -> Option<Answer> {
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        questions.retain(|_, answer| is_good(answer));
        if let Some(answer) = questions.get(&question) {
            return Some(answer.clone());
        }
        if questions.len() >= PLACES {
            return None;
        }
        let (tell, answer) = watch::channel(None);
        questions.insert(question, answer.clone());
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let said = this.whole(question).await;
            tell.send_replace(Some((Instant::now(), said)));
            // An answer that nobody may have any more is no use in memory.
            tokio::time::sleep(FRESH).await;
            drop(tell);
            this.questions.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, answer| is_good(answer));
        });
        Some(answer)
    }

    async fn whole(&self, (at, openmetrics): Question) -> Exposition {
        let end = Instant::now() + APP;
        let read = async {
            let Asked { format, body } = ask::ask(&self.app, at, openmetrics, end).await?;
            // The thread that is here has the control plane's stream, too.
            let read = tokio::task::spawn_blocking(move || lines::sound(&body, format)).await?;
            Ok((format, read.map_err(Failure::Malformed)?))
        };
        self.own(tokio::time::timeout_at(end, read).await.unwrap_or(Err(Failure::Timeout)))
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
