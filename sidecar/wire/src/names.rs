//! The header names that a proxy looks at, as small numbers: one comparison when a head is parsed, a bit test after.

/// Defines [`Known`] together with its spelling.
macro_rules! known {
    ($($variant:ident = $text:literal),* $(,)?) => {
        /// A header name that the proxy reads, rewrites or removes; every other name is `Other`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Known {
            /// Any name that is not in this table.
            Other,
            $(#[doc = $text] $variant,)*
        }

        impl Known {
            /// Every name of the table, without `Other`.
            pub const ALL: &'static [Known] = &[$(Known::$variant),*];

            /// The name in lower case; empty for `Other`.
            pub const fn text(self) -> &'static str {
                match self {
                    Known::Other => "",
                    $(Known::$variant => $text,)*
                }
            }
        }
    };
}

known! {
    Te = "te",
    Via = "via",
    Host = "host",
    Dpop = "dpop",
    Cookie = "cookie",
    Expect = "expect",
    Upgrade = "upgrade",
    Trailer = "trailer",
    Baggage = "baggage",
    TxnToken = "txn-token",
    Forwarded = "forwarded",
    XApiKey = "x-api-key",
    Connection = "connection",
    KeepAlive = "keep-alive",
    Tracestate = "tracestate",
    Traceparent = "traceparent",
    SignetUser = "signet-user",
    ContentType = "content-type",
    GrpcTimeout = "grpc-timeout",
    XRequestId = "x-request-id",
    Authorization = "authorization",
    ContentLength = "content-length",
    SignetContext = "signet-context",
    Http2Settings = "http2-settings",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    ProxyConnection = "proxy-connection",
    TransferEncoding = "transfer-encoding",
    XForwardedProto = "x-forwarded-proto",
    SignetDecisionId = "signet-decision-id",
    SignetDenyReason = "signet-deny-reason",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    Xfcc = "x-forwarded-client-cert",
}

/// Room for the longest of them.
const LONGEST: usize = 32;

impl Known {
    /// Looks a name up, in any case.
    pub fn of(name: &[u8]) -> Known {
        // Folded in one place of a fixed size, for which the compiler has wide instructions.
        let mut folded = [0u8; LONGEST];
        let Some(place) = folded.get_mut(..name.len()) else { return Known::Other };
        place.copy_from_slice(name);
        folded.make_ascii_lowercase();
        Known::of_lower_case(folded.get(..name.len()).unwrap_or_default())
    }

    /// Looks up a name that is in lower case, as all of HTTP/2 are.
    pub fn of_lower_case(name: &[u8]) -> Known {
        use Known::*;
        let candidates: &[Known] = match name.len() {
            2 => &[Te],
            3 => &[Via],
            4 => &[Host, Dpop],
            6 => &[Cookie, Expect],
            7 => &[Upgrade, Trailer, Baggage],
            9 => &[TxnToken, Forwarded, XApiKey],
            10 => &[Connection, KeepAlive, Tracestate],
            11 => &[Traceparent, SignetUser],
            12 => &[ContentType, GrpcTimeout, XRequestId],
            13 => &[Authorization],
            14 => &[ContentLength, SignetContext, Http2Settings],
            15 => &[XForwardedFor],
            16 => &[XForwardedHost, ProxyConnection],
            17 => &[TransferEncoding, XForwardedProto],
            18 => &[SignetDecisionId, SignetDenyReason, ProxyAuthenticate],
            19 => &[ProxyAuthorization],
            23 => &[Xfcc],
            _ => return Other,
        };
        for known in candidates {
            let text = known.text().as_bytes();
            if text.first() == name.first() && text == name {
                return *known;
            }
        }
        Other
    }

    /// Those of which a request may have one, see [`Known::is_single_valued`].
    pub(crate) const SINGLE: &'static [Known] = &[
        Known::Authorization,
        Known::Host,
        Known::ContentLength,
        Known::Dpop,
        Known::TxnToken,
        Known::XApiKey,
    ];

    /// True for names that belong to one connection (RFC 9110, 7.6.1, and their pre-standard kin): they are consumed
    /// by whoever reads them. `content-length` and `transfer-encoding` describe the message and are handled apart.
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::ProxyAuthenticate
                | Known::ProxyAuthorization
                | Known::Te
                | Known::Upgrade
                | Known::Http2Settings
        )
    }

    /// True for names that may stand once in a request: a second one means that two readers could pick different values,
    /// so it is refused and never resolved by "first wins".
    pub const fn is_single_valued(self) -> bool {
        matches!(
            self,
            Known::Authorization
                | Known::Host
                | Known::ContentLength
                | Known::Dpop
                | Known::TxnToken
                | Known::XApiKey
        )
    }

    /// True for end-to-end names that a `Connection` header cannot remove, since somebody behind the proxy decides by
    /// them.
    pub const fn is_not_removable(self) -> bool {
        self.is_single_valued()
            || matches!(
                self,
                Known::Cookie
                    | Known::ContentType
                    | Known::TransferEncoding
                    | Known::Forwarded
                    | Known::XForwardedFor
                    | Known::XForwardedHost
                    | Known::XForwardedProto
                    | Known::Xfcc
                    | Known::Via
                    | Known::Baggage
                    | Known::Traceparent
                    | Known::Tracestate
                    | Known::XRequestId
                    | Known::GrpcTimeout
            )
    }

    /// True for names whose value is a credential: never in a log, a trace or a tap.
    pub const fn is_secret(self) -> bool {
        matches!(
            self,
            Known::Authorization
                | Known::ProxyAuthorization
                | Known::Cookie
                | Known::Dpop
                | Known::TxnToken
                | Known::XApiKey
                | Known::SignetUser
        )
    }
}

/// A set of [`Known`] names in one machine word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownSet(u64);

impl KnownSet {
    /// The empty set.
    pub const EMPTY: KnownSet = KnownSet(0);

    /// Adds a name. `Other` is never a member.
    pub fn insert(&mut self, known: Known) {
        if known != Known::Other {
            self.0 |= bit(known);
        }
    }

    /// Takes a name out.
    pub fn remove(&mut self, known: Known) {
        self.0 &= !bit(known);
    }

    /// Whether the name is in the set.
    pub const fn contains(self, known: Known) -> bool {
        self.0 & bit(known) != 0 && !matches!(known, Known::Other)
    }
}

const fn bit(known: Known) -> u64 {
    1u64.wrapping_shl(known as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case_and_fits_the_set() {
        assert!(Known::ALL.len() < 64, "KnownSet is one 64-bit word");
        for known in Known::ALL {
            assert_eq!(Known::of(known.text().as_bytes()), *known);
            assert_eq!(Known::of(known.text().to_ascii_uppercase().as_bytes()), *known);
            assert_eq!(Known::of_lower_case(known.text().as_bytes()), *known);
            assert!(known.text().len() <= LONGEST);
            let mut set = KnownSet::EMPTY;
            set.insert(*known);
            assert!(set.contains(*known));
            assert!(Known::ALL.iter().filter(|k| set.contains(**k)).count() == 1);
            assert_eq!(Known::SINGLE.contains(known), known.is_single_valued());
        }
        assert_eq!(Known::of(b"content_length"), Known::Other);
        assert_eq!(Known::of(b""), Known::Other);
        assert_eq!(Known::of(&[b'a'; LONGEST + 1]), Known::Other);
    }
}
