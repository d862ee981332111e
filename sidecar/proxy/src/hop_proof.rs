//! Hop proofs of services that ask for them: made for each try of a call, and believed once.
//!
//! A transaction token says for whom a request is made, and the channel who calls. Where a service asks for more
//! (`requireHopProof`), the caller's sidecar signs, with the key of its SVID, that it sends this token to this identity now
//! ([`signet_token::hop`]), so that whoever sees the request elsewhere has nothing, and the receiver has something to show.

use http::{HeaderName, HeaderValue};
use ring::rand::{SecureRandom, SystemRandom};
use signet_identity::Peer;
use signet_token::hop::{self, Expected, Hop, LIFETIME, MAX_DEPTH};
use signet_token::txn::LEEWAY;
use signet_wire::RequestView;

use crate::answer::{Reason, Refusal};
use crate::exchange::{TokenHash, hash};
use crate::once::Once;
use crate::state::{Endpoint, Snapshot};

/// The header.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("signet-hop");

/// How long a proof that was believed could be believed again: its life, from a clock ahead to a clock behind; seconds.
pub(crate) const KEPT: u64 = LIFETIME + 2 * LEEWAY;

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
    proofs: &Once,
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
