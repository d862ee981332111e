//! Names under `.signet.internal`.
//!
//! A Signet client puts the identity that it expects into the TLS server name, so that the verifier knows
//! whom to expect without a config per destination, and so that the session store, which is keyed by server
//! name, never mixes two identities. A DNS name is too narrow for a SPIFFE ID, so it carries its SHA-256:
//! `<52 characters of base32>.id.signet.internal`. The verifier recomputes it from the certificate that it
//! got and compares; nothing has to be looked up.

use ring::digest::{SHA256, digest};
use rustls::pki_types::{DnsName, ServerName};

use crate::spiffe_id::SpiffeId;

/// The DNS suffix that makes a hello ours.
pub const MESH_SUFFIX: &str = ".signet.internal";
const ID_SUFFIX: &str = ".id.signet.internal";
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The TLS server name that stands for this identity.
pub fn server_name(id: &SpiffeId) -> ServerName<'static> {
    match DnsName::try_from(server_name_string(id)) {
        Ok(name) => ServerName::DnsName(name),
        Err(_) => unreachable!("52 letters and digits and a fixed suffix are a valid DNS name"),
    }
}

/// The same as text.
pub(crate) fn server_name_string(id: &SpiffeId) -> String {
    let hash = digest(&SHA256, id.as_str().as_bytes());
    let mut name = String::with_capacity(52usize.saturating_add(ID_SUFFIX.len()));
    // Five bits at a time, most significant first; 256 bits end in one padded group of one bit.
    let (mut bits, mut held) = (0u16, 0u8);
    let letter = |index: u16| char::from(BASE32.get(usize::from(index & 0x1f)).copied().unwrap_or(b'a'));
    for byte in hash.as_ref() {
        bits = (bits << 8) | u16::from(*byte);
        held = held.saturating_add(8);
        while held >= 5 {
            held = held.saturating_sub(5);
            name.push(letter(bits >> held));
        }
        // At most four bits are still to be used.
        bits &= 0x0f;
    }
    name.push(letter(bits << 5u8.saturating_sub(held)));
    name.push_str(ID_SUFFIX);
    name
}

/// The DNS name by which a client that is not Signet's calls a service: `<service>.<namespace>.signet.internal`.
pub fn service_dns_name(service: &str, namespace: &str) -> String {
    format!("{service}.{namespace}{MESH_SUFFIX}")
}
