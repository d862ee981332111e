//! A peek at a TLS ClientHello: whom it names and which protocols it offers, before anybody answers it.
//!
//! The bytes stay where they are: a proxy peeks, decides whose hello it is, and either terminates TLS with them or passes
//! them on. A hello may come in several TCP segments and several TLS records; at most [`LIMIT`] bytes are looked at.

use std::borrow::Cow;

/// Bytes after which a hello that is still incomplete counts as malformed. Post-quantum hellos take under 2 KiB.
pub const LIMIT: usize = 16 * 1024;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peek {
    /// Not TLS.
    Plaintext,
    /// The beginning of a hello: look again with more bytes.
    Partial,
    /// A hello.
    Client(Hello),
    /// TLS by its first bytes, but not a hello that anybody should answer.
    Malformed(&'static str),
}

/// What a ClientHello says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// The server name, in lower case. None: not sent.
    pub sni: Option<String>,
    /// The protocols offered, in the client's order.
    pub alpn: Vec<Vec<u8>>,
    /// Whether TLS 1.3 is among the versions offered.
    pub tls13: bool,
    /// What the client chose at random: no two hellos have the same.
    pub random: [u8; 32],
}

impl Hello {
    /// Whether a protocol is offered.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| offered == protocol)
    }

    /// Whether the hello is meant for the mesh: a `signet-*` protocol, or a name under `.signet.internal`.
    pub fn is_ours(&self) -> bool {
        self.alpn.iter().any(|protocol| protocol.starts_with(b"signet-"))
            || self.sni.as_deref().is_some_and(|name| name.ends_with(".signet.internal"))
    }
}

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
/// RFC 8446, 5.1: a plaintext record is at most 2^14 bytes.
const MAX_RECORD: usize = 1 << 14;

/// Looks at the first bytes of a connection.
pub fn peek(bytes: &[u8]) -> Peek {
    match bytes.first() {
        None => return Peek::Partial,
        Some(&HANDSHAKE_RECORD) => {}
        Some(_) => return Peek::Plaintext,
    }
    let incomplete = || {
        if bytes.len() >= LIMIT {
            Peek::Malformed("the hello is larger than the limit")
        } else {
            Peek::Partial
        }
    };
    let message = match handshake_message(bytes) {
        Ok(Some(message)) => message,
        Ok(None) => return incomplete(),
        Err(peek) => return peek,
    };
    match client_hello(&message) {
        Some(hello) => Peek::Client(hello),
        None => Peek::Malformed("the hello's fields do not fit its length"),
    }
}

/// The body of the ClientHello, gathered over records. None: more bytes are needed.
fn handshake_message(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Peek> {
    let mut reader = Reader(bytes.get(..LIMIT).unwrap_or(bytes));
    let mut gathered: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        if let Some(header) = gathered.first_chunk::<4>() {
            if header[0] != CLIENT_HELLO {
                return Err(Peek::Malformed("the first handshake message is not a ClientHello"));
            }
            let len = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
            if len > LIMIT {
                return Err(Peek::Malformed("the hello is larger than the limit"));
            }
            let end = len.saturating_add(4);
            if gathered.len() >= end {
                return Ok(Some(match gathered {
                    Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(4..end).unwrap_or_default()),
                    Cow::Owned(bytes) => Cow::Owned(bytes.get(4..end).unwrap_or_default().to_vec()),
                }));
            }
        } else if gathered.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Peek::Malformed("the first handshake message is not a ClientHello"));
        }
        let Some(kind) = reader.u8() else { return Ok(None) };
        if kind != HANDSHAKE_RECORD {
            return Err(Peek::Malformed("another record type inside the hello"));
        }
        let Some(major) = reader.u8() else { return Ok(None) };
        if major != 3 {
            // Starts with 22 by chance.
            return Err(if gathered.is_empty() {
                Peek::Plaintext
            } else {
                Peek::Malformed("the record version")
            });
        }
        let (Some(_minor), Some(len)) = (reader.u8(), reader.u16()) else { return Ok(None) };
        let len = usize::from(len);
        if len == 0 || len > MAX_RECORD {
            return Err(Peek::Malformed("a record is empty or larger than TLS allows"));
        }
        let available = len.min(reader.0.len());
        let part = reader.take(available).unwrap_or_default();
        // An incomplete record may hold a complete hello; if not, the next turn runs out of bytes.
        gathered = if gathered.is_empty() {
            Cow::Borrowed(part)
        } else {
            let mut all = gathered.into_owned();
            all.extend_from_slice(part);
            Cow::Owned(all)
        };
    }
}

fn client_hello(message: &[u8]) -> Option<Hello> {
    let mut hello = Reader(message);
    hello.take(2)?; // legacy version
    let random = *hello.take(32)?.first_chunk()?;
    let session = hello.u8()?;
    hello.take(usize::from(session))?;
    let suites = hello.u16()?;
    hello.take(usize::from(suites))?;
    let compressions = hello.u8()?;
    hello.take(usize::from(compressions))?;
    let mut result = Hello { random, ..Hello::default() };
    if hello.0.is_empty() {
        return Some(result);
    }
    let mut extensions = hello.block()?;
    if !hello.0.is_empty() {
        return None;
    }
    let mut seen = (false, false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut body = extensions.block()?;
        // RFC 8446, 4.2: an extension stands once. Two server names would be read differently by two readers.
        let flag = match kind {
            SERVER_NAME => &mut seen.0,
            ALPN => &mut seen.1,
            SUPPORTED_VERSIONS => &mut seen.2,
            _ => continue,
        };
        if std::mem::replace(flag, true) {
            return None;
        }
        match kind {
            SERVER_NAME => result.sni = Some(server_name(&mut body)?),
            ALPN => result.alpn = protocols(&mut body)?,
            _ => {
                let len = body.u8()?;
                let versions = body.take(usize::from(len))?;
                result.tls13 = versions.chunks_exact(2).any(|version| version == [3, 4]);
            }
        }
    }
    Some(result)
}

/// RFC 6066, 3: exactly one name, of type host_name.
fn server_name(body: &mut Reader<'_>) -> Option<String> {
    let mut list = body.block()?;
    let kind = list.u8()?;
    let name = list.block()?.0;
    let fits = body.0.is_empty() && list.0.is_empty() && kind == 0 && (1..=253).contains(&name.len());
    let valid = name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    (fits && valid).then(|| name.iter().map(|b| char::from(b.to_ascii_lowercase())).collect())
}

fn protocols(body: &mut Reader<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = body.block()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let len = list.u8()?;
        let name = list.take(usize::from(len))?;
        if name.is_empty() {
            return None;
        }
        protocols.push(name.to_vec());
    }
    body.0.is_empty().then_some(protocols)
}

/// A cursor that never reads past its end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// A part preceded by its length in two bytes.
    fn block(&mut self) -> Option<Reader<'a>> {
        let len = self.u16()?;
        self.take(usize::from(len)).map(Reader)
    }
}
