//! Bodies: the whole story of the framing state machine, in any split of the input.

use bytes::BytesMut;
use proptest::prelude::*;
use signet_wire::{
    h1::{Body, BodyError, Framing, Limits},
    protected::Protected,
};

/// What a body made of its input.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    forwarded: Vec<u8>,
    content: Vec<u8>,
    left: Vec<u8>,
    end: Vec<u8>,
    dropped: u32,
}

/// Feeds `input` in pieces of the given sizes (then the rest), both ways of reading it at once.
fn follow(framing: Framing, input: &[u8], pieces: &[usize]) -> Result<Outcome, BodyError> {
    let mut body = Body::new(framing, Limits::default());
    let mut reader = Body::new(framing, Limits::default());
    let mut outcome = Outcome { forwarded: vec![], content: vec![], left: vec![], end: vec![], dropped: 0 };
    let mut content = BytesMut::new();
    let mut rest = input;
    let mut pieces = pieces.iter().copied();
    while !body.is_done() && !rest.is_empty() {
        let size = pieces.next().unwrap_or(rest.len()).clamp(1, rest.len());
        let before = content.len();
        let progress = body.advance(&rest[..size])?;
        let other = reader.advance_payload(&rest[..size], &mut content)?;
        assert_eq!(
            (progress.consumed, progress.payload, progress.done),
            (other.consumed, other.payload, other.done)
        );
        assert_eq!(progress.payload as usize, content.len() - before);
        assert!(progress.forward <= progress.consumed && progress.consumed <= size);
        assert!(progress.done || progress.consumed == size, "everything is taken until the end");
        outcome.forwarded.extend_from_slice(&rest[..progress.forward]);
        rest = &rest[progress.consumed..];
    }
    body.end_of_input()?;
    outcome.content = content.to_vec();
    outcome.left = rest.to_vec();
    let mut end = BytesMut::new();
    outcome.dropped = body.write_end(&Protected::default(), &mut end);
    outcome.end = end.to_vec();
    Ok(outcome)
}

#[test]
fn a_body_of_known_length_ends_there() {
    let outcome = follow(Framing::Length(5), b"helloGET /", &[2, 1]).unwrap();
    assert_eq!((&outcome.forwarded[..], &outcome.left[..]), (&b"hello"[..], &b"GET /"[..]));
    assert_eq!(follow(Framing::Length(5), b"hell", &[]), Err(BodyError::Truncated));
    assert!(Body::new(Framing::Length(0), Limits::default()).is_done());
    assert!(Body::new(Framing::None, Limits::default()).is_done());
}

#[test]
fn a_body_until_close_ends_by_the_end_of_input_only() {
    let outcome = follow(Framing::UntilClose, b"anything\r\n0\r\n\r\n", &[3]).unwrap();
    assert_eq!(outcome.forwarded, b"anything\r\n0\r\n\r\n");
}

#[test]
fn chunks_pass_as_they_came() {
    let wire = b"5\r\nhello\r\n00a\r\n0123456789\r\n0\r\n\r\nnext";
    let outcome = follow(Framing::Chunked, wire, &[]).unwrap();
    assert_eq!(outcome.forwarded, &wire[..wire.len() - 4]);
    assert_eq!(outcome.content, b"hello0123456789");
    assert_eq!((&outcome.left[..], &outcome.end[..]), (&b"next"[..], &b""[..]));
}

#[test]
fn trailers_are_withheld_and_written_without_what_may_not_pass() {
    let wire = b"1\r\na\r\n0\r\nX-Checksum: 1\r\nTxn_Token: forged\r\nContent-Length: 9\r\nSIGNET-User: forged\r\n\
                 Authorization: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\ngrpc-status: 0\r\n\r\nnext";
    for pieces in [&[][..], &[1; 300][..], &[8, 3, 200][..]] {
        let outcome = follow(Framing::Chunked, wire, pieces).unwrap();
        assert_eq!(outcome.forwarded, b"1\r\na\r\n0\r\n");
        assert_eq!(outcome.end, b"X-Checksum: 1\r\ngrpc-status: 0\r\n\r\n");
        assert_eq!((outcome.dropped, &outcome.left[..]), (2, &b"next"[..]));
    }
}

