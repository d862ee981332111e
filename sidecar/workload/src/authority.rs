//! What gRPC's C library says for `:authority` on a Unix socket.
//!
//! Programs in Python, C++, Ruby and others put the socket's path there, percent-encoded (`run%2Fsignet%2Fw.sock`),
//! which is no authority by RFC 3986, and the HTTP/2 library under us resets every such request. Nobody looks at the
//! value on a Unix socket, so [`Lenient`] makes it legal on its way in: each `%` of an `:authority` becomes a `-`. That
//! is done in place, byte by byte, without a change of any length, so that frames and HPACK's table stay as they
//! are; both ends of the library see one and the same value.
//!
//! [`Rewriter`] follows frames and header fields only as far as it needs to find that one value. What it does not
//! understand passes unchanged, and is for the library to refuse. A value in Huffman's code passes as well: the C
//! library does not use it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// `PRI * HTTP/2.0`, and what follows it.
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const NAME: &[u8] = b":authority";
/// `:authority` in HPACK's static table (RFC 7541, appendix A).
const STATIC_NAME: u32 = 1;

/// Finds `:authority` in what a client sends.
#[derive(Debug)]
pub(crate) struct Rewriter {
    frame: Frame,
    field: Field,
}

/// Where in the stream of frames we are.
#[derive(Debug)]
enum Frame {
    /// So many bytes of the preface are still to come.
    Preface(usize),
    /// Of the header of a frame, what came.
    Header([u8; FRAME_HEADER], usize),
    /// The byte that says how much padding a frame of header fields ends with, `skip` bytes before its fields, `rest`
    /// of it.
    PadLength { skip: usize, rest: usize },
    /// Bytes of header fields, after some and before some that are none.
    Fields { skip: usize, fields: usize, padding: usize },
    /// A frame's rest, of no interest.
    Other(usize),
    /// Not understood: nothing is looked at any more.
    Lost,
}

/// Where in a block of header fields we are (RFC 7541, 6).
#[derive(Debug, Clone, Copy)]
enum Field {
    Begin,
    /// A number that is of no interest goes on.
    Number,
    /// The number that names the name goes on.
    NameIndex {
        value: u32,
        shift: u32,
    },
    /// The first byte of a string.
    Length {
        of: Text,
    },
    /// Its length goes on.
    LengthMore {
        of: Text,
        huffman: bool,
        value: u32,
        shift: u32,
    },
    /// Within a string: so many bytes are left.
    Text {
        of: Text,
        huffman: bool,
        left: u32,
        length: u32,
        is_name: bool,
    },
    Lost,
}

/// Which string it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Name,
    Value { of_authority: bool },
}

impl Default for Rewriter {
    fn default() -> Self {
        Self { frame: Frame::Preface(PREFACE), field: Field::Begin }
    }
}

