//! Following a body on its way through. Chunked framing is checked and passed on as it came: no re-framing, no copy.
//! Only trailers are held back, since they may carry headers that must not pass.
//!
//! Stricter than RFC 9112, 7.1: chunk extensions are refused (nobody uses them, and parsers disagree about where
//! they end), as is white space around a size, a bare LF, and a size of more than 16 digits.

use bytes::{BufMut, BytesMut};

use super::{
    Field, Framing, Limits,
    fields::Fields,
    parse::{self, FieldsError},
    write,
};
use crate::{
    edits::Edits,
    names::{Known, KnownSet},
    protected::Protected,
};

/// 16 hexadecimal digits are a 64-bit number; more could only be zeros or an overflow.
const MAX_SIZE_DIGITS: u8 = 16;

/// Why a body is refused. Part of it has been forwarded already: both connections close, so that the receiver sees it
/// cut and not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("a chunk's size must be hexadecimal digits and CR LF, without extensions")]
    ChunkSize,
    #[error("a chunk's data must be followed by CR LF")]
    ChunkEnd,
    #[error("the trailer section is larger than the limit")]
    TrailersTooLarge,
    #[error("the trailer section is malformed: {0}")]
    Trailers(&'static str),
    #[error("the connection ended before the body did")]
    Truncated,
}

impl BodyError {
    /// A short constant for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            BodyError::ChunkSize => "chunk_size",
            BodyError::ChunkEnd => "chunk_end",
            BodyError::TrailersTooLarge => "trailers_too_large",
            BodyError::Trailers(_) => "trailers",
            BodyError::Truncated => "truncated",
        }
    }
}

/// What [`Body::advance`] made of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// This many bytes from the front go on as they are (0 from [`Body::advance_payload`], which copied them).
    pub forward: usize,
    /// This many bytes from the front are done with; at least `forward`. What follows belongs to the next message.
    pub consumed: usize,
    /// Bytes of content among them.
    pub payload: u64,
    /// The body is complete: call [`Body::write_end`].
    pub done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    Size {
        value: u64,
        digits: u8,
    },
    SizeLf {
        value: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// After the last chunk: an empty line, or trailers.
    End,
    EndLf,
    Trailers,
    Done,
    Failed(BodyError),
}

/// One body under way.
#[derive(Debug)]
pub struct Body {
    state: State,
    limits: Limits,
    trailers: Option<Box<Trailers>>,
}

#[derive(Debug)]
struct Trailers {
    raw: BytesMut,
    fields: Fields,
}

