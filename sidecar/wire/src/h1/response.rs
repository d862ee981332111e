//! Answer heads, and what becomes of the connections after them.

use std::mem::MaybeUninit;

use bytes::BytesMut;

use super::{
    Field, Framing, Limits, RequestHead, ResponseError, Values, Version,
    connection::{self, Connection},
    fields::{Fields, take_head},
    parse::{self, FieldsError, FramingError, Scan},
    request::protected_count,
};
use crate::names::Known;

/// What an answer's framing depends on (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// The request was HEAD.
    pub head: bool,
    /// The request was CONNECT.
    pub connect: bool,
    /// The request asked for a websocket.
    pub websocket: bool,
}

/// Parses the answer heads of one connection.
#[derive(Debug, Clone)]
pub struct ResponseParser {
    limits: Limits,
    scan: Scan,
}

impl ResponseParser {
    /// A parser under these limits (bounded by the hard ones).
    pub fn new(limits: Limits) -> ResponseParser {
        ResponseParser { limits: parse::bounded(limits), scan: Scan::default() }
    }

    /// Takes the next head off the front of `input`. None: it is not complete yet. A 1xx (but 101) is followed by
    /// another head for the same request. After an error the upstream connection can only be closed.
    pub fn parse(
        &mut self,
        input: &mut BytesMut,
        asked: Asked,
    ) -> Result<Option<ResponseHead>, ResponseError> {
        if !self.scan.is_due(input) {
            return if input.len() >= self.limits.head { Err(ResponseError::TooLarge) } else { Ok(None) };
        }
        let mut table = [const { MaybeUninit::uninit() }; Limits::MAX_FIELDS];
        let table = table.get_mut(..self.limits.fields).unwrap_or_default();
        let mut raw = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let len = match config.parse_response_with_uninit_headers(&mut raw, input, table) {
            Ok(httparse::Status::Complete(len)) if len <= self.limits.head => len,
            Ok(httparse::Status::Partial) if input.len() < self.limits.head => return Ok(None),
            Ok(_) => return Err(ResponseError::TooLarge),
            Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::TooManyFields),
            Err(error) => return Err(ResponseError::Malformed(parse::complaint(error))),
        };
        self.scan.reset();
        let version = if raw.version == Some(0) { Version::Http10 } else { Version::Http11 };
        let status = raw.code.unwrap_or(0);
        // httparse skips empty lines before the status line; an answer may have none.
        if !input.starts_with(b"HTTP/1.") {
            return Err(ResponseError::Malformed("an answer starts with HTTP/1"));
        }
        let mut fields =
            parse::collect(input.get(..len).unwrap_or_default(), raw.headers).map_err(|e| match e {
                FieldsError::BareLineEnd => ResponseError::BareLineEnd,
                FieldsError::TooLarge => ResponseError::TooLarge,
            })?;
        fields.bytes = take_head(input, len);
        ResponseHead::read(fields, status, version, asked).map(Some)
    }
}

/// An answer's head that passed every check.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub(super) fields: Fields,
    status: u16,
    version: Version,
    framing: Framing,
    connection: Connection,
}

