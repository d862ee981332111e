//! A decoded HTTP/2 request head under the same rules as an HTTP/1 one: canonical target, one authority, nothing that
//! belongs to a connection, single-valued names once.

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, uri};

use crate::{
    canon::{Host, HostError, PathError, Target},
    h1::content_length,
    names::{Known, KnownSet},
    protected,
};

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the request names no authority")]
    AuthorityMissing,
    #[error(":authority or Host is not a valid authority: {0}")]
    Host(HostError),
    #[error(":authority and Host differ")]
    AuthorityDiffers,
    #[error("the request target is refused: {0}")]
    Target(PathError),
    #[error("header {0} stands more than once")]
    Repeated(&'static str),
    #[error("header {0} belongs to an HTTP/1 connection and not into HTTP/2")]
    ConnectionSpecific(&'static str),
    #[error("te may only be `trailers`")]
    Te,
    #[error("a value may neither begin nor end with white space, which readers of HTTP/1 would not see")]
    OuterSpace,
    #[error("content-length must be decimal digits, at most 18")]
    ContentLength,
    #[error("CONNECT is not allowed here")]
    Connect,
    #[error("expect has a value other than 100-continue")]
    Expectation,
    #[error("the scheme must be http or https")]
    Scheme,
}

impl HeadError {
    /// The status to answer with.
    pub const fn status(&self) -> u16 {
        match self {
            HeadError::Connect => 405,
            HeadError::Expectation => 417,
            _ => 400,
        }
    }

    /// A short constant for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            HeadError::AuthorityMissing => "host_missing",
            HeadError::Host(_) => "host_invalid",
            HeadError::AuthorityDiffers => "authority_differs",
            HeadError::Target(error) => error.label(),
            HeadError::Repeated(_) => "repeated_header",
            HeadError::ConnectionSpecific(_) => "connection_header",
            HeadError::Te => "te",
            HeadError::OuterSpace => "outer_space",
            HeadError::ContentLength => "content_length",
            HeadError::Connect => "connect",
            HeadError::Expectation => "expectation",
            HeadError::Scheme => "scheme",
        }
    }
}

/// Why an answer's head is refused. The client gets a 502, the stream to the other side is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("the answer's status is not between 100 and 599, or is 101, which HTTP/2 does not have")]
    Status,
    #[error("the answer has header {0}, which belongs to an HTTP/1 connection and not into HTTP/2")]
    ConnectionSpecific(&'static str),
    #[error("a value of the answer begins or ends with white space")]
    OuterSpace,
}

/// Checks an answer's head, of an interim one too, for what the HTTP/2 library lets through (RFC 9113, 8.1.1: an
/// intermediary does not pass on what is malformed).
pub fn check_answer(status: http::StatusCode, headers: &HeaderMap) -> Result<(), AnswerError> {
    if !(100..=599).contains(&status.as_u16()) || status == http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(AnswerError::Status);
    }
    for (name, value) in headers {
        let known = Known::of_lower_case(name.as_str().as_bytes());
        if is_connection_specific(known) {
            return Err(AnswerError::ConnectionSpecific(known.text()));
        }
        if has_outer_space(value.as_bytes()) {
            return Err(AnswerError::OuterSpace);
        }
    }
    Ok(())
}

/// Whether no value begins or ends with white space, in trailers (RFC 9113, 8.2.1).
pub fn are_trimmed(trailers: &HeaderMap) -> bool {
    trailers.values().all(|value| !has_outer_space(value.as_bytes()))
}

/// RFC 9113, 8.2.2.
const fn is_connection_specific(known: Known) -> bool {
    matches!(
        known,
        Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::Http2Settings
    )
}

/// A request head that passed every check.
#[derive(Debug, Clone)]
pub struct RequestHead {
    method: Method,
    target: Target,
    authority: Host,
    headers: HeaderMap,
    fields: Fields,
    /// As it came.
    uri: Uri,
}

/// What one pass over the fields finds.
#[derive(Debug, Clone, Copy)]
struct Fields {
    present: KnownSet,
    protected: u32,
    content_length: Option<u64>,
}

