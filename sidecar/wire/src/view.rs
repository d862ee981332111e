//! One request as the stages see it, whichever HTTP version carried it.

use crate::{
    canon::{Host, Target},
    h1, h2,
    names::Known,
    protected::Protected,
};

/// A borrowed request head. Cheap to copy; everything in it is canonical already.
#[derive(Debug, Clone, Copy)]
pub enum RequestView<'a> {
    /// Came over HTTP/1.
    H1(&'a h1::RequestHead),
    /// Came over HTTP/2.
    H2(&'a h2::RequestHead),
}

impl<'a> RequestView<'a> {
    /// The method, in the sender's case (methods are case-sensitive).
    pub fn method(self) -> &'a str {
        match self {
            RequestView::H1(head) => head.method(),
            RequestView::H2(head) => head.method().as_str(),
        }
    }

    /// The canonical target; policy sees what the upstream gets.
    pub fn target(self) -> &'a Target {
        match self {
            RequestView::H1(head) => head.target(),
            RequestView::H2(head) => head.target(),
        }
    }

    /// The canonical path without the query.
    pub fn path(self) -> &'a str {
        self.target().path()
    }

    /// The canonical authority. None only for HTTP/1.0 without `Host`.
    pub fn authority(self) -> Option<&'a Host> {
        match self {
            RequestView::H1(head) => head.authority(),
            RequestView::H2(head) => Some(head.authority()),
        }
    }

    /// Whether the request itself says `https`: by an absolute target, or by `:scheme`.
    pub fn is_https(self) -> bool {
        match self {
            RequestView::H1(head) => head.is_https(),
            RequestView::H2(head) => head.is_https(),
        }
    }

    /// Every value of a header, by its lower-case name, in order of arrival. Values may be any bytes but CR, LF and
    /// NUL.
    pub fn get_all(self, name: &'a str) -> Values<'a> {
        match self {
            RequestView::H1(head) => Values::H1(head.get_all(name)),
            RequestView::H2(head) => Values::H2(head.headers().get_all(name).iter()),
        }
    }

    /// The first value of a known header.
    pub fn get(self, known: Known) -> Option<&'a [u8]> {
        match self {
            RequestView::H1(head) => head.get(known),
            RequestView::H2(head) => head.get(known),
        }
    }

    /// Whether this is a gRPC call: HTTP/2, POST, and its content type.
    pub fn is_grpc(self) -> bool {
        matches!(self, RequestView::H2(_))
            && self.method() == "POST"
            && self.get(Known::ContentType).is_some_and(crate::grpc::is_grpc)
    }

    /// How many came along of those that are protected beside the fixed ones.
    pub fn also_protected(self, protected: &Protected) -> u32 {
        if !protected.has_extra() {
            return 0;
        }
        let count = match self {
            RequestView::H1(head) => head.fields().filter(|field| protected.is_extra(field.name)).count(),
            RequestView::H2(head) => {
                head.headers().iter().filter(|(name, _)| protected.is_extra(name.as_str().as_bytes())).count()
            }
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// How many protected headers came along (to be dropped and counted, or to be believed, by whoever knows the peer).
    pub fn protected_count(self) -> u32 {
        match self {
            RequestView::H1(head) => head.protected_count(),
            RequestView::H2(head) => head.protected_count(),
        }
    }
}

/// The values of one header.
#[derive(Debug)]
pub enum Values<'a> {
    #[doc(hidden)]
    H1(h1::Values<'a>),
    #[doc(hidden)]
    H2(http::header::ValueIter<'a, http::HeaderValue>),
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            Values::H1(values) => values.next(),
            Values::H2(values) => values.next().map(|value| value.as_bytes()),
        }
    }
}