impl ResponseHead {
    fn read(
        mut fields: Fields,
        status: u16,
        version: Version,
        asked: Asked,
    ) -> Result<ResponseHead, ResponseError> {
        if !(100..=599).contains(&status) {
            return Err(ResponseError::Status);
        }
        // The status line's own end (`collect` saw to those of the fields).
        let line_end = fields.bytes.iter().position(|b| *b == b'\n').unwrap_or(0);
        if line_end.checked_sub(1).and_then(|at| fields.bytes.get(at)) != Some(&b'\r') {
            return Err(ResponseError::BareLineEnd);
        }
        let connection = connection::read(&mut fields).ok_or(ResponseError::Connection)?;
        let announced = parse::framing(&fields, version)?;
        let framing = match status {
            101 => {
                let agreed = connection.upgrade
                    && fields.count(Known::Upgrade) == 1
                    && fields.get(Known::Upgrade).is_some_and(|p| p.eq_ignore_ascii_case(b"websocket"));
                if !asked.websocket || !agreed || version == Version::Http10 {
                    return Err(ResponseError::UnaskedUpgrade);
                }
                if !matches!(announced, None | Some(Framing::Length(0))) {
                    return Err(ResponseError::BodyNotAllowed);
                }
                Framing::Tunnel
            }
            // A peer that announces a body here would be read differently by others: RFC 9110, 8.6 forbids it.
            100..=199 | 204 => match announced {
                None | Some(Framing::Length(0)) => Framing::None,
                _ => return Err(ResponseError::BodyNotAllowed),
            },
            200..=299 if asked.connect => match announced {
                None | Some(Framing::Length(0)) => Framing::Tunnel,
                _ => return Err(ResponseError::BodyNotAllowed),
            },
            304 => Framing::None,
            _ if asked.head => Framing::None,
            _ => announced.unwrap_or(Framing::UntilClose),
        };
        Ok(ResponseHead { fields, status, version, framing, connection })
    }

    /// The status code, 100–599.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// HTTP/1.0 or 1.1.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How the body ends.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether this is a 1xx that another head follows.
    pub fn is_interim(&self) -> bool {
        (100..=199).contains(&self.status) && self.status != 101
    }

    /// Whether the upstream connection can serve another request once the body is done.
    pub fn keep_alive(&self) -> bool {
        !matches!(self.framing, Framing::UntilClose | Framing::Tunnel)
            && match self.version {
                Version::Http11 => !self.connection.close,
                Version::Http10 => self.connection.keep_alive && !self.connection.close,
            }
    }

    /// The first value of a known header.
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        self.fields.get(known)
    }

    /// Every value of a header by name, in any case.
    pub fn get_all<'a>(&'a self, name: &'a str) -> Values<'a> {
        Values::new(&self.fields, name)
    }

    /// All fields in order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> + Clone {
        self.fields.iter()
    }

    /// How many protected fields came along.
    pub fn protected_count(&self) -> u32 {
        protected_count(&self.fields)
    }

    /// Bytes of the received head, for accounting.
    pub fn wire_len(&self) -> usize {
        self.fields.bytes.len()
    }
}

impl From<FramingError> for ResponseError {
    fn from(error: FramingError) -> ResponseError {
        match error {
            FramingError::Length | FramingError::LengthRepeated => ResponseError::ContentLength,
            FramingError::LengthAndChunked => ResponseError::LengthAndChunked,
            FramingError::Encoding | FramingError::EncodingInHttp10 => ResponseError::TransferEncoding,
        }
    }
}

/// What becomes of the client's connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persist {
    /// Stays open; nothing needs to be said (HTTP/1.1).
    Keep,
    /// Stays open, and an HTTP/1.0 client is told so.
    KeepAlive,
    /// Closes after the answer, and the client is told so.
    Close,
    /// As `Close`, and the chunks must be taken out of the body since the client speaks HTTP/1.0.
    Unchunk,
}

impl Persist {
    /// What the request and the answer's framing demand. The caller may still turn `Keep` into `Close` (draining).
    pub fn between(request: &RequestHead, answer: &ResponseHead) -> Persist {
        if answer.is_interim() || answer.framing() == Framing::Tunnel {
            return Persist::Keep;
        }
        match (answer.framing(), request.version()) {
            (Framing::UntilClose, _) => Persist::Close,
            (Framing::Chunked, Version::Http10) => Persist::Unchunk,
            _ if !request.keep_alive() => Persist::Close,
            (_, Version::Http10) => Persist::KeepAlive,
            (_, Version::Http11) => Persist::Keep,
        }
    }

    /// Whether the connection closes.
    pub fn closes(self) -> bool {
        matches!(self, Persist::Close | Persist::Unchunk)
    }
}
