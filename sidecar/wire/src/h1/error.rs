//! Why a head is refused: what was expected, what came. Nothing of the input is repeated, so that a message can be
//! logged as it is.

use crate::canon::{HostError, PathError};

/// Why a request head is refused. [`RequestError::status`] is the answer; the connection closes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the head is larger than the limit; send fewer or shorter header fields")]
    TooLarge,
    #[error("the head has more fields than the limit")]
    TooManyFields,
    #[error("the head is not HTTP/1: {0}")]
    Malformed(&'static str),
    #[error("expected HTTP/1.1 or HTTP/1.0")]
    Version,
    #[error("every line must end in CR LF; a bare CR or LF came")]
    BareLineEnd,
    #[error("the request has no Host header, which HTTP/1.1 demands")]
    HostMissing,
    #[error("Host is not a valid authority: {0}")]
    Host(HostError),
    #[error("the authority in the request line and the Host header differ")]
    AuthorityDiffers,
    #[error("the request target is refused: {0}")]
    Target(PathError),
    #[error("header {0} stands more than once, which would let two readers pick different values")]
    Repeated(&'static str),
    #[error("Content-Length must be decimal digits, at most 18")]
    ContentLength,
    #[error("Content-Length and Transfer-Encoding came together")]
    LengthAndChunked,
    #[error("Transfer-Encoding must be exactly `chunked`, once")]
    TransferEncoding,
    #[error("Transfer-Encoding came with HTTP/1.0")]
    TransferEncodingInHttp10,
    #[error("CONNECT is not allowed here")]
    Connect,
    #[error("Expect has a value other than 100-continue")]
    Expectation,
    #[error("Connection must be a short list of tokens")]
    Connection,
    #[error("an upgrade request must be a GET without a body, naming one protocol")]
    Upgrade,
}

impl RequestError {
    /// The status to answer with.
    pub const fn status(&self) -> u16 {
        match self {
            RequestError::TooLarge | RequestError::TooManyFields => 431,
            RequestError::Version => 505,
            RequestError::Connect => 405,
            RequestError::Expectation => 417,
            _ => 400,
        }
    }

    /// A short constant for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            RequestError::TooLarge => "head_too_large",
            RequestError::TooManyFields => "too_many_fields",
            RequestError::Malformed(_) => "malformed",
            RequestError::Version => "version",
            RequestError::BareLineEnd => "bare_line_end",
            RequestError::HostMissing => "host_missing",
            RequestError::Host(_) => "host_invalid",
            RequestError::AuthorityDiffers => "authority_differs",
            RequestError::Target(error) => error.label(),
            RequestError::Repeated(_) => "repeated_header",
            RequestError::ContentLength => "content_length",
            RequestError::LengthAndChunked => "length_and_chunked",
            RequestError::TransferEncoding => "transfer_encoding",
            RequestError::TransferEncodingInHttp10 => "transfer_encoding_http10",
            RequestError::Connect => "connect",
            RequestError::Expectation => "expectation",
            RequestError::Connection => "connection_header",
            RequestError::Upgrade => "upgrade",
        }
    }
}

/// Why an answer's head is refused. The client gets a 502, the upstream connection closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    #[error("the answer's head is larger than the limit")]
    TooLarge,
    #[error("the answer's head has more fields than the limit")]
    TooManyFields,
    #[error("the answer is not HTTP/1: {0}")]
    Malformed(&'static str),
    #[error("every line must end in CR LF; a bare CR or LF came")]
    BareLineEnd,
    #[error("the answer's status is not between 100 and 599")]
    Status,
    #[error("the answer's Content-Length stands more than once or is not decimal digits")]
    ContentLength,
    #[error("the answer has Content-Length and Transfer-Encoding together")]
    LengthAndChunked,
    #[error("the answer's Transfer-Encoding is not exactly `chunked`, once, in HTTP/1.1")]
    TransferEncoding,
    #[error("a 1xx or 204 answer announces a body")]
    BodyNotAllowed,
    #[error("101 came, but the request asked for no upgrade, or for another one")]
    UnaskedUpgrade,
    #[error("Connection must be a short list of tokens")]
    Connection,
    #[error("more interim answers (1xx) came than any server has reason for")]
    TooManyInterim,
}

impl ResponseError {
    /// A short constant for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            ResponseError::TooLarge => "head_too_large",
            ResponseError::TooManyFields => "too_many_fields",
            ResponseError::Malformed(_) => "malformed",
            ResponseError::BareLineEnd => "bare_line_end",
            ResponseError::Status => "status",
            ResponseError::ContentLength => "content_length",
            ResponseError::LengthAndChunked => "length_and_chunked",
            ResponseError::TransferEncoding => "transfer_encoding",
            ResponseError::BodyNotAllowed => "body_not_allowed",
            ResponseError::UnaskedUpgrade => "unasked_upgrade",
            ResponseError::Connection => "connection_header",
            ResponseError::TooManyInterim => "too_many_interim",
        }
    }
}
