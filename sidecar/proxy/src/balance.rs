//! Which endpoint: the less loaded of two chosen at random.
//!
//! The load is what this whole process has under way there, so that two workers do not both think an
//! endpoint idle; connects that fail weigh like many requests until one works again.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use crate::state::Endpoint;

thread_local! {
    static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
}

/// A quick random number (xorshift). Not for secrets.
fn random() -> u64 {
    STATE.with(|state| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        x
    })
}

fn below(bound: usize) -> usize {
    let bound = bound.max(1) as u64;
    usize::try_from(random() % bound).unwrap_or(0)
}

/// Picks an endpoint that is not in `tried`.
pub(crate) fn pick<'a>(endpoints: &'a [Arc<Endpoint>], tried: &[u64]) -> Option<&'a Arc<Endpoint>> {
    if tried.is_empty() {
        return match endpoints {
            [] => None,
            [one] => Some(one),
            _ => {
                let first = below(endpoints.len());
                // Any of the others, each as likely.
                let second = (first + 1 + below(endpoints.len() - 1)) % endpoints.len();
                lighter(endpoints.get(first), endpoints.get(second))
            }
        };
    }
    // After a failed connect: rare enough to look at all of them.
    let left: Vec<_> = endpoints.iter().filter(|endpoint| !tried.contains(&endpoint.id)).collect();
    let first = left.get(below(left.len())).copied();
    let second = left.get(below(left.len())).copied();
    lighter(first, second)
}

fn lighter<'a>(a: Option<&'a Arc<Endpoint>>, b: Option<&'a Arc<Endpoint>>) -> Option<&'a Arc<Endpoint>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.load() < a.load() { b } else { a }),
        (one, other) => one.or(other),
    }
}
