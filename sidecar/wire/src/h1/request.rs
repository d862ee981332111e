//! Request heads.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};

use super::{
    Field, Framing, Limits, RequestError, Version,
    connection::{self, Connection},
    fields::{Fields, Place, take_head},
    parse::{self, FieldsError, FramingError, Scan},
    response::Asked,
};
use crate::{
    canon::{Host, HostError, PathError, Target},
    names::Known,
};

/// Which protocol a request asks to switch to. Others than websocket do not exist for us: h2c would carry requests
/// past every check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// None that is allowed; an `Upgrade` header, if there is one, is dropped when forwarding.
    None,
    /// `Upgrade: websocket`, well formed.
    Websocket,
}

/// Parses the request heads of one connection.
#[derive(Debug, Clone)]
pub struct RequestParser {
    limits: Limits,
    scan: Scan,
}

impl RequestParser {
    /// A parser under these limits (bounded by the hard ones).
    pub fn new(limits: Limits) -> RequestParser {
        RequestParser { limits: parse::bounded(limits), scan: Scan::default() }
    }

    /// Takes the next head off the front of `input`. None: it is not complete yet. After an error the connection can
    /// only be answered and closed.
    pub fn parse(&mut self, input: &mut BytesMut) -> Result<Option<RequestHead>, RequestError> {
        parse::skip_empty_line(input);
        if !self.scan.is_due(input) {
            return if input.len() >= self.limits.head { Err(RequestError::TooLarge) } else { Ok(None) };
        }
        let mut table = [const { MaybeUninit::uninit() }; Limits::MAX_FIELDS];
        let table = table.get_mut(..self.limits.fields).unwrap_or_default();
        let mut raw = httparse::Request::new(&mut []);
        let len = match raw.parse_with_uninit_headers(input, table) {
            Ok(httparse::Status::Complete(len)) if len <= self.limits.head => len,
            Ok(httparse::Status::Partial) if input.len() < self.limits.head => return Ok(None),
            Ok(_) => return Err(RequestError::TooLarge),
            Err(httparse::Error::TooManyHeaders) => return Err(RequestError::TooManyFields),
            Err(httparse::Error::Version) if names_another_version(input) => {
                return Err(RequestError::Version);
            }
            Err(error) => return Err(RequestError::Malformed(parse::complaint(error))),
        };
        self.scan.reset();
        let line = Line {
            method: raw.method.map_or(0, str::len),
            target: raw.path.map_or(0, str::len),
            version: if raw.version == Some(0) { Version::Http10 } else { Version::Http11 },
        };
        let mut fields =
            parse::collect(input.get(..len).unwrap_or_default(), raw.headers).map_err(|e| match e {
                FieldsError::BareLineEnd => RequestError::BareLineEnd,
                FieldsError::TooLarge => RequestError::TooLarge,
            })?;
        fields.bytes = take_head(input, len);
        RequestHead::read(fields, &line, &self.limits).map(Some)
    }
}

/// Whether the first line ends as one of another version of HTTP does (RFC 9112, 2.3), and is not merely malformed.
fn names_another_version(input: &[u8]) -> bool {
    let line = input.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|b| *b == b' ').skip(2);
    matches!(
        (parts.next(), parts.next()),
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None)
            if major.is_ascii_digit() && minor.is_ascii_digit()
    )
}

/// Lengths of the request line's parts. One space stands between them: httparse refuses more.
struct Line {
    method: usize,
    target: usize,
    version: Version,
}

/// A request head that passed every check. It owns its bytes (shared with the read buffer, not copied).
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub(super) fields: Fields,
    method_len: usize,
    version: Version,
    target: Target,
    authority: Option<Host>,
    /// The Host field is missing or not spelled canonically: it is written anew.
    pub(super) rewrite_host: bool,
    framing: Framing,
    connection: Connection,
    upgrade: Upgrade,
    expects_continue: bool,
}