impl Fields {
    fn read(headers: &HeaderMap) -> Result<Fields, HeadError> {
        let mut fields = Fields { present: KnownSet::EMPTY, protected: 0, content_length: None };
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            if protected::is_protected(name) {
                fields.protected = fields.protected.saturating_add(1);
            }
            // RFC 9113, 8.2.1.
            if has_outer_space(value.as_bytes()) {
                return Err(HeadError::OuterSpace);
            }
            let known = Known::of_lower_case(name);
            if known.is_single_valued() && fields.present.contains(known) {
                return Err(HeadError::Repeated(known.text()));
            }
            fields.present.insert(known);
            match known {
                known if is_connection_specific(known) => {
                    return Err(HeadError::ConnectionSpecific(known.text()));
                }
                Known::Te if value.as_bytes() != b"trailers" => return Err(HeadError::Te),
                Known::Expect if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                    return Err(HeadError::Expectation);
                }
                Known::ContentLength => {
                    let length = content_length(value.as_bytes()).ok_or(HeadError::ContentLength)?;
                    fields.content_length = Some(length);
                }
                _ => {}
            }
        }
        Ok(fields)
    }
}

impl RequestHead {
    /// Checks what the HTTP/2 library decoded.
    pub fn new(parts: http::request::Parts) -> Result<RequestHead, HeadError> {
        let http::request::Parts { method, uri, mut headers, .. } = parts;
        if method == Method::CONNECT {
            return Err(HeadError::Connect);
        }
        if !matches!(uri.scheme_str(), None | Some("http" | "https")) {
            return Err(HeadError::Scheme);
        }
        let fields = Fields::read(&headers)?;
        let authority = authority(&uri, &headers)?;
        if fields.present.contains(Known::Host) {
            headers.remove(http::header::HOST);
        }
        let path = uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        let target = match path {
            "*" if method == Method::OPTIONS => Target::asterisk(),
            "*" => return Err(HeadError::Target(PathError::Asterisk)),
            path => Target::new(Bytes::copy_from_slice(path.as_bytes())).map_err(HeadError::Target)?,
        };
        Ok(RequestHead { method, target, authority, headers, fields, uri })
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The canonical target.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether `:scheme` is `https`.
    pub fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The canonical authority.
    pub fn authority(&self) -> &Host {
        &self.authority
    }

    /// The fields, without `host`.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The first value of a known field.
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        // Most of what is asked for is not there.
        if !self.fields.present.contains(known) {
            return None;
        }
        let named = if known == Known::Host { None } else { self.headers.get(known.text()) };
        named.map(http::HeaderValue::as_bytes)
    }

    /// The fields, to be forwarded.
    pub fn into_headers(self) -> HeaderMap {
        self.headers
    }

    /// The canonical authority for a URI: the received one, if it was canonical.
    pub fn uri_authority(&self) -> Option<uri::Authority> {
        match self.uri.authority() {
            Some(came) if self.authority.is_spelled(came.as_str().as_bytes()) => Some(came.clone()),
            _ => uri::Authority::from_maybe_shared(Bytes::from(self.authority.to_string())).ok(),
        }
    }

    /// The canonical target for a URI: the received one, if it was canonical.
    pub fn uri_target(&self) -> Option<uri::PathAndQuery> {
        let canonical = self.target.as_bytes();
        match self.uri.path_and_query() {
            Some(came) if came.as_str().as_bytes() == canonical => Some(came.clone()),
            _ => uri::PathAndQuery::from_maybe_shared(canonical.clone()).ok(),
        }
    }

    /// The announced length of the body.
    pub fn content_length(&self) -> Option<u64> {
        self.fields.content_length
    }

    /// How many protected fields came along.
    pub fn protected_count(&self) -> u32 {
        self.fields.protected
    }
}

fn has_outer_space(value: &[u8]) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_space(value.first()) || is_space(value.last())
}

fn authority(uri: &http::Uri, headers: &HeaderMap) -> Result<Host, HeadError> {
    let parse = |text: &[u8]| Host::new(&Bytes::copy_from_slice(text)).map_err(HeadError::Host);
    let named = uri.authority().map(|authority| parse(authority.as_str().as_bytes())).transpose()?;
    let host = headers.get(http::header::HOST).map(|host| parse(host.as_bytes())).transpose()?;
    let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    match (named, host) {
        (Some(named), Some(host)) if !named.agrees_with(&host, default_port) => {
            Err(HeadError::AuthorityDiffers)
        }
        (Some(named), _) => Ok(named),
        (None, Some(host)) => Ok(host),
        (None, None) => Err(HeadError::AuthorityMissing),
    }
}
