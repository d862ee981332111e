//! The header names that only the mesh may set. Whatever arrives under one of them from outside, from an app, or from
//! a peer that is neither sidecar nor gateway is dropped and counted; trailers as well.
//!
//! Names are compared after lower-casing and with `_` read as `-`, since frameworks that turn headers into variables
//! (CGI, WSGI, PHP) make the two the same and the app would read the forged one.

/// The fixed protected names, in the compared form; besides these, everything starting with [`PREFIX`]. The last two are how
/// older tracing libraries say a member of `baggage` ([`crate::carrier`]).
pub const NAMES: &[&str] =
    &["txn-token", "x-forwarded-client-cert", "ot-baggage-signet.ctx", "uberctx-signet.ctx"];

/// Every name starting with this is the mesh's own.
pub const PREFIX: &str = "signet-";

/// Whether a header name is reserved for the mesh, in any case and with `_` for `-`.
///
/// The names by which apps read of users, where they ask for others than `signet-user`, are not in this list: see
/// [`Protected`].
pub fn is_protected(name: &[u8]) -> bool {
    match name.first() {
        Some(b's' | b'S' | b't' | b'T' | b'x' | b'X' | b'o' | b'O' | b'u' | b'U') => {}
        _ => return false,
    }
    name.get(..PREFIX.len()).is_some_and(|head| same(head, PREFIX.as_bytes()))
        || NAMES.iter().any(|protected| same(name, protected.as_bytes()))
}

/// The protected names of one process: the fixed ones, and those by which its apps read of users.
#[derive(Debug, Clone, Default)]
pub struct Protected {
    extra: Box<[Box<str>]>,
}

impl Protected {
    /// The fixed names and these (compared like them). A name that is protected anyway costs nothing.
    pub fn with_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Protected {
        let mut extra: Vec<Box<str>> = names
            .into_iter()
            .filter(|name| !is_protected(name.as_bytes()))
            .map(|name| name.to_ascii_lowercase().replace('_', "-").into())
            .collect();
        extra.sort_unstable();
        extra.dedup();
        Protected { extra: extra.into() }
    }

    /// Whether `name` is reserved.
    pub fn contains(&self, name: &[u8]) -> bool {
        is_protected(name) || self.is_extra(name)
    }

    /// Whether there is any beside the fixed ones.
    pub(crate) fn has_extra(&self) -> bool {
        !self.extra.is_empty()
    }

    /// Whether `name` is one of those beside the fixed ones; the caller knows already about these.
    pub(crate) fn is_extra(&self, name: &[u8]) -> bool {
        self.extra.iter().any(|extra| same(name, extra.as_bytes()))
    }
}

/// Whether two names are one to a reader that knows neither case nor the difference between `_` and `-`.
pub(crate) fn alike(one: &[u8], other: &[u8]) -> bool {
    let fold = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.iter().map(fold).eq(other.iter().map(fold))
}

/// Compares a received name with a protected one (which is lower case and without underscores).
fn same(name: &[u8], protected: &[u8]) -> bool {
    name.len() == protected.len()
        && name.iter().zip(protected).all(|(byte, expected)| {
            let byte = if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
            byte == *expected
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_protected_name_is_protected() {
        for name in [
            "txn-token",
            "Txn-Token",
            "TXN_TOKEN",
            "txn_Token",
            "signet-",
            "signet-user",
            "Signet_Anything",
            "SIGNET-DENY-REASON",
            "signet_user",
            "x-forwarded-client-cert",
            "X_Forwarded-Client_Cert",
            "ot-baggage-signet.ctx",
            "Uberctx_Signet.Ctx",
        ] {
            assert!(is_protected(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn other_names_are_not_protected() {
        for name in [
            "",
            "signet",
            "signetuser",
            "x-signet-user",
            "txn-tokens",
            "txntoken",
            "x-forwarded-for",
            "host",
            "ot-baggage-user",
        ] {
            assert!(!is_protected(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn names_for_users_are_protected_in_every_spelling() {
        let protected = Protected::with_names(["X-User_Claims", "x-groups", "Signet-User"]);
        for name in ["x-user-claims", "X_USER_CLAIMS", "x_groups", "X-Groups", "txn_token", "signet-user"] {
            assert!(protected.contains(name.as_bytes()), "{name}");
        }
        assert!(!protected.contains(b"x-user-claim") && !protected.is_extra(b"signet-user"));
        assert!(!Protected::default().contains(b"x-user-claims"));
    }
}