impl Rewriter {
    /// Looks at what came, and makes it legal.
    pub(crate) fn pass(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.byte(*byte));
    }

    fn byte(&mut self, byte: u8) -> u8 {
        let mut out = byte;
        self.frame = match std::mem::replace(&mut self.frame, Frame::Lost) {
            Frame::Preface(1) => Frame::Header([0; FRAME_HEADER], 0),
            Frame::Preface(left) => Frame::Preface(left.saturating_sub(1)),
            Frame::Header(mut header, at) => {
                if let Some(place) = header.get_mut(at) {
                    *place = byte;
                }
                let next = at.saturating_add(1);
                if next < FRAME_HEADER { Frame::Header(header, next) } else { self.begin(header) }
            }
            Frame::PadLength { skip, rest } => match rest.checked_sub(usize::from(byte)) {
                Some(rest) if skip <= rest => fields(skip, rest.saturating_sub(skip), usize::from(byte)),
                _ => Frame::Lost,
            },
            Frame::Fields { skip: skip @ 1.., fields: left, padding } => {
                fields(skip.saturating_sub(1), left, padding)
            }
            Frame::Fields { fields: left @ 1.., padding, .. } => {
                out = self.field(byte);
                fields(0, left.saturating_sub(1), padding)
            }
            Frame::Fields { padding, .. } => other(padding.saturating_sub(1)),
            Frame::Other(left) => other(left.saturating_sub(1)),
            Frame::Lost => Frame::Lost,
        };
        out
    }

    fn begin(&mut self, header: [u8; FRAME_HEADER]) -> Frame {
        let [a, b, c, kind, flags, ..] = header;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        match kind {
            HEADERS => {
                self.field = Field::Begin;
                let skip = if flags & PRIORITY == 0 { 0 } else { 5 };
                if flags & PADDED == 0 {
                    return length.checked_sub(skip).map_or(Frame::Lost, |left| fields(skip, left, 0));
                }
                length.checked_sub(1).map_or(Frame::Lost, |rest| Frame::PadLength { skip, rest })
            }
            CONTINUATION => fields(0, length, 0),
            _ => other(length),
        }
    }

    /// One byte of header fields.
    fn field(&mut self, byte: u8) -> u8 {
        let mut out = byte;
        self.field = match self.field {
            Field::Begin => match byte {
                // An indexed field, or a new size of the table.
                0x80.. => number(byte, 0x7f),
                0x20..=0x3f => number(byte, 0x1f),
                // A literal: with a place in the table, or without.
                0x40..=0x7f => name_index(byte, 0x3f),
                _ => name_index(byte, 0x0f),
            },
            Field::Number if byte & 0x80 == 0 => Field::Begin,
            Field::Number => Field::Number,
            Field::NameIndex { value, shift } => match grown(byte, value, shift) {
                None => Field::Lost,
                Some(value) if byte & 0x80 == 0 => named(value),
                Some(value) => Field::NameIndex { value, shift: shift.saturating_add(7) },
            },
            Field::Length { of } => match byte & 0x7f {
                0x7f => Field::LengthMore { of, huffman: byte & 0x80 != 0, value: 0x7f, shift: 0 },
                length => text(of, byte & 0x80 != 0, u32::from(length)),
            },
            Field::LengthMore { of, huffman, value, shift } => match grown(byte, value, shift) {
                None => Field::Lost,
                Some(value) if byte & 0x80 == 0 => text(of, huffman, value),
                Some(value) => Field::LengthMore { of, huffman, value, shift: shift.saturating_add(7) },
            },
            Field::Text { of, huffman, left, length, is_name } => {
                let at = usize::try_from(length.saturating_sub(left)).unwrap_or(usize::MAX);
                let is_name = is_name && !huffman && NAME.get(at) == Some(&byte);
                if of == (Text::Value { of_authority: true }) && !huffman && byte == b'%' {
                    out = b'-';
                }
                match left.saturating_sub(1) {
                    0 => end(of, is_name && usize::try_from(length) == Ok(NAME.len())),
                    left => Field::Text { of, huffman, left, length, is_name },
                }
            }
            Field::Lost => Field::Lost,
        };
        out
    }
}

/// What comes next in a frame of header fields.
fn fields(skip: usize, fields: usize, padding: usize) -> Frame {
    match skip.saturating_add(fields).saturating_add(padding) {
        0 => other(0),
        _ => Frame::Fields { skip, fields, padding },
    }
}

fn other(left: usize) -> Frame {
    if left == 0 { Frame::Header([0; FRAME_HEADER], 0) } else { Frame::Other(left) }
}

fn number(byte: u8, prefix: u8) -> Field {
    if byte & prefix == prefix { Field::Number } else { Field::Begin }
}

fn name_index(byte: u8, prefix: u8) -> Field {
    match byte & prefix {
        all if all == prefix => Field::NameIndex { value: u32::from(prefix), shift: 0 },
        index => named(u32::from(index)),
    }
}

fn named(index: u32) -> Field {
    match index {
        0 => Field::Length { of: Text::Name },
        index => Field::Length { of: Text::Value { of_authority: index == STATIC_NAME } },
    }
}

/// A number of several bytes, one of them further (RFC 7541, 5.1); none where it is longer than any honest one.
fn grown(byte: u8, value: u32, shift: u32) -> Option<u32> {
    let more = u32::from(byte & 0x7f).checked_shl(shift).filter(|_| shift <= 21)?;
    value.checked_add(more)
}

fn text(of: Text, huffman: bool, length: u32) -> Field {
    match length {
        0 => end(of, false),
        left => Field::Text { of, huffman, left, length, is_name: of == Text::Name },
    }
}

/// After a string: the value after the name, the next field after the value.
fn end(of: Text, is_authority: bool) -> Field {
    match of {
        Text::Name => Field::Length { of: Text::Value { of_authority: is_authority } },
        Text::Value { .. } => Field::Begin,
    }
}

