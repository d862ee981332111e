//! Who keeps a root elsewhere is told in time that it is to sign again.

use std::sync::atomic::Ordering;

use super::RootSource;
use crate::authority::Inner;
use crate::rotation::machine::{Phase, activate_at, prepare_at};
use crate::rotation::{Kind, view::View};

/// As often is it said in the log.
const EVERY: i64 = 6 * 3600;

impl Inner {
    /// Shows by when a certificate signed elsewhere is needed, and says so in the log from the time on at which it
    /// should be asked for.
    pub(crate) fn remind(&self, now: i64) {
        if self.root_source == RootSource::Own {
            return;
        }
        let Ok(view) = self.view() else {
            self.metrics.root_due.set(now);
            self.remind_of("there is no root yet: nothing can be issued", now);
            return;
        };
        let (Some(due), Some(from)) = (
            due(&view, |slot| activate_at(slot, &self.rotation)),
            due(&view, |slot| prepare_at(slot, &self.rotation)),
        ) else {
            self.metrics.root_due.set(0);
            return;
        };
        self.metrics.root_due.set(due);
        if now >= from {
            self.remind_of(&format!("the root ends, and a successor is to be there by {due}"), now);
        }
    }

    fn remind_of(&self, what: &str, now: i64) {
        let before = self.reminded.load(Ordering::Relaxed);
        if now.saturating_sub(before) < EVERY {
            return;
        }
        self.reminded.store(now, Ordering::Relaxed);
        let todo = match &self.root_source {
            RootSource::Folder(folder) => {
                format!("put tls.crt, tls.key and ca.crt into {}", folder.display())
            }
            _ => {
                "`signet ca csr` shows the request; have the root sign it, then `signet ca import`".to_owned()
            }
        };
        tracing::warn!(target: "signet::ca", what, todo, "a certificate that is signed elsewhere is needed");
    }
}

/// When something is due for the active root, where nothing signed follows it yet.
fn due(view: &View, at: impl Fn(&crate::rotation::machine::Slot) -> i64) -> Option<i64> {
    let roots = || view.entries.iter().map(|entry| &entry.slot).filter(|slot| slot.kind == Kind::Root);
    let signed =
        roots().any(|slot| matches!(slot.phase, Phase::Prepared | Phase::Published | Phase::Acknowledged));
    if signed { None } else { roots().find(|slot| slot.phase == Phase::Active).map(at) }
}
