//! Transaction tokens (IETF OAuth Transaction Tokens): the user's verified context inside the mesh.
//!
//! Minted by a gateway right after it authenticated a caller, whatever the credential was, so that
//! policy sees one shape. A token says for whom (`sub`), what for (`scope`, `tctx`), how the caller
//! was authenticated (`rctx`) and who asked (`req_wl`). It is no credential: who calls now is the mTLS
//! peer's matter. It is forwarded unmodified and never logged.

mod claims;
mod exchange;
mod mint;
mod verify;

pub use claims::{Actor, Rctx, Tctx, TxnClaims};
pub use exchange::{Begin, ExchangeError, MAX_VIA, Source, UNPROVEN, begin, continued, narrowed, replace};
pub use mint::{MintError, Request, mint, sign, uuid4};
pub use verify::{Remembered, Trust, TxnError, verify, verify_with_grant};

/// The header's `typ`, exactly.
pub const TYPE: &str = "txntoken+jwt";
/// The largest token that is minted or read, in bytes.
pub const MAX_BYTES: usize = 4 * 1024;
/// Seconds that a token lives unless its route says otherwise.
pub const DEFAULT_TTL: u64 = 60;
pub const MIN_TTL: u64 = 15;
pub const MAX_TTL: u64 = 300;
/// How far clocks inside the mesh may differ, in seconds.
pub const LEEWAY: u64 = 5;

/// The `iss` of a trust domain's tokens, unless the mesh names another.
pub fn default_issuer(trust_domain: &str) -> String {
    format!("https://tts.{trust_domain}")
}
