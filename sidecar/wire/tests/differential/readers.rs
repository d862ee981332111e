//! One stream of bytes, read by us and by hyper. Shared with the fuzz targets in `tests/fuzz`.
//!
//! The claim: every message that we accept, hyper accepts as well, with the same method, target, fields, content and
//! end, both as it came and as we forward it. The other way round does not hold: we are stricter (see `main.rs`).

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use signet_wire::{
    Edits,
    canon::Target,
    h1::{
        Asked, Body, Framing, Limits, Persist, RequestHead, RequestParser, ResponseHead, ResponseParser,
        Upgrade,
    },
    protected::Protected,
};
use tokio::io::AsyncWriteExt;

/// A message as a reader understood it. Fields are sorted by name; several of one name keep their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Method and target, or the status.
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) content: Vec<u8>,
}

/// What we make of a stream.
#[derive(Debug, Default)]
pub(crate) struct Ours {
    pub(crate) messages: Vec<Message>,
    /// The accepted messages as we forward them.
    pub(crate) forwarded: BytesMut,
    /// Whether the stream ended in something refused (and not merely incomplete).
    pub(crate) refused: bool,
}

fn sorted(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

fn fields<'a>(all: impl Iterator<Item = signet_wire::h1::Field<'a>>) -> Vec<(String, Vec<u8>)> {
    sorted(all.map(|f| (String::from_utf8_lossy(f.name).to_ascii_lowercase(), f.value.to_vec())).collect())
}

/// Takes one body off the stream; returns its content, or None when it is refused or incomplete.
fn body(
    framing: Framing,
    input: &mut BytesMut,
    forwarded: &mut BytesMut,
    refused: &mut bool,
) -> Option<Vec<u8>> {
    let limits = Limits::default();
    let (mut body, mut reader, mut content) =
        (Body::new(framing, limits), Body::new(framing, limits), BytesMut::new());
    if !body.is_done() {
        let (Ok(progress), Ok(_)) = (body.advance(input), reader.advance_payload(input, &mut content)) else {
            *refused = true;
            return None;
        };
        forwarded.extend_from_slice(&input[..progress.forward]);
        let _ = input.split_to(progress.consumed);
        body.end_of_input().ok()?;
    }
    body.write_end(&Protected::default(), forwarded);
    Some(content.to_vec())
}

/// Reads requests until one is refused or incomplete, closes the connection, or leaves HTTP.
pub(crate) fn our_requests(wire: &[u8]) -> Ours {
    let mut ours = Ours::default();
    let mut parser = RequestParser::new(Limits::default());
    let mut input = BytesMut::from(wire);
    loop {
        let head: RequestHead = match parser.parse(&mut input) {
            Ok(Some(head)) => head,
            Ok(None) => return ours,
            Err(_) => {
                ours.refused = true;
                return ours;
            }
        };
        let mut out = BytesMut::new();
        head.write(&Edits::new(), &Protected::default(), &mut out);
        let Some(content) = body(head.framing(), &mut input, &mut out, &mut ours.refused) else {
            return ours;
        };
        let line = format!("{} {}", head.method(), head.target().as_str());
        ours.messages.push(Message { line, fields: fields(head.fields()), content });
        ours.forwarded.unsplit(out);
        if !head.keep_alive() || head.upgrade() != Upgrade::None {
            return ours;
        }
    }
}

/// Reads the answers to one request, the final one included.
pub(crate) fn our_response(wire: &[u8], asked: Asked) -> Ours {
    let mut ours = Ours::default();
    let mut parser = ResponseParser::new(Limits::default());
    let mut input = BytesMut::from(wire);
    loop {
        let head: ResponseHead = match parser.parse(&mut input, asked) {
            Ok(Some(head)) => head,
            Ok(None) => return ours,
            Err(_) => {
                ours.refused = true;
                return ours;
            }
        };
        let persist = if head.framing() == Framing::UntilClose { Persist::Close } else { Persist::Keep };
        head.write(&Edits::new(), persist, &Protected::default(), &mut ours.forwarded);
        if head.is_interim() {
            continue;
        }
        let framing = if head.framing() == Framing::Tunnel { Framing::None } else { head.framing() };
        let Some(content) = body(framing, &mut input, &mut ours.forwarded, &mut ours.refused) else {
            return ours;
        };
        let line = head.status().to_string();
        ours.messages.push(Message { line, fields: fields(head.fields()), content });
        return ours;
    }
}

