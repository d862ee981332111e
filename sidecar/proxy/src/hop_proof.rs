//! Hop proofs of services that ask for them: made for each try of a call, and believed once.
//!
//! A transaction token says for whom a request is made, and the channel who calls. Where a service asks for more
//! (`requireHopProof`), the caller's sidecar signs, with the key of its SVID, that it sends this token to this identity now
//! ([`signet_token::hop`]), so that whoever sees the request elsewhere has nothing, and the receiver has something to show.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use http::{HeaderName, HeaderValue};
use ring::rand::{SecureRandom, SystemRandom};
use signet_identity::{KeyId, Peer};
use signet_token::hop::{self, Expected, Hop, LIFETIME, MAX_DEPTH};
use signet_token::txn::LEEWAY;
use signet_wire::RequestView;

use crate::answer::{Reason, Refusal};
use crate::exchange::{TokenHash, hash};
use crate::state::{Endpoint, Snapshot};

/// The header.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("signet-hop");

/// How long a proof that was believed could be believed again: its life, from a clock ahead to a clock behind; seconds.
const KEPT: u64 = LIFETIME + 2 * LEEWAY;
/// Proofs of one signer that are remembered in that time, twice. Past it they are refused: some 6,500 a second.
const MOST: usize = 128 * 1024;
/// Those of all signers.
const MOST_OF_ALL: usize = 1024 * 1024;
/// Signers. There is one for each certificate of each caller.
const SIGNERS: usize = 4096;

/// What is proven of a call when its receiver is known.
#[derive(Clone, Debug)]
pub struct Prove {
    /// Of the token that goes along.
    token: TokenHash,
    /// Of the proof by which we were called with it, and its depth.
    after: Option<Proven>,
}

/// A proof that was believed: its digest, and its place in the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proven {
    /// SHA-256 of the proof as it came.
    pub digest: TokenHash,
    /// From 1.
    pub depth: u8,
}

impl Prove {
    /// For a call with this token, which came by that proof; none where it came without one, or begins here.
    pub fn new(token: &[u8], after: Option<Proven>) -> Box<Self> {
        Self::of(hash(token), after)
    }

    pub(crate) fn of(token: TokenHash, after: Option<Proven>) -> Box<Self> {
        Box::new(Prove { token, after })
    }