impl RequestHead {
    fn read(mut fields: Fields, line: &Line, limits: &Limits) -> Result<RequestHead, RequestError> {
        // The end of the request line: its parts, two spaces, `HTTP/1.x`, CR LF.
        let line_len = line.method.saturating_add(line.target).saturating_add(12);
        if fields.bytes.get(line_len.saturating_sub(2)..line_len) != Some(b"\r\n") {
            return Err(RequestError::BareLineEnd);
        }
        if let Some(repeated) = Known::SINGLE.iter().find(|known| fields.count(**known) > 1) {
            return Err(RequestError::Repeated(repeated.text()));
        }
        let connection = connection::read(&mut fields).ok_or(RequestError::Connection)?;
        let framing = parse::framing(&fields, line.version)?.unwrap_or(Framing::None);
        let method = fields.bytes.slice(..line.method.min(fields.bytes.len()));
        let target_start = line.method.saturating_add(1);
        let raw_target = fields.bytes.slice(target_start..target_start.saturating_add(line.target));
        let host = fields.get(Known::Host).map(|raw| fields.bytes.slice_ref(raw));
        let authority = match &host {
            Some(raw) => Some(Host::new(raw).map_err(RequestError::Host)?),
            None if line.version == Version::Http11 => return Err(RequestError::HostMissing),
            None => None,
        };
        let (target, authority) = read_target(&method, raw_target, authority, limits)?;
        let spelled = match (&host, &authority) {
            (Some(raw), Some(authority)) => authority.is_spelled(raw),
            _ => false,
        };
        let expects_continue = match fields.get(Known::Expect) {
            None => false,
            Some(value)
                if value.eq_ignore_ascii_case(b"100-continue") && fields.count(Known::Expect) == 1 =>
            {
                // RFC 9110, 10.1.1: from HTTP/1.0 it is ignored.
                line.version == Version::Http11
            }
            Some(_) => return Err(RequestError::Expectation),
        };
        let upgrade = read_upgrade(&fields, connection, &method, framing, line.version)?;
        Ok(RequestHead {
            fields,
            method_len: line.method,
            version: line.version,
            target,
            authority,
            rewrite_host: !spelled,
            framing,
            connection,
            upgrade,
            expects_continue,
        })
    }

    /// The method, in the sender's case.
    pub fn method(&self) -> &str {
        std::str::from_utf8(self.method_bytes()).unwrap_or_default()
    }

    /// The method as it came: cheaper to compare.
    pub fn method_bytes(&self) -> &[u8] {
        self.fields.bytes.get(..self.method_len).unwrap_or_default()
    }

    /// HTTP/1.0 or 1.1.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The canonical target, in origin form.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The canonical authority: of `Host`, with which an absolute target agrees. None: HTTP/1.0 without `Host`.
    pub fn authority(&self) -> Option<&Host> {
        self.authority.as_ref()
    }

    /// Whether the target came in absolute form with the scheme `https`.
    pub fn is_https(&self) -> bool {
        let start = self.method_len.saturating_add(1);
        let scheme = self.fields.bytes.get(start..start.saturating_add(8));
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https://"))
    }

    /// How the body ends.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client keeps the connection open after this exchange.
    pub fn keep_alive(&self) -> bool {
        match self.version {
            Version::Http11 => !self.connection.close,
            Version::Http10 => self.connection.keep_alive && !self.connection.close,
        }
    }

    /// The upgrade asked for.
    pub fn upgrade(&self) -> Upgrade {
        self.upgrade
    }

    /// Whether the client waits for a 100 before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
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

    /// What the answer's parser must know of this request.
    pub fn asked(&self) -> Asked {
        let method = self.method_bytes();
        Asked {
            head: method == b"HEAD",
            connect: method == b"CONNECT",
            websocket: self.upgrade == Upgrade::Websocket,
        }
    }

    /// Bytes of the received head, for accounting.
    pub fn wire_len(&self) -> usize {
        self.fields.bytes.len()
    }
}

pub(super) fn protected_count(fields: &Fields) -> u32 {
    if !fields.any_protected {
        return 0;
    }
    u32::try_from(fields.places().iter().filter(|place| place.protected).count()).unwrap_or(u32::MAX)
}

impl From<FramingError> for RequestError {
    fn from(error: FramingError) -> RequestError {
        match error {
            FramingError::Length => RequestError::ContentLength,
            FramingError::LengthRepeated => RequestError::Repeated("content-length"),
            FramingError::LengthAndChunked => RequestError::LengthAndChunked,
            FramingError::Encoding => RequestError::TransferEncoding,
            FramingError::EncodingInHttp10 => RequestError::TransferEncodingInHttp10,
        }
    }
}

