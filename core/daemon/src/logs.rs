//! Logs: one event a line on standard error, as text or JSON.
//!
//! The level applies to Signet's own targets. Libraries stay at warnings whatever the level, because at
//! `debug` some of them print what they carry: `h2` prints header frames, and with them credentials. Nothing
//! of ours logs a secret either: see [`crate::Secret`].

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt as lines, fmt::MakeWriter, layer::SubscriberExt, reload,
    util::SubscriberInitExt,
};

/// What every target of ours begins with: `signet::...` and the crates' own `signet_...`.
const OURS: &str = "signet";

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object.
    #[default]
    Json,
    /// For people.
    Text,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(LevelFilter);

impl Default for Level {
    fn default() -> Self {
        Self(LevelFilter::INFO)
    }
}

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("expected one of off, error, warn, info, debug, trace, not \"{0}\"")]
    Level(String),
    #[error("logging was already set up in this process")]
    Twice,
    #[error("logging has ended")]
    Ended,
}

impl FromStr for Level {
    type Err = LogError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let level = match s {
            "off" => LevelFilter::OFF,
            "error" => LevelFilter::ERROR,
            "warn" => LevelFilter::WARN,
            "info" => LevelFilter::INFO,
            "debug" => LevelFilter::DEBUG,
            "trace" => LevelFilter::TRACE,
            _ => return Err(LogError::Level(s.to_owned())),
        };
        Ok(Self(level))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Changes the level of a running process.
#[derive(Clone)]
pub struct LogHandle(reload::Handle<Targets, Registry>);

impl LogHandle {
    /// From now on.
    pub fn set_level(&self, level: Level) -> Result<(), LogError> {
        self.0.reload(targets(level)).map_err(|_| LogError::Ended)
    }
}

fn targets(level: Level) -> Targets {
    Targets::new().with_target(OURS, level.0).with_default(level.0.min(LevelFilter::WARN))
}

/// Sets up logging for this process, once, to standard error.
pub fn init(format: Format, level: Level) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = subscriber(format, level, std::io::stderr);
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    Ok(handle)
}

fn subscriber<W>(
    format: Format,
    level: Level,
    writer: W,
) -> (impl SubscriberExt + SubscriberInitExt, LogHandle)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(level));
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        Format::Json => Box::new(
            lines::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .with_writer(writer)
                .with_filter(filter),
        ),
        Format::Text => Box::new(lines::layer().with_ansi(false).with_writer(writer).with_filter(filter)),
    };
    (tracing_subscriber::registry().with(layer), LogHandle(handle))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn logged(format: Format, level: &str, events: impl FnOnce(&LogHandle)) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let (subscriber, handle) = subscriber(format, level.parse().unwrap(), move || writer.clone());
        let _guard = subscriber.set_default();
        events(&handle);
        kept.text()
    }

    #[test]
    fn a_json_line_is_one_object_with_flat_fields() {
        let text = logged(Format::Json, "info", |_| {
            tracing::info!(target: "signet::test", peer = "ns/shop/sa/web", "accepted \"one\"");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["target"], "signet::test");
        assert_eq!(line["peer"], "ns/shop/sa/web");
        assert_eq!(line["message"], "accepted \"one\"");
    }

    #[test]
    fn the_level_is_ours_and_libraries_stay_at_warnings() {
        let text = logged(Format::Text, "trace", |_| {
            tracing::trace!(target: "signet_proxy::inbound", "ours");
            tracing::debug!(target: "h2::codec", "authorization: Bearer hunter2");
            tracing::warn!(target: "h2::codec", "theirs");
        });
        assert!(text.contains("ours") && text.contains("theirs"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn the_level_changes_while_running() {
        let text = logged(Format::Text, "error", |handle| {
            tracing::info!(target: "signet::test", "before");
            handle.set_level("info".parse().unwrap()).unwrap();
            tracing::info!(target: "signet::test", "after");
        });
        assert!(!text.contains("before") && text.contains("after"), "{text}");
    }

    #[test]
    fn an_unknown_level_says_which_ones_there_are() {
        let error = "loud".parse::<Level>().unwrap_err().to_string();
        assert!(error.contains("debug") && error.contains("loud"), "{error}");
    }
}
