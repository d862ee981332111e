//! Names under `.signet.internal`.
//!
//! A Signet client puts the identity that it expects into the TLS server name, so that the verifier knows
//! whom to expect without a config per destination, and so that the session store, which is keyed by server
//! name, never mixes two identities. A DNS name is too narrow for a SPIFFE ID, so it carries its SHA-256:
//! `<52 characters of base32>.id.signet.internal`. The verifier recomputes it from the certificate that it
//! got and compares; nothing has to be looked up.
//!
//! A hello that goes by another cluster's gateway says which way as well, in three labels before that:
//! `<port>.<service>.<namespace>.<52 characters of base32>.id.signet.internal`. They choose a way and never
//! an identity: the verifier reads the rest alone. In ABNF (RFC 5234; every letter in lower case):
//!
//! ```abnf
//! server-name   = [way] identity ".id.signet.internal"  ; 253 characters at most
//! way           = port "." service "." namespace "."
//! port          = label
//! service       = label
//! namespace     = label
//! label         = alnum [*61(alnum / "-") alnum]
//! alnum         = %x61-7A / DIGIT                       ; a-z 0-9
//! identity      = 51base32 ("a" / "q")                  ; SHA-256 of the SPIFFE ID, RFC 4648 6, unpadded
//! base32        = %x61-7A / %x32-37                     ; a-z 2-7
//! ```

use ring::digest::{SHA256, digest};
use rustls::pki_types::{DnsName, ServerName};

use crate::spiffe_id::SpiffeId;

/// The DNS suffix that makes a hello ours.
pub const MESH_SUFFIX: &str = ".signet.internal";
const ID_SUFFIX: &str = ".id.signet.internal";
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Letters of an identity in a name.
const HASH: usize = 52;
/// RFC 1035, 2.3.4: 255 octets on the wire, which are 253 characters.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// The TLS server name that stands for this identity.
pub fn server_name(id: &SpiffeId) -> ServerName<'static> {
    match DnsName::try_from(server_name_string(id)) {
        Ok(name) => ServerName::DnsName(name),
        Err(_) => unreachable!("52 letters and digits and a fixed suffix are a valid DNS name"),
    }
}

/// The same as text.
pub(crate) fn server_name_string(id: &SpiffeId) -> String {
    let mut name = IdentityHash::of(id).0;
    name.push_str(ID_SUFFIX);
    name
}

/// The TLS server name that stands for this identity and says by which port of which service a gateway reaches it.
/// None where that is not in the grammar: a part that is no DNS label, or more than 253 characters.
pub fn routed_server_name(
    id: &SpiffeId,
    port: &str,
    service: &str,
    namespace: &str,
) -> Option<ServerName<'static>> {
    let name = format!("{port}.{service}.{namespace}.{}", server_name_string(id));
    RoutedName::parse(&name)?;
    DnsName::try_from(name).ok().map(ServerName::DnsName)
}

/// Whether a name of this grammar fits 253 characters, whoever is expected.
pub fn routed_name_fits(port: &str, service: &str, namespace: &str) -> bool {
    let way = [port, service, namespace].iter().fold(3usize, |sum, label| sum.saturating_add(label.len()));
    way.saturating_add(HASH).saturating_add(ID_SUFFIX.len()) <= MAX_NAME
}

/// Whether a server name, routed or not, stands for this identity.
pub(crate) fn stands_for(name: &str, id: &SpiffeId) -> bool {
    match RoutedName::parse(name) {
        Some(routed) => routed.identity_hash.is_of(id),
        None => name == server_name_string(id),
    }
}

/// An identity as it stands in a server name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdentityHash(String);

impl IdentityHash {
    /// The hash of this identity.
    pub fn of(id: &SpiffeId) -> Self {
        let hash = digest(&SHA256, id.as_str().as_bytes());
        // With room for what makes it a name.
        let mut name = String::with_capacity(HASH.saturating_add(ID_SUFFIX.len()));
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
        Self(name)
    }

    /// Whether it is this identity's.
    pub fn is_of(&self, id: &SpiffeId) -> bool {
        *self == Self::of(id)
    }

    /// Strictly: the one spelling of 256 bits.
    fn parse(text: &str) -> Option<Self> {
        let (last, rest) = text.as_bytes().split_last()?;
        let is_hash = rest.len().saturating_add(1) == HASH
            && rest.iter().all(|letter| BASE32.contains(letter))
            // One bit, and four that are zero.
            && matches!(last, b'a' | b'q');
        is_hash.then(|| Self(text.to_owned()))
    }
}

/// A server name that says which way to take.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoutedName {
    /// The port's name in its service.
    pub port: String,
    /// The service's name.
    pub service: String,
    /// The service's namespace.
    pub namespace: String,
    /// Who must answer.
    pub identity_hash: IdentityHash,
}

impl RoutedName {
    /// Reads a name strictly: exactly these labels, in lower case, without a dot at the end.
    pub fn parse(name: &str) -> Option<Self> {
        if name.len() > MAX_NAME {
            return None;
        }
        let mut labels = name.strip_suffix(ID_SUFFIX)?.split('.');
        let mut label = || labels.next().filter(|label| is_label(label)).map(ToOwned::to_owned);
        let (port, service, namespace) = (label()?, label()?, label()?);
        let identity_hash = IdentityHash::parse(labels.next()?)?;
        labels.next().is_none().then_some(Self { port, service, namespace, identity_hash })
    }

