//! What sidecars go by, on its way to the authority: a rotation waits for it.
//!
//! A stream says which bundle its sidecar has taken, or that the sidecar leaves. The words are gathered and handed on
//! together, at most a few times a second: a rotation has ten thousand of them at once. Only the last word of a
//! certificate counts, so what waits is bounded by the connections.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use signet_ca::{Acknowledged, Authority};
use signet_identity::Serial;
use tokio::sync::Notify;

/// Words that come within this go on together.
const GATHER: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(2);

/// See the module's story.
#[derive(Debug, Default)]
pub struct Acks {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    go_by: HashMap<Serial, u64>,
    left: HashSet<Serial>,
}

impl Acks {
    /// The sidecar with this certificate goes by the bundle with this number.
    pub fn goes_by(&self, serial: Serial, sequence: u64) {
        self.lock().go_by.insert(serial, sequence);
        self.news.notify_one();
    }

    /// It ends in good order.
    pub fn leaves(&self, serial: Serial) {
        let mut waiting = self.lock();
        waiting.go_by.remove(&serial);
        waiting.left.insert(serial);
        drop(waiting);
        self.news.notify_one();
    }

    /// Hands on for as long as it runs.
    pub async fn pass_on(self: Arc<Self>, authority: Authority) {
        loop {
            self.news.notified().await;
            tokio::time::sleep(GATHER).await;
            let Waiting { go_by, left } = std::mem::take(&mut *self.lock());
            let words = go_by
                .iter()
                .map(|(serial, sequence)| Acknowledged {
                    serial: serial.as_bytes().to_vec(),
                    sequence: *sequence,
                })
                .collect();
            let gone = left.iter().map(|serial| serial.as_bytes().to_vec()).collect();
            // The failure was logged and counted by the authority.
            if authority.heard_of(words, gone).await.is_err() {
                self.put_back(go_by, left);
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Later words than these stand.
    fn put_back(&self, go_by: HashMap<Serial, u64>, left: HashSet<Serial>) {
        let mut waiting = self.lock();
        for (serial, sequence) in go_by {
            if !waiting.left.contains(&serial) {
                waiting.go_by.entry(serial).or_insert(sequence);
            }
        }
        waiting.left.extend(left);
        drop(waiting);
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
