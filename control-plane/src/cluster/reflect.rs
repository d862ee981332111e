//! Follows one kind: a list in pages, then a watch from where the list ended.
//!
//! A watch that the server ends is opened again from the last version seen, bookmarks included; a version that is too old
//! (410, as a status or in the stream) makes a new list; anything else waits a growing pause, or as long as the server asks
//! (429, 503, 504 with Retry-After). A kind that the cluster does not have is asked for again now and then. A connection
//! that breaks loses nothing: what was known stays.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use signet_kubernetes::kinds::Kind;
use signet_kubernetes::translate::Objects;
use signet_kubernetes::translate::views::Object;

use super::api::{Api, ApiError};
use super::metrics::Metrics;
use super::store::{Happened, MAX_OBJECTS, Store};
use crate::fetch::jitter;

const PAGE: usize = 250;
/// See [`Reflector::largest_page`].
pub const MAX_PAGE: usize = 64 * 1024 * 1024;
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// See [`Reflector::longest_pause`].
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A watch that lived for so long ended for no fault of anybody.
const SETTLED: Duration = Duration::from_secs(5);
/// A watch without a line for so long may be from a version that the server does not have yet, or any more: bookmarks
/// come every minute.
const NOTHING: Duration = Duration::from_secs(120);

/// Follows one kind until it is dropped.
pub struct Reflector {
    pub api: Arc<Api>,
    pub kind: &'static Kind,
    pub store: Arc<Store>,
    pub metrics: Metrics,
    /// The longest pause between two tries, and how often a kind is asked for that is not there: [`LONGEST_PAUSE`].
    pub longest_pause: Duration,
    /// The bytes of a page that are read: [`MAX_PAGE`]. A page is of as many objects as fit, whoever wrote them.
    pub largest_page: usize,
}

/// Why a list or a watch is over.
#[derive(Debug)]
enum Over {
    /// The server ended it in order.
    Ended,
    /// What we have is too old to go on from.
    TooOld,
    /// The cluster does not have the kind.
    Absent,
    Failed(ApiError),
}

