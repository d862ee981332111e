//! A decoded HTTP/2 request head under the same rules as an HTTP/1 one: canonical target, one authority, nothing that
//! belongs to a connection, single-valued names once.

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::{
    canon::{Host, HostError, PathError, Target},
    h1::content_length,
    names::Known,
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
            HeadError::ContentLength => "content_length",
            HeadError::Connect => "connect",
            HeadError::Expectation => "expectation",
            HeadError::Scheme => "scheme",
        }
    }
}

/// A request head that passed every check.
#[derive(Debug, Clone)]
pub struct RequestHead {
    method: Method,
    target: Target,
    authority: Host,
    headers: HeaderMap,
    content_length: Option<u64>,
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
        for known in Known::ALL {
            if known.is_single_valued() && headers.get_all(known.text()).iter().nth(1).is_some() {
                return Err(HeadError::Repeated(known.text()));
            }
        }
        for known in [
            Known::Connection,
            Known::KeepAlive,
            Known::ProxyConnection,
            Known::TransferEncoding,
            Known::Upgrade,
            Known::Http2Settings,
        ] {
            if headers.contains_key(known.text()) {
                return Err(HeadError::ConnectionSpecific(known.text()));
            }
        }
        if headers.get_all(Known::Te.text()).iter().any(|te| te.as_bytes() != b"trailers") {
            return Err(HeadError::Te);
        }
        if headers
            .get_all(Known::Expect.text())
            .iter()
            .any(|e| !e.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        {
            return Err(HeadError::Expectation);
        }
        let content_length = match headers.get(Known::ContentLength.text()) {
            None => None,
            Some(digits) => Some(content_length(digits.as_bytes()).ok_or(HeadError::ContentLength)?),
        };
        let authority = authority(&uri, &headers)?;
        headers.remove(Known::Host.text());
        let path = uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        let target = match path {
            "*" if method == Method::OPTIONS => Target::asterisk(),
            "*" => return Err(HeadError::Target(PathError::Asterisk)),
            path => Target::new(Bytes::copy_from_slice(path.as_bytes())).map_err(HeadError::Target)?,
        };
        Ok(RequestHead { method, target, authority, headers, content_length })
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The canonical target.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The canonical authority.
    pub fn authority(&self) -> &Host {
        &self.authority
    }

    /// The fields, without `host`.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The fields, to be forwarded.
    pub fn into_headers(self) -> HeaderMap {
        self.headers
    }

    /// The announced length of the body.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// How many protected fields came along.
    pub fn protected_count(&self) -> u32 {
        let count =
            self.headers.iter().filter(|(name, _)| protected::is_protected(name.as_str().as_bytes())).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
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
