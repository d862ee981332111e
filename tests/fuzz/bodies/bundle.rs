//! A bundle document that is read is written so that it is read again, with the same keys.

use std::time::Duration;

use signet_bundle::{Document, write};
use signet_identity::TrustDomain;

pub(crate) fn body(bytes: &[u8]) {
    let domain = TrustDomain::parse("partner.example").expect("a name");
    let Ok(read) = Document::parse(&domain, bytes) else { return };
    let Some(roots) = read.roots() else { return };
    let text = write(roots, read.jwt_keys(), read.sequence().unwrap_or(0), Duration::from_secs(300));
    let again = Document::parse(&domain, text.as_bytes()).expect("what we write, we read");
    assert!(again.has_the_keys_of(&read));
    assert_eq!((again.ignored(), again.trust_domain()), (0, &domain));
}
