//! Which hellos are being passed on.
//!
//! A gateway passes on to endpoints of its own cluster. Where two clusters each take the other's gateway for one, a
//! hello would go round until no socket is left. It is the same hello each time, and what a client put into it at
//! random tells it from every other.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What a client put into its hello at random (RFC 8446, 4.1.2).
type Random = [u8; 32];

/// The hellos of this process that are on their way.
#[derive(Debug, Default)]
pub(crate) struct Passing(Arc<Mutex<HashSet<Random>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Token {
    all: Arc<Mutex<HashSet<Random>>>,
    random: Random,
}

impl Passing {
    /// Notes a hello; none if it is on its way already.
    pub(crate) fn enter(&self, random: Random) -> Option<Token> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(random);
        is_new.then(|| Token { all: self.0.clone(), random })
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.random);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_on_its_way_once_at_a_time() {
        let passing = Passing::default();
        let first = passing.enter([1; 32]).unwrap();
        assert!(passing.enter([1; 32]).is_none());
        assert!(passing.enter([2; 32]).is_some());
        drop(first);
        assert!(passing.enter([1; 32]).is_some());
    }
}