fn hyper_fields(headers: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    sorted(headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// Feeds bytes and then the end of input to one side of a pipe, and drains what comes back.
async fn feed(mut side: tokio::io::DuplexStream, wire: Vec<u8>) {
    let _ = side.write_all(&wire).await;
    let _ = side.shutdown().await;
    let mut sink = tokio::io::sink();
    let _ = tokio::io::copy(&mut side, &mut sink).await;
}

/// The requests that hyper's server hands to a service, complete ones only.
pub(crate) fn hypers_requests(wire: &[u8]) -> Vec<Message> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (near, far) = tokio::io::duplex(1 << 20);
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(content) = body.collect().await {
                let target = parts.uri.path_and_query().map_or(String::new(), ToString::to_string);
                let line = format!("{} {target}", parts.method);
                let content = content.to_bytes().to_vec();
                seen.borrow_mut().push(Message { line, fields: hyper_fields(&parts.headers), content });
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    run(async {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.half_close(true).max_headers(200);
        let _ = tokio::join!(builder.serve_connection(TokioIo::new(far), service), feed(near, wire.to_vec()));
    });
    seen.take()
}

/// The answer that hyper's client reads, if it is complete.
pub(crate) fn hypers_response(wire: &[u8], asked: Asked) -> Option<Message> {
    let (near, far) = tokio::io::duplex(1 << 20);
    run(async {
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_headers(200);
        let (mut sender, connection) = builder.handshake(TokioIo::new(far)).await.ok()?;
        let mut request = Request::builder().uri("/").header("host", "x");
        if asked.head {
            request = request.method("HEAD");
        }
        if asked.connect {
            request = request.method("CONNECT").uri("x:1");
        }
        if asked.websocket {
            request = request.header("connection", "upgrade").header("upgrade", "websocket");
        }
        let request = request.body(Empty::<Bytes>::new()).ok()?;
        let exchange = async {
            let response = sender.send_request(request).await.ok()?;
            let (parts, body) = response.into_parts();
            let switched = parts.status == 101 || (asked.connect && parts.status.is_success());
            let content = if switched { Vec::new() } else { body.collect().await.ok()?.to_bytes().to_vec() };
            Some(Message {
                line: parts.status.as_u16().to_string(),
                fields: hyper_fields(&parts.headers),
                content,
            })
        };
        // The answer may only be sent when the request has come.
        let peer = async {
            let mut near = near;
            let mut byte = [0];
            let _ = tokio::io::AsyncReadExt::read(&mut near, &mut byte).await;
            feed(near, wire.to_vec()).await;
        };
        let driver = async {
            let _ = connection.with_upgrades().await;
        };
        let (message, (), ()) = tokio::join!(exchange, peer, driver);
        message
    })
}

/// Brings hyper's target into our canon; everything else must be equal as it is.
fn comparable(mut message: Message) -> Message {
    if let Some((method, target)) = message.line.split_once(' ')
        && let Ok(canonical) = Target::new(Bytes::from(target.to_owned()))
    {
        message.line = format!("{method} {}", canonical.as_str());
    }
    message
}

/// Panics if hyper reads a request that we accept differently, as it came or as we forward it.
pub(crate) fn compare_requests(wire: &[u8]) -> usize {
    let ours = our_requests(wire);
    if ours.messages.is_empty() {
        return 0;
    }
    let theirs: Vec<Message> = hypers_requests(wire).into_iter().map(comparable).collect();
    assert!(
        theirs.len() >= ours.messages.len(),
        "we accept {} messages, hyper only {}\nours: {:#?}\nhyper's: {theirs:#?}",
        ours.messages.len(),
        theirs.len(),
        ours.messages
    );
    for (our, their) in ours.messages.iter().zip(&theirs) {
        // RFC 9112, 3.2.4: `OPTIONS http://x` means `*`; the `http` crate makes it `/`.
        let line = if our.line == "OPTIONS *" && their.line == "OPTIONS /" { &our.line } else { &their.line };
        let their = Message { line: line.clone(), ..their.clone() };
        assert_eq!(*our, their, "the same bytes, read differently");
    }
    let forwarded = hypers_requests(&ours.forwarded);
    assert_eq!(
        forwarded.len(),
        ours.messages.len(),
        "what we forward has other messages: {:?}",
        ours.forwarded
    );
    for (our, their) in ours.messages.iter().zip(&forwarded) {
        assert_eq!(
            (&our.line, &our.content),
            (&their.line, &their.content),
            "what we forward is read differently"
        );
    }
    ours.messages.len()
}

/// Panics if hyper reads an answer that we accept differently, as it came or as we forward it.
pub(crate) fn compare_response(wire: &[u8], asked: Asked) -> usize {
    let ours = our_response(wire, asked);
    let Some(our) = ours.messages.first() else { return 0 };
    let their = hypers_response(wire, asked);
    assert_eq!(Some(our), their.as_ref(), "the same bytes, read differently");
    let forwarded = hypers_response(&ours.forwarded, asked);
    let forwarded = forwarded.as_ref().map(|message| (&message.line, &message.content));
    assert_eq!(forwarded, Some((&our.line, &our.content)), "what we forward is read differently");
    1
}