    /// The header for a call to this endpoint, over a connection of this view's generation.
    pub(crate) fn header(&self, view: &Snapshot, endpoint: &Endpoint) -> Result<HeaderValue, Refusal> {
        let own = view.tls.generation.own();
        let depth = self.after.map_or(1, |after| after.depth.saturating_add(1));
        if depth > MAX_DEPTH {
            return Err(Refusal::new(Reason::HopInvalid("hop_depth"))
                .detail(format_args!("the chain has {MAX_DEPTH} proven calls, and may have no more")));
        }
        let unproven = |why: &str| Refusal::new(Reason::Internal).detail(format_args!("no hop proof: {why}"));
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).map_err(|_| unproven("the system gave no random bytes"))?;
        let now = crate::pool::now();
        let hop = Hop {
            issuer: own.svid().id.to_string(),
            audience: endpoint.identity.to_string(),
            token: self.token,
            previous: self.after.map(|after| after.digest),
            depth,
            id,
            issued_at: now,
            expires_at: now.saturating_add(LIFETIME),
        };
        let proof = hop::sign(&hop, &own.svid().thumbprint, |input| hop::fixed(&own.sign_es256(input)?));
        let proof = proof.ok_or_else(|| unproven("our key is none that ES256 signs with"))?;
        let mut value = HeaderValue::try_from(proof).map_err(|_| unproven("it is no header"))?;
        // It changes with each call.
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Believes the proof that came with this token from this peer, once.
pub(crate) fn believe(
    proofs: &Proofs,
    view: &Snapshot,
    peer: &Peer,
    head: RequestView<'_>,
    token: &TokenHash,
    now: u64,
) -> Result<Proven, Refusal> {
    let invalid = |label| Refusal::new(Reason::HopInvalid(label));
    let mut lines = head.get_all("signet-hop");
    let proof = match (lines.next(), lines.next()) {
        (Some(proof), None) => proof,
        (None, _) => {
            return Err(invalid("hop_missing").detail(
                "this service asks for a hop proof (requireHopProof), and none came with the token",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(invalid("hop_duplicate").detail("expected one signet-hop header, got several"));
        }
    };
    let text = std::str::from_utf8(proof).map_err(|_| invalid("hop_malformed"))?;
    let svid = peer.svid();
    let expected = Expected {
        peer: svid.id.as_str(),
        key: &svid.public_key,
        certificate: &svid.thumbprint,
        own: view.tls.generation.own().svid().id.as_str(),
        token,
    };
    let hop = hop::verify(text, &expected, now).map_err(|error| invalid(error.label()).detail(error))?;
    match proofs.first_time(svid.key, hop.id, now) {
        Some(true) => Ok(Proven { digest: hash(proof), depth: hop.depth }),
        Some(false) => Err(invalid("hop_replayed").detail("this hop proof came before")),
        None => Err(Refusal::new(Reason::Overloaded).detail("more hop proofs than can be remembered")),
    }
}

/// Proofs that were believed, for as long as they could be again.
#[derive(Debug, Default)]
pub(crate) struct Proofs(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    signers: HashMap<KeyId, Ids>,
    /// Of all of them.
    ids: usize,
    /// When those were last dropped whose proofs are all over.
    swept: u64,
}

/// Of one signer, in two generations: each is kept for [`KEPT`] after its last one at least.
#[derive(Debug, Default)]
struct Ids {
    newer: HashSet<[u8; 16]>,
    older: HashSet<[u8; 16]>,
    turned: u64,
}

impl Proofs {
    /// Whether it is; none where there is no room to remember it.
    fn first_time(&self, signer: KeyId, id: [u8; 16], now: u64) -> Option<bool> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= held.swept.saturating_add(KEPT) {
            held.sweep(now);
        }
        let is_full = held.ids >= MOST_OF_ALL || held.signers.len() >= SIGNERS;
        if is_full && (held.ids >= MOST_OF_ALL || !held.signers.contains_key(&signer)) {
            return None;
        }
        let Held { signers, ids: all, .. } = &mut *held;
        let ids = signers.entry(signer).or_default();
        let before = ids.len();
        ids.turn(now);
        let known = ids.newer.contains(&id) || ids.older.contains(&id);
        let is_new = !known && ids.newer.len() < MOST;
        if is_new {
            ids.newer.insert(id);
        }
        *all = all.saturating_sub(before).saturating_add(ids.len());
        if known { Some(false) } else { is_new.then_some(true) }
    }
}

impl Held {
    /// Drops signers none of whose proofs could be believed any more: each certificate leaves its last ones behind.
    fn sweep(&mut self, now: u64) {
        self.swept = now;
        self.signers.retain(|_, ids| now < ids.turned.saturating_add(2 * KEPT));
        self.ids = self.signers.values().map(Ids::len).fold(0, usize::saturating_add);
    }
}

impl Ids {
    fn len(&self) -> usize {
        self.newer.len().saturating_add(self.older.len())
    }

    fn turn(&mut self, now: u64) {
        if now < self.turned.saturating_add(KEPT) {
            return;
        }
        self.older = std::mem::take(&mut self.newer);
        if now >= self.turned.saturating_add(2 * KEPT) {
            self.older = HashSet::new();
        }
        self.turned = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(n: u8) -> KeyId {
        KeyId::of(&[n])
    }

    #[test]
    fn an_id_is_new_once_for_as_long_as_a_proof_could_be_believed() {
        let proofs = Proofs::default();
        for start in [1000, 1007, 1019] {
            let id = [u8::try_from(start - 1000).unwrap(); 16];
            assert_eq!(proofs.first_time(signer(1), id, start), Some(true));
            for later in 0..KEPT {
                assert_eq!(proofs.first_time(signer(1), id, start + later), Some(false), "{later}");
            }
        }
        assert_eq!(
            proofs.first_time(signer(2), [0; 16], 1000),
            Some(true),
            "others name theirs as they like"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten() {
        let proofs = Proofs::default();
        let id = |n: usize| u128::try_from(n).unwrap().to_be_bytes();
        for n in 0..MOST {
            assert_eq!(proofs.first_time(signer(1), id(n), 1000), Some(true));
        }
        assert_eq!(proofs.first_time(signer(1), id(MOST), 1000), None, "refused, and not believed unseen");
        assert_eq!(proofs.first_time(signer(2), id(MOST), 1000), Some(true), "and no other signer's");
        assert_eq!(proofs.first_time(signer(1), id(MOST), 1000 + 2 * KEPT), Some(true));
        let held = proofs.0.lock().unwrap();
        assert!(held.signers[&signer(1)].older.is_empty() && held.signers[&signer(1)].newer.len() == 1);
        assert_eq!((held.signers.len(), held.ids), (1, 1), "whoever is not heard of any more leaves nothing");
    }
}