/// Where we are.
enum Place {
    List,
    Watch { version: &'static str, from: String },
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMetadata,
    items: Option<Vec<Value>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ListMetadata {
    resource_version: String,
    /// Where the next page begins; absent or empty on the last one.
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

impl Reflector {
    /// See the module's story.
    pub async fn follow(self) {
        let (mut place, mut page) = (Place::List, PAGE);
        let mut pause = FIRST_PAUSE.min(self.longest_pause);
        loop {
            let began = Instant::now();
            let over = match &mut place {
                Place::List => match self.list(&mut page).await {
                    Ok((version, from)) => {
                        place = Place::Watch { version, from };
                        continue;
                    }
                    Err(over) => over,
                },
                Place::Watch { version, from } => self.watch(version, from).await,
            };
            self.metrics.ended(self.kind, over.label());
            if matches!(over, Over::TooOld | Over::Absent) {
                place = Place::List;
            }
            let settled = began.elapsed() >= SETTLED;
            if settled {
                pause = FIRST_PAUSE.min(self.longest_pause);
            }
            let wait = match &over {
                Over::Ended if settled => continue,
                Over::Absent => self.longest_pause,
                Over::Ended | Over::TooOld => pause,
                Over::Failed(error) => {
                    self.failed(error);
                    error.retry_after().unwrap_or(pause).min(LONGEST_PAUSE).max(pause)
                }
            };
            tokio::time::sleep(wait.mul_f64(1.0 + jitter().abs())).await;
            pause = pause.saturating_mul(2).min(self.longest_pause);
        }
    }

    fn failed(&self, error: &ApiError) {
        tracing::warn!(
            target: "signet::cluster", kind = self.kind.long_name(), reason = error.label(), %error,
            "a kind is not followed; what is known of it stays"
        );
        self.store.trouble(self.kind.id, Some(error.to_string()));
    }

    /// Takes what there is now for all that there is; the version to watch from. A page of objects that are too large
    /// together is asked for in halves, from the beginning.
    async fn list(&self, page: &mut usize) -> Result<(&'static str, String), Over> {
        for version in self.kind.versions {
            let mut listed = self.list_as(version, *page).await;
            while let Err(Over::Failed(ApiError::TooLarge(_))) = listed
                && *page > 1
            {
                *page /= 2;
                listed = self.list_as(version, *page).await;
            }
            match listed {
                Err(Over::Failed(error)) if error.code() == Some(404) => {}
                Err(over) => return Err(over),
                Ok(from) => return Ok((version, from)),
            }
        }
        if self.kind.optional {
            self.store.absent(self.kind.id);
            self.store.trouble(self.kind.id, None);
        } else {
            let why = "the cluster does not have this kind: install Signet's custom resource definitions";
            tracing::warn!(target: "signet::cluster", kind = self.kind.long_name(), "{why}");
            self.store.trouble(self.kind.id, Some(why.into()));
        }
        Err(Over::Absent)
    }

    async fn list_as(&self, version: &'static str, size: usize) -> Result<String, Over> {
        let mut found = Objects::new();
        let mut next = String::new();
        loop {
            let path = format!("{}?limit={size}{}", self.kind.path(version), query("continue", &next));
            let body = match self.api.get(&path, "application/json", self.largest_page, LIST_TIMEOUT).await {
                Ok(body) => body,
                // Between two pages the list grew too old: from the beginning.
                Err(error) if error.code() == Some(410) => return Err(Over::TooOld),
                Err(error) => return Err(Over::Failed(error)),
            };
            let page: List = serde_json::from_slice(&body)
                .map_err(|_| Over::Failed(ApiError::Unreadable("it is not a list")))?;
            for item in page.items.unwrap_or_default() {
                match Object::read(self.kind.id, item) {
                    Ok(object) => drop(found.insert(object.key(), Arc::new(object))),
                    Err(error) => self.unreadable(&error),
                }
            }
            if found.len() > MAX_OBJECTS {
                return Err(Over::Failed(ApiError::Unreadable("it has more objects than any cluster")));
            }
            next = page.metadata.next.unwrap_or_default();
            if next.is_empty() {
                self.store.replace(self.kind.id, version, found);
                self.store.trouble(self.kind.id, None);
                self.metrics.count(self.kind, self.store.count(self.kind.id));
                return Ok(page.metadata.resource_version);
            }
        }
    }

    fn unreadable(&self, error: &str) {
        tracing::error!(target: "signet::cluster", kind = self.kind.long_name(), error, "an object cannot be read and is left out");
    }

    /// Watches from `from` on, which is kept current.
    async fn watch(&self, version: &'static str, from: &mut String) -> Over {
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds=300{}",
            self.kind.path(version),
            query("resourceVersion", from)
        );
        let mut lines = match self.api.watch(&path, OPEN_TIMEOUT).await {
            Ok(lines) => lines,
            Err(error) if error.code() == Some(410) => return Over::TooOld,
            Err(error) if error.code() == Some(404) => return Over::Absent,
            Err(error) => return Over::Failed(error),
        };
        self.store.trouble(self.kind.id, None);
        self.metrics.watching(self.kind, true);
        let (opened, mut heard) = (Instant::now(), false);
        let over = loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    heard = true;
                    if let Err(over) = self.event(&line, from) {
                        break over;
                    }
                }
                Ok(None) if !heard && opened.elapsed() >= NOTHING => break Over::TooOld,
                Ok(None) => break Over::Ended,
                Err(ApiError::Timeout(_)) if !heard => break Over::TooOld,
                Err(error) => break Over::Failed(error),
            }
        };
        self.metrics.watching(self.kind, false);
        over
    }

    fn event(&self, line: &[u8], from: &mut String) -> Result<(), Over> {
        let unreadable = || Over::Failed(ApiError::Unreadable("a line of the watch is no event"));
        let event: Event = serde_json::from_slice(line).map_err(|_| unreadable())?;
        let version =
            event.object.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned);
        let happened = match event.kind.as_str() {
            "ERROR" => return Err(said(&event.object)),
            "BOOKMARK" => {
                // The object is an empty one of its kind, with nulls in it; only its version means anything.
                if let Some(version) = version {
                    *from = version;
                }
                return Ok(());
            }
            "DELETED" => Happened::Gone,
            "ADDED" | "MODIFIED" => Happened::Is,
            // Of a newer server: whatever it is, a new list says it.
            _ => return Err(Over::TooOld),
        };
        match Object::read(self.kind.id, event.object) {
            Ok(object) => {
                if !self.store.happened(self.kind.id, happened, object) {
                    return Err(Over::Failed(ApiError::Unreadable("it has more objects than any cluster")));
                }
            }
            Err(error) => self.unreadable(&error),
        }
        if let Some(version) = version {
            *from = version;
        }
        self.metrics.count(self.kind, self.store.count(self.kind.id));
        Ok(())
    }
}

/// What an ERROR event says.
fn said(status: &Value) -> Over {
    let code = status.get("code").and_then(Value::as_u64).unwrap_or(500);
    let message = status.get("message").and_then(Value::as_str).unwrap_or_default();
    let seconds = status.pointer("/details/retryAfterSeconds").and_then(Value::as_u64);
    match code {
        410 => Over::TooOld,
        code => Over::Failed(ApiError::Status {
            code: u16::try_from(code).unwrap_or(500),
            message: message.chars().filter(|c| !c.is_control()).take(300).collect(),
            retry_after: seconds.map(Duration::from_secs),
        }),
    }
}

impl Over {
    fn label(&self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::TooOld => "too_old",
            Self::Absent => "absent",
            Self::Failed(error) => error.label(),
        }
    }
}

/// `&name=value` with the value escaped; nothing for an empty one.
pub(crate) fn query(name: &str, value: &str) -> String {
    if value.is_empty() {
        return String::new();
    }
    let mut out = format!("&{name}=");
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