/// The four forms of RFC 9112, 3.2.
fn read_target(
    method: &[u8],
    raw: Bytes,
    host: Option<Host>,
    limits: &Limits,
) -> Result<(Target, Option<Host>), RequestError> {
    if method == b"CONNECT" {
        if !limits.connect {
            return Err(RequestError::Connect);
        }
        let named = Host::new(&raw).map_err(RequestError::Host)?;
        if named.port().is_none() {
            return Err(RequestError::Host(HostError::Port));
        }
        // Host may leave the port out; CONNECT has no default one.
        let port = named.port().unwrap_or_default();
        if host.is_some_and(|host| !host.agrees_with(&named, port)) {
            return Err(RequestError::AuthorityDiffers);
        }
        return Ok((Target::of_connect(raw), Some(named)));
    }
    match raw.first() {
        Some(b'/') => Ok((Target::new(raw).map_err(RequestError::Target)?, host)),
        Some(b'*') if raw.len() == 1 && method == b"OPTIONS" => Ok((Target::asterisk(), host)),
        Some(b'*') => Err(RequestError::Target(PathError::Asterisk)),
        _ => absolute_target(method, raw, host),
    }
}

fn absolute_target(
    method: &[u8],
    raw: Bytes,
    host: Option<Host>,
) -> Result<(Target, Option<Host>), RequestError> {
    let scheme = |text: &[u8]| raw.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text));
    let (start, port) = if scheme(b"http://") {
        (7usize, 80)
    } else if scheme(b"https://") {
        (8, 443)
    } else {
        // A path without its slash, or a scheme that is not ours.
        let error = if raw.contains(&b':') { PathError::Scheme } else { PathError::NoLeadingSlash };
        return Err(RequestError::Target(error));
    };
    let rest = raw.slice(start..);
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let named = Host::new(&rest.slice(..end)).map_err(RequestError::Host)?;
    if host.as_ref().is_some_and(|host| !host.agrees_with(&named, port)) {
        return Err(RequestError::AuthorityDiffers);
    }
    let path = rest.slice(end..);
    let target = match path.first() {
        None if method == b"OPTIONS" => Target::asterisk(),
        Some(b'/') => Target::new(path).map_err(RequestError::Target)?,
        _ => {
            let mut rooted = BytesMut::with_capacity(path.len().saturating_add(1));
            rooted.extend_from_slice(b"/");
            rooted.extend_from_slice(&path);
            Target::new(rooted.freeze()).map_err(RequestError::Target)?
        }
    };
    Ok((target, Some(host.unwrap_or(named))))
}

fn read_upgrade(
    fields: &Fields,
    connection: Connection,
    method: &[u8],
    framing: Framing,
    version: Version,
) -> Result<Upgrade, RequestError> {
    let Some(protocol) = fields.get(Known::Upgrade) else { return Ok(Upgrade::None) };
    // RFC 9110, 7.8: without the connection option, or from HTTP/1.0, the field is ignored; so are other protocols.
    if !connection.upgrade || version == Version::Http10 || !protocol.eq_ignore_ascii_case(b"websocket") {
        return Ok(Upgrade::None);
    }
    let body = !matches!(framing, Framing::None | Framing::Length(0));
    if method != b"GET" || body || fields.count(Known::Upgrade) != 1 {
        return Err(RequestError::Upgrade);
    }
    Ok(Upgrade::Websocket)
}

/// The values of one header, in order.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    fields: &'a Fields,
    places: std::slice::Iter<'a, Place>,
    known: Known,
    name: &'a [u8],
}

impl<'a> Values<'a> {
    pub(super) fn new(fields: &'a Fields, name: &'a str) -> Values<'a> {
        let known = Known::of(name.as_bytes());
        let absent = known != Known::Other && !fields.present.contains(known);
        let places: &[Place] = if absent { &[] } else { fields.places() };
        Values { fields, places: places.iter(), known, name: name.as_bytes() }
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let fields = self.fields;
        self.places
            .by_ref()
            .find(|place| match self.known {
                Known::Other => fields.name(place).eq_ignore_ascii_case(self.name),
                known => place.known == known,
            })
            .map(|place| fields.value(place))
    }
}