#[test]
fn what_is_not_strictly_chunked_is_refused() {
    for (wire, error) in [
        ("5;ext=1\r\nhello\r\n", BodyError::ChunkSize),
        ("5 \r\nhello\r\n", BodyError::ChunkSize),
        (" 5\r\nhello\r\n", BodyError::ChunkSize),
        ("0x5\r\nhello\r\n", BodyError::ChunkSize),
        ("+5\r\nhello\r\n", BodyError::ChunkSize),
        ("-5\r\nhello\r\n", BodyError::ChunkSize),
        ("\r\nhello\r\n", BodyError::ChunkSize),
        ("5\nhello\r\n", BodyError::ChunkSize),
        ("5\r\r\nhello\r\n", BodyError::ChunkSize),
        ("5\rhello", BodyError::ChunkSize),
        ("g\r\n", BodyError::ChunkSize),
        ("10000000000000005\r\nhello\r\n", BodyError::ChunkSize),
        ("00000000000000005\r\nhello\r\n", BodyError::ChunkSize),
        ("5\r\nhello0\r\n", BodyError::ChunkEnd),
        ("5\r\nhello\n0\r\n", BodyError::ChunkEnd),
        ("5\r\nhello\r0\r\n", BodyError::ChunkEnd),
        ("0\r\n\rX", BodyError::ChunkEnd),
        ("0\r\na: b\n\r\n", BodyError::Trailers("a bare CR or LF")),
        ("5\r\nhel", BodyError::Truncated),
        ("5\r\nhello\r\n", BodyError::Truncated),
        ("0\r\n", BodyError::Truncated),
        ("0\r\na: b\r\n", BodyError::Truncated),
    ] {
        assert_eq!(follow(Framing::Chunked, wire.as_bytes(), &[]), Err(error), "{wire:?}");
        assert_eq!(follow(Framing::Chunked, wire.as_bytes(), &[1; 64]), Err(error), "{wire:?}");
    }
    for wire in [
        "0\r\na : b\r\n\r\n",
        "0\r\n a: b\r\n\r\n",
        "0\r\na: b\r\n c\r\n\r\n",
        "0\r\nnonsense\r\n\r\n",
        "0\r\n\n\r\n",
    ] {
        assert!(
            matches!(follow(Framing::Chunked, wire.as_bytes(), &[]), Err(BodyError::Trailers(_))),
            "{wire:?}"
        );
    }
}

#[test]
fn an_error_is_repeated_and_nothing_more_is_forwarded() {
    let mut body = Body::new(Framing::Chunked, Limits::default());
    assert_eq!(body.advance(b"zz"), Err(BodyError::ChunkSize));
    assert_eq!(body.advance(b"0\r\n\r\n"), Err(BodyError::ChunkSize));
    assert_eq!(body.end_of_input(), Err(BodyError::ChunkSize));
}

#[test]
fn endless_trailers_are_refused_at_the_limit() {
    let mut body = Body::new(Framing::Chunked, Limits { trailers: 100, ..Limits::default() });
    body.advance(b"0\r\n").unwrap();
    let refused = (0..101).find_map(|_| body.advance(b"a").err());
    assert_eq!(refused, Some(BodyError::TrailersTooLarge));
}

fn chunked() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let chunks = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6);
    (chunks, any::<bool>()).prop_map(|(chunks, trailers)| {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(if trailers { b"0\r\nX-T: 1\r\n\r\n" } else { b"0\r\n\r\n" });
        (wire, chunks.concat())
    })
}

proptest! {
    #[test]
    fn the_split_of_the_input_does_not_matter((wire, content) in chunked(), pieces in proptest::collection::vec(1usize..20, 0..60)) {
        let whole = follow(Framing::Chunked, &wire, &[]).unwrap();
        let split = follow(Framing::Chunked, &wire, &pieces).unwrap();
        prop_assert_eq!(&whole, &split);
        prop_assert_eq!(&whole.content, &content);
        let together = [&whole.forwarded[..], &whole.end[..]].concat();
        prop_assert_eq!(together, wire);
    }

    #[test]
    fn no_input_panics_or_takes_more_than_there_is(bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'5'), Just(b':'), any::<u8>()], 0..100), pieces in proptest::collection::vec(1usize..20, 0..20)) {
        for framing in [Framing::Chunked, Framing::Length(17), Framing::UntilClose] {
            let _ = follow(framing, &bytes, &pieces);
        }
    }
}
