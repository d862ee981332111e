//! Makes handles, and knows its own.

use std::cell::RefCell;
use std::hash::{BuildHasher as _, RandomState};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use signet_wire::carrier::Handle;

/// What nobody can guess: 128 bits.
const SECRET: usize = 16;
/// With it, what tells whether it was made here.
const WHOLE: usize = 24;
/// One call to the system's generator for so many handles.
const BATCH: usize = 64;

thread_local! {
    static RANDOM: RefCell<Random> = const { RefCell::new(Random { bytes: [0; SECRET * BATCH], left: 0 }) };
}

struct Random {
    bytes: [u8; SECRET * BATCH],
    /// Unused ones, at the beginning.
    left: usize,
}

impl Random {
    fn next(&mut self) -> Option<[u8; SECRET]> {
        if self.left == 0 {
            SystemRandom::new().fill(&mut self.bytes).ok()?;
            self.left = BATCH;
        }
        self.left -= 1;
        let at = self.left * SECRET;
        let taken: [u8; SECRET] = self.bytes.get(at..at + SECRET)?.try_into().ok()?;
        Some(taken)
    }
}

/// The maker of one process's handles.
///
/// A handle is 16 random bytes and a tag of 8 over them. What it opens is found by all of it in a table; the tag is for
/// counting alone: it tells a handle whose request is over from one that was never made here, for ever and without memory.
#[derive(Debug)]
pub(super) struct Mint {
    tags: RandomState,
}

impl Mint {
    pub(super) fn new() -> Self {
        Mint { tags: RandomState::new() }
    }

    /// A new one; none where the system has no random bytes.
    pub(super) fn handle(&self) -> Option<Handle> {
        let secret = RANDOM.with(|random| random.try_borrow_mut().ok()?.next())?;
        let mut whole = [0; WHOLE];
        let (first, rest) = whole.split_at_mut(SECRET);
        first.copy_from_slice(&secret);
        rest.copy_from_slice(&self.tag(&secret));
        let mut text = [0; Handle::LEN];
        URL_SAFE_NO_PAD.encode_slice(whole, &mut text).ok()?;
        Handle::parse(&text)
    }

    /// Whether it was made here, whatever became of it.
    pub(super) fn made(&self, handle: &Handle) -> bool {
        let mut whole = [0; WHOLE];
        // Exactly so many bytes, or it is none of ours: the decoder takes no character that would not come out the same.
        if URL_SAFE_NO_PAD.decode_slice(handle.as_bytes(), &mut whole).is_err() {
            return false;
        }
        let (secret, tag) = whole.split_at(SECRET);
        secret.try_into().is_ok_and(|secret| self.tag(secret) == tag)
    }

    fn tag(&self, secret: &[u8; SECRET]) -> [u8; WHOLE - SECRET] {
        self.tags.hash_one(secret).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mint_knows_its_own_handles_and_no_others() {
        let (mint, other) = (Mint::new(), Mint::new());
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let handle = mint.handle().unwrap();
            assert!(seen.insert(handle), "made twice");
            assert!(mint.made(&handle) && !other.made(&handle));
            let mut changed = *handle.as_bytes();
            changed[0] = if changed[0] == b'A' { b'B' } else { b'A' };
            assert!(!mint.made(&Handle::parse(&changed).unwrap()));
        }
    }
}
