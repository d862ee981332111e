//! So many a second and no more: for log lines and records that a stranger can cause at will.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts within the current second.
#[derive(Debug, Default)]
pub(crate) struct PerSecond {
    /// The second of the epoch in the upper half, how many in it in the lower.
    window: AtomicU64,
}

impl PerSecond {
    pub(crate) const fn new() -> Self {
        PerSecond { window: AtomicU64::new(0) }
    }

    /// Whether one more fits into this second.
    pub(crate) fn admits(&self, second: u64, most: u64) -> bool {
        let second = second & 0xffff_ffff;
        self.window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
                let (then, count) = (window >> 32, window & 0xffff_ffff);
                match then == second {
                    false => Some((second << 32) | 1),
                    true => (count < most).then_some(window + 1),
                }
            })
            .is_ok()
    }
}