/// A connection of which the reading side passes a [`Rewriter`].
#[derive(Debug)]
pub(crate) struct Lenient<S> {
    stream: S,
    rewriter: Rewriter,
}

impl<S> Lenient<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, rewriter: Rewriter::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(new) = buffer.filled_mut().get_mut(before..) {
            self.rewriter.pass(new);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(first: u8, name: Option<&[u8]>, value: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        for text in name.into_iter().chain([value]) {
            match u8::try_from(text.len()) {
                Ok(length @ ..0x7f) => out.push(length),
                _ => {
                    let more = text.len() - 0x7f;
                    out.extend([0x7f, 0x80 | (more & 0x7f) as u8, (more >> 7) as u8]);
                }
            }
            out.extend_from_slice(text);
        }
        out
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut out = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        out.extend_from_slice(payload);
        out
    }

    fn passed(frames: &[Vec<u8>], piece: usize) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frames.iter().for_each(|frame| bytes.extend_from_slice(frame));
        let mut rewriter = Rewriter::default();
        bytes.chunks_mut(piece).for_each(|piece| rewriter.pass(piece));
        bytes.split_off(PREFACE)
    }

    #[test]
    fn what_the_c_library_sends_becomes_legal_however_it_is_cut() {
        let mut block = literal(0x40, Some(b":path"), b"/Service/100%25");
        block.extend(literal(0x40, Some(NAME), b"run%2Fsignet%2Fw.sock"));
        block.extend([0x83, 0x86]);
        block.extend(literal(0x40, Some(b"te"), b"trailers%"));
        let settings = frame(0x4, 0, b"%%%%%%");
        let frames = [settings.clone(), frame(HEADERS, 0x4, &block), frame(0x0, 0x1, b"%data%")];
        let expected = String::from_utf8_lossy(&passed(&frames, 4096)).into_owned();
        assert!(expected.contains("run-2Fsignet-2Fw.sock"), "{expected}");
        assert!(expected.contains("/Service/100%25") && expected.contains("trailers%"), "{expected}");
        assert!(expected.contains("%%%%%%") && expected.contains("%data%"), "{expected}");
        for piece in [1, 2, 3, 7, 13] {
            assert_eq!(String::from_utf8_lossy(&passed(&frames, piece)), expected, "{piece}");
        }
    }

    #[test]
    fn padding_priority_continuation_and_the_static_name_are_followed() {
        let field = literal(0x41, None, b"a%2Fb");
        let mut padded = vec![3, 0, 0, 0, 0, 9];
        padded.extend_from_slice(&field);
        padded.extend_from_slice(b"%%%");
        let (head, tail) = field.split_at(4);
        let long = literal(0x00, Some(b"x-long"), &[b'%'; 300]);
        let frames = [
            frame(HEADERS, 0x4 | PADDED | PRIORITY, &padded),
            frame(HEADERS, 0, head),
            frame(CONTINUATION, 0x4, tail),
            frame(HEADERS, 0x4, &[long.as_slice(), &field].concat()),
            frame(HEADERS, 0x4, &[]),
            frame(HEADERS, 0x4, &field),
        ];
        let out = passed(&frames, 5);
        let text = String::from_utf8_lossy(&out);
        let whole = text.matches("a-2Fb").count();
        let cut = text.matches("a-").count();
        assert_eq!((whole, cut), (3, 4), "{text}");
        assert!(text.contains(&"%".repeat(300)) && text.contains("%%%"), "only authorities change");
    }

    #[test]
    fn what_is_not_understood_passes_unchanged() {
        let field = literal(0x41, None, b"a%2Fb");
        for bad in [
            frame(HEADERS, 0x4 | PADDED, &[200, 1, 2]),
            frame(HEADERS, 0x4 | PRIORITY, &[1, 2]),
            frame(HEADERS, 0x4 | PADDED, &[]),
        ] {
            let frames = [bad, frame(HEADERS, 0x4, &field)];
            assert_eq!(passed(&frames, 64), frames.concat());
        }
        // A number without end; and Huffman's code, in which a byte is no character.
        for block in [
            [&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], &field].concat(),
            [&[0x41, 0x85][..], b"%%%%%"].concat(),
        ] {
            let frames = [frame(HEADERS, 0x4, &block)];
            assert_eq!(passed(&frames, 64), frames.concat());
        }
    }
}