    /// The service as the registry names it: `name.namespace`.
    pub fn service_name(&self) -> String {
        format!("{}.{}", self.service, self.namespace)
    }
}

/// A DNS label as objects are named by (RFC 1123, 2.1), in lower case.
fn is_label(text: &str) -> bool {
    let alnum = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.iter().all(|byte| alnum(byte) || *byte == b'-')
        && bytes.first().is_some_and(alnum)
        && bytes.last().is_some_and(alnum)
}

/// The DNS name by which a client that is not Signet's calls a service: `<service>.<namespace>.signet.internal`.
pub fn service_dns_name(service: &str, namespace: &str) -> String {
    format!("{service}.{namespace}{MESH_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> SpiffeId {
        "spiffe://demo.signet/ns/shop/sa/web".parse().unwrap()
    }

    const HASHED: &str = "hruz2w2yumz7jhnqex7rlxfujcfsrbolyd756nmnyni3tvv56qvq";

    #[test]
    fn a_routed_name_says_the_way_and_whom_to_expect_and_reads_back() {
        let name = routed_server_name(&web(), "http", "orders", "shop").unwrap();
        let text = name.to_str();
        assert_eq!(text, format!("http.orders.shop.{HASHED}.id.signet.internal"));
        let read = RoutedName::parse(&text).unwrap();
        assert_eq!((&*read.port, &*read.service, &*read.namespace), ("http", "orders", "shop"));
        assert_eq!(read.service_name(), "orders.shop");
        assert!(read.identity_hash.is_of(&web()));
        let other: SpiffeId = "spiffe://demo.signet/ns/shop/sa/web2".parse().unwrap();
        assert!(!read.identity_hash.is_of(&other));
        assert!(stands_for(&text, &web()) && !stands_for(&text, &other));
    }

    #[test]
    fn nothing_but_the_grammar_is_a_routed_name() {
        let good = format!("http.orders.shop.{HASHED}.id.signet.internal");
        assert!(RoutedName::parse(&good).is_some());
        let (head, tail) = HASHED.split_at(51);
        let bad = [
            format!("{HASHED}.id.signet.internal"),
            format!("orders.shop.{HASHED}.id.signet.internal"),
            format!("a.http.orders.shop.{HASHED}.id.signet.internal"),
            format!(".http.orders.shop.{HASHED}.id.signet.internal"),
            format!("http..shop.{HASHED}.id.signet.internal"),
            format!("http.orders..{HASHED}.id.signet.internal"),
            format!("{good}."),
            good.to_uppercase(),
            format!("HTTP.orders.shop.{HASHED}.id.signet.internal"),
            format!("http.orders.shop.{}.id.signet.internal", HASHED.to_uppercase()),
            format!("-http.orders.shop.{HASHED}.id.signet.internal"),
            format!("http-.orders.shop.{HASHED}.id.signet.internal"),
            format!("http.ord_ers.shop.{HASHED}.id.signet.internal"),
            format!("http.*.shop.{HASHED}.id.signet.internal"),
            format!("http.örders.shop.{HASHED}.id.signet.internal"),
            format!("http.orders.shop.{head}.id.signet.internal"),
            format!("http.orders.shop.{HASHED}a.id.signet.internal"),
            // The last letter carries one bit: any other letter would be a second spelling.
            format!("http.orders.shop.{head}b.id.signet.internal"),
            format!("http.orders.shop.{head}1.id.signet.internal"),
            format!("http.orders.shop.{HASHED}.signet.internal"),
            format!("http.orders.shop.{HASHED}.id.signet.internal.example.com"),
            format!("http.orders.shop.{HASHED}.id.signet.internal\0"),
            format!("{}.orders.shop.{HASHED}.id.signet.internal", "a".repeat(64)),
            "id.signet.internal".to_owned(),
            String::new(),
        ];
        assert_eq!(tail, "q");
        for name in bad {
            assert_eq!(RoutedName::parse(&name), None, "{name}");
            // What is read by neither grammar stands for nobody, the plain name aside.
            assert_eq!(stands_for(&name, &web()), name == server_name_string(&web()), "{name}");
        }
    }

    #[test]
    fn a_routed_name_has_at_most_253_characters() {
        let label = "a".repeat(63);
        // 253 less the identity, the suffix and three dots.
        let rest = "b".repeat(253 - 52 - 19 - 3 - 63 - 63);
        let name = routed_server_name(&web(), &label, &label, &rest).unwrap();
        assert_eq!(name.to_str().len(), 253);
        assert!(routed_name_fits(&label, &label, &rest));
        let longer = format!("{rest}b");
        assert_eq!(routed_server_name(&web(), &label, &label, &longer), None);
        assert!(!routed_name_fits(&label, &label, &longer));
    }

    #[test]
    fn no_name_is_made_that_would_not_be_read() {
        for [port, service, namespace] in [
            ["", "orders", "shop"],
            ["a.b", "orders", "shop"],
            ["http", "Orders", "shop"],
            ["http", "orders", "-"],
        ] {
            assert_eq!(
                routed_server_name(&web(), port, service, namespace),
                None,
                "{port} {service} {namespace}"
            );
        }
    }
}
