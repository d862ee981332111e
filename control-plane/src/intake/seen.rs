//! Logout tokens that were carried out, by issuer and `jti`, for as long as they would be believed again.

use std::collections::{HashSet, VecDeque};

use signet_token::{MAX_LOGOUT_AGE, sha256};

/// More in two minutes is a flood; the oldest are forgotten, and what is carried out twice ends nothing that began since
/// the first time but a session of the same user.
const MAX: usize = 16 * 1024;
/// Longer than a token is believed, whatever the clocks.
const KEPT: u64 = 2 * MAX_LOGOUT_AGE;

#[derive(Default)]
pub(super) struct Seen {
    known: HashSet<[u8; 32]>,
    order: VecDeque<(u64, [u8; 32])>,
}

impl Seen {
    /// Whether it is new, and from now on it is not.
    pub(super) fn note(&mut self, alias: &str, id: &str, now: u64) -> bool {
        while let Some((at, name)) = self.order.front().copied()
            && (at.saturating_add(KEPT) < now || self.order.len() >= MAX)
        {
            self.order.pop_front();
            self.known.remove(&name);
        }
        let name = sha256(format!("{alias}|{id}").as_bytes());
        let is_new = self.known.insert(name);
        if is_new {
            self.order.push_back((now, name));
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_new_once_and_its_memory_is_bounded() {
        let mut seen = Seen::default();
        assert!(seen.note("idp", "a", 0) && !seen.note("idp", "a", 1) && seen.note("other", "a", 1));
        assert!(seen.note("idp", "a", KEPT + 1), "long after it would be believed");
        for n in 0..2 * MAX {
            seen.note("idp", &n.to_string(), KEPT + 2);
        }
        assert!(seen.known.len() <= MAX && seen.order.len() == seen.known.len());
    }
}
