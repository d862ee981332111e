//! Who has connected and still owes its hello.
//!
//! A hello comes at once or its sender is slow on purpose. When there are too many of those, the one that has waited
//! longest makes room for the newest, so that they crowd out each other and nobody else.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

/// Connections of this process that wait to be a hello.
#[derive(Debug)]
pub(crate) struct Hellos {
    most: usize,
    /// In the order in which they came; those that wait no more are gone behind their link.
    waiting: Mutex<VecDeque<Weak<Notify>>>,
}

/// One that waits, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Notify>);

impl Hellos {
    /// So many may wait at once; at least one.
    pub(crate) fn new(most: usize) -> Self {
        Hellos { most: most.max(1), waiting: Mutex::default() }
    }

    /// Begins to wait.
    pub(crate) fn wait(&self) -> Turn {
        let turn = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= self.most {
            waiting.retain(|turn| turn.strong_count() > 0);
        }
        if waiting.len() >= self.most
            && let Some(oldest) = waiting.pop_front().and_then(|turn| turn.upgrade())
        {
            oldest.notify_one();
        }
        waiting.push_back(Arc::downgrade(&turn));
        Turn(turn)
    }
}

impl Turn {
    /// Ready when it must make room.
    pub(crate) async fn crowded_out(&self) {
        self.0.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn is_out(turn: &Turn) -> bool {
        turn.crowded_out().now_or_never().is_some()
    }

    #[test]
    fn the_one_that_has_waited_longest_makes_room_and_whoever_is_done_takes_none() {
        let hellos = Hellos::new(2);
        let (first, second) = (hellos.wait(), hellos.wait());
        assert!(!is_out(&first) && !is_out(&second));
        drop(second);
        let third = hellos.wait();
        assert!(!is_out(&first) && !is_out(&third), "there was room");
        let fourth = hellos.wait();
        assert!(is_out(&first) && !is_out(&third) && !is_out(&fourth));
        let _fifth = hellos.wait();
        assert!(is_out(&third) && !is_out(&fourth));
        for _ in 0..1000 {
            drop(hellos.wait());
        }
        assert!(hellos.waiting.lock().unwrap().len() <= 2);
    }
}