impl Body {
    /// Follows a body framed like this. [`Framing::Tunnel`] is followed like `UntilClose`.
    pub fn new(framing: Framing, limits: Limits) -> Body {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { value: 0, digits: 0 },
            Framing::UntilClose | Framing::Tunnel => State::UntilClose,
        };
        Body { state, limits: parse::bounded(limits), trailers: None }
    }

    /// Whether the body is complete (at once, when there is none).
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of content that must still come; None unless the length was announced.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Looks at the next bytes of the connection. After an error every later call repeats it.
    pub fn advance(&mut self, input: &[u8]) -> Result<Progress, BodyError> {
        self.run(input, None)
    }

    /// As [`Body::advance`], but appends the bare content to `out`: for HTTP/1.0 clients, and for whoever must read the
    /// body.
    pub fn advance_payload(&mut self, input: &[u8], out: &mut BytesMut) -> Result<Progress, BodyError> {
        let mut progress = self.run(input, Some(out))?;
        progress.forward = 0;
        Ok(progress)
    }

    /// The input ended. An error means that the message is cut and the receiver must learn it by an abrupt close.
    pub fn end_of_input(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Failed(error) => Err(error),
            _ => Err(BodyError::Truncated),
        }
    }

    fn run(&mut self, input: &[u8], mut copy: Option<&mut BytesMut>) -> Result<Progress, BodyError> {
        let mut progress = Progress::default();
        let mut rest = input;
        while let Some(step) = self.step(rest) {
            let step = match step {
                Ok(step) => step,
                Err(error) => {
                    self.state = State::Failed(error);
                    return Err(error);
                }
            };
            let (taken, left) = rest.split_at_checked(step.taken).unwrap_or((rest, &[]));
            progress.consumed = progress.consumed.saturating_add(taken.len());
            match step.kind {
                Kind::Payload => {
                    progress.forward = progress.consumed;
                    progress.payload = progress.payload.saturating_add(taken.len() as u64);
                    if let Some(out) = copy.as_deref_mut() {
                        out.put_slice(taken);
                    }
                }
                Kind::Framing => progress.forward = progress.consumed,
                Kind::Withheld => {}
            }
            rest = left;
        }
        progress.done = self.is_done();
        Ok(progress)
    }

    /// One step through the input; None: it is used up, or the body is done.
    fn step(&mut self, input: &[u8]) -> Option<Result<Step, BodyError>> {
        if let State::Failed(error) = self.state {
            return Some(Err(error));
        }
        let byte = *input.first()?;
        let step = match self.state {
            State::Done | State::Failed(_) => return None,
            State::UntilClose => Step::payload(input.len()),
            State::Length(left) => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let left = left.saturating_sub(taken as u64);
                self.state = if left == 0 { State::Done } else { State::Length(left) };
                Step::payload(taken)
            }
            State::Data(left) => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let left = left.saturating_sub(taken as u64);
                self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                Step::payload(taken)
            }
            State::Size { value, digits } => match (byte, char::from(byte).to_digit(16)) {
                (_, Some(digit)) if digits < MAX_SIZE_DIGITS => {
                    let value = value << 4 | u64::from(digit);
                    self.state = State::Size { value, digits: digits.saturating_add(1) };
                    Step::FRAMING
                }
                (b'\r', _) if digits > 0 => {
                    self.state = State::SizeLf { value };
                    Step::FRAMING
                }
                _ => return Some(Err(BodyError::ChunkSize)),
            },
            State::SizeLf { value } => {
                if byte != b'\n' {
                    return Some(Err(BodyError::ChunkSize));
                }
                self.state = if value == 0 { State::End } else { State::Data(value) };
                Step::FRAMING
            }
            State::DataCr | State::DataLf => {
                let (expected, next) = match self.state {
                    State::DataCr => (b'\r', State::DataLf),
                    _ => (b'\n', State::Size { value: 0, digits: 0 }),
                };
                if byte != expected {
                    return Some(Err(BodyError::ChunkEnd));
                }
                self.state = next;
                Step::FRAMING
            }
            State::End if byte == b'\r' => {
                self.state = State::EndLf;
                Step::FRAMING
            }
            State::EndLf => {
                if byte != b'\n' {
                    return Some(Err(BodyError::ChunkEnd));
                }
                self.state = State::Done;
                Step::FRAMING
            }
            State::End | State::Trailers => {
                self.state = State::Trailers;
                return Some(self.hold_trailers(input));
            }
        };
        Some(Ok(step))
    }

    /// Gathers the trailer section up to its empty line.
    fn hold_trailers(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        let trailers = self.trailers.get_or_insert_with(|| {
            Box::new(Trailers { raw: BytesMut::new(), fields: Fields::with_capacity(0) })
        });
        let mut taken = 0usize;
        for byte in input {
            if trailers.raw.len() >= self.limits.trailers {
                return Err(BodyError::TrailersTooLarge);
            }
            trailers.raw.put_u8(*byte);
            taken = taken.saturating_add(1);
            if *byte == b'\n' && trailers.raw.ends_with(b"\n\r\n") {
                trailers.read(&self.limits)?;
                self.state = State::Done;
                break;
            }
        }
        Ok(Step { taken, kind: Kind::Withheld })
    }

    /// The trailers, once the body is done.
    pub fn trailers(&self) -> impl Iterator<Item = Field<'_>> + Clone {
        self.trailers.iter().flat_map(|trailers| trailers.fields.iter())
    }

    /// Writes what was held back: the trailers that may pass, and the empty line after them. Nothing, when there were
    /// none (the end has been forwarded then). Returns how many protected fields were dropped.
    pub fn write_end(&self, protected: &Protected, out: &mut BytesMut) -> u32 {
        let Some(trailers) = &self.trailers else { return 0 };
        let mut ours = KnownSet::EMPTY;
        for known in Known::ALL {
            // RFC 9110, 6.5.1: nothing that frames, routes or authenticates belongs into trailers.
            if known.is_not_removable() || matches!(known, Known::Expect | Known::Trailer) {
                ours.insert(*known);
            }
        }
        let mut counted = ours;
        for name in [Known::TxnToken, Known::Xfcc] {
            counted.remove(name);
        }
        let dropped = write::copy_fields(&trailers.fields, &Edits::new(), protected, counted, out);
        out.put_slice(b"\r\n");
        dropped
    }
}

impl Trailers {
    fn read(&mut self, limits: &Limits) -> Result<(), BodyError> {
        let mut table = [httparse::EMPTY_HEADER; Limits::MAX_FIELDS];
        let table = table.get_mut(..limits.fields).unwrap_or_default();
        let raw = self.raw.split().freeze();
        let headers = match httparse::parse_headers(&raw, table) {
            Ok(httparse::Status::Complete((len, headers))) if len == raw.len() => headers,
            Ok(_) => return Err(BodyError::Trailers("an empty line inside")),
            Err(error) => return Err(BodyError::Trailers(parse::complaint(error))),
        };
        self.fields = parse::collect_trailers(&raw, headers).map_err(|error| match error {
            FieldsError::BareLineEnd => BodyError::Trailers("a bare CR or LF"),
            FieldsError::TooLarge => BodyError::TrailersTooLarge,
        })?;
        self.fields.bytes = raw;
        Ok(())
    }
}

/// How many bytes a step took, and what they are.
struct Step {
    taken: usize,
    kind: Kind,
}

enum Kind {
    Payload,
    Framing,
    Withheld,
}

impl Step {
    const FRAMING: Step = Step { taken: 1, kind: Kind::Framing };

    const fn payload(taken: usize) -> Step {
        Step { taken, kind: Kind::Payload }
    }
}
