//! The two headers in which tracing libraries carry a handle of ours from the request that an app serves to those that it
//! makes: `baggage` (W3C Baggage) and `tracestate` (W3C Trace Context).
//!
//! A member that speaks of a handle is the mesh's own. [`take`] reads what an app's own call brings, and takes it out of the
//! request; [`strip`] only takes out; [`offer`] takes out what somebody else put there and says ours instead. A member is
//! told by its *decoded* key ([`spelling`]), since libraries decode keys and send them on as plain ones: what one reader
//! would find must not pass another. Everything else that a line says goes on as it came, but where [`offer`] has to write
//! it anew: there, what the grammar does not allow would make some library throw the whole line away, ours with it.
//!
//! Promise: after any of the three no line that goes on has a member by which anybody would find a handle, but ours.

mod offer;
pub mod spelling;

use http::{HeaderName, HeaderValue};

use crate::{Edits, Known, RequestView};

pub use offer::{Offered, offer};

/// The key in `baggage`.
pub const BAGGAGE_KEY: &str = "signet.ctx";
/// The key in `tracestate`, where a key has no dots.
pub const TRACESTATE_KEY: &str = "signet";

/// A handle as it is written: unpadded base64url, which every library that was measured leaves as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle([u8; Handle::LEN]);

impl Handle {
    /// Characters: 24 bytes.
    pub const LEN: usize = 32;

    /// Reads a handle; nothing else is one.
    pub fn parse(text: &[u8]) -> Option<Handle> {
        let is_ours = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let text: [u8; Handle::LEN] = text.try_into().ok()?;
        text.iter().all(is_ours).then_some(Handle(text))
    }

    /// As it is written.
    pub fn as_bytes(&self) -> &[u8; Handle::LEN] {
        &self.0
    }
}

impl std::fmt::Debug for Handle {
    /// Whoever reads logs has no use for it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

/// Which header carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// `baggage`
    Baggage,
    /// `tracestate`
    Tracestate,
}

impl Carrier {
    const BOTH: [Carrier; 2] = [Carrier::Baggage, Carrier::Tracestate];

    const fn known(self) -> Known {
        match self {
            Carrier::Baggage => Known::Baggage,
            Carrier::Tracestate => Known::Tracestate,
        }
    }

    const fn name(self) -> HeaderName {
        match self {
            Carrier::Baggage => HeaderName::from_static("baggage"),
            Carrier::Tracestate => HeaderName::from_static("tracestate"),
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Carrier::Baggage => BAGGAGE_KEY,
            Carrier::Tracestate => TRACESTATE_KEY,
        }
    }

    /// The members of all its lines, without the blanks around them and without empty ones.
    fn members(self, head: RequestView<'_>) -> impl Iterator<Item = &[u8]> {
        head.get_all(self.known().text())
            .flat_map(|line| line.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|member| !member.is_empty())
    }

    /// What this member says as a handle, if it is written as we write it.
    fn handle(self, member: &[u8]) -> Option<Handle> {
        let rest = member.strip_prefix(self.key().as_bytes())?.trim_ascii_start();
        let value = rest.strip_prefix(b"=")?;
        Handle::parse(value.trim_ascii())
    }
}

/// What an app's own call says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Found {
    /// Nothing that speaks of a handle.
    #[default]
    Nothing,
    /// One handle, and by which carriers it came.
    One {
        /// The handle.
        handle: Handle,
        /// Whether `baggage` had it.
        baggage: bool,
        /// Whether `tracestate` had it.
        tracestate: bool,
    },
    /// Something that is no handle.
    Malformed,
    /// Several that differ: nobody can say which one is meant. Two of them are kept.
    Several([Option<Handle>; 2]),
}

impl Found {
    fn add(self, carrier: Carrier, said: Option<Handle>) -> Found {
        match (self, said) {
            (Found::Nothing, None) => Found::Malformed,
            (Found::Nothing, Some(handle)) => Found::One {
                handle,
                baggage: carrier == Carrier::Baggage,
                tracestate: carrier == Carrier::Tracestate,
            },
            (Found::One { handle, baggage, tracestate }, Some(same)) if same == handle => Found::One {
                handle,
                baggage: baggage || carrier == Carrier::Baggage,
                tracestate: tracestate || carrier == Carrier::Tracestate,
            },
            (Found::One { handle, .. }, said) => Found::Several([Some(handle), said]),
            (Found::Malformed, None) => Found::Malformed,
            (Found::Malformed, said) => Found::Several([said, None]),
            (Found::Several([first, None]), said) if said != first => Found::Several([first, said]),
            (several, _) => several,
        }
    }

    /// Whether there is anything.
    pub fn is_nothing(&self) -> bool {
        *self == Found::Nothing
    }

    /// The handles that were told apart: none, one or two.
    pub fn handles(&self) -> [Option<Handle>; 2] {
        match self {
            Found::Nothing | Found::Malformed => [None, None],
            Found::One { handle, .. } => [Some(*handle), None],
            Found::Several(handles) => *handles,
        }
    }
}

/// Reads what speaks of handles and takes it out of the request.
pub fn take(head: RequestView<'_>, edits: &mut Edits) -> Found {
    let mut found = Found::default();
    for carrier in Carrier::BOTH {
        // Most requests have neither header.
        if head.get(carrier.known()).is_none() {
            continue;
        }
        let mut any = false;
        for member in carrier.members(head).filter(|member| spelling::is_ours(carrier, member)) {
            found = found.add(carrier, carrier.handle(member));
            any = true;
        }
        if any {
            rewrite(carrier, head, edits);
        }
    }
    found
}

/// Takes out what speaks of handles; how many members there were.
pub fn strip(head: RequestView<'_>, edits: &mut Edits) -> u32 {
    let mut stripped = 0u32;
    for carrier in Carrier::BOTH {
        if head.get(carrier.known()).is_none() {
            continue;
        }
        let ours = carrier.members(head).filter(|member| spelling::is_ours(carrier, member)).count();
        if ours > 0 {
            stripped = stripped.saturating_add(u32::try_from(ours).unwrap_or(u32::MAX));
            rewrite(carrier, head, edits);
        }
    }
    stripped
}

/// Says a carrier's lines anew, as one, without what speaks of handles.
fn rewrite(carrier: Carrier, head: RequestView<'_>, edits: &mut Edits) {
    // A route says this header itself, or takes it out: then what came goes nowhere.
    if edits.removes(carrier.known()) {
        return;
    }
    let mut line = Vec::new();
    for member in carrier.members(head).filter(|member| !spelling::is_ours(carrier, member)) {
        join(&mut line, member);
    }
    edits.remove(carrier.name());
    put(carrier, line, edits);
}

fn join(line: &mut Vec<u8>, member: &[u8]) {
    if !line.is_empty() {
        line.push(b',');
    }
    line.extend_from_slice(member);
}

/// Adds a line unless it is empty. What came in a value may go in one.
fn put(carrier: Carrier, line: Vec<u8>, edits: &mut Edits) {
    if line.is_empty() {
        return;
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(line)) {
        edits.append(carrier.name(), value);
    }
}

#[cfg(test)]
mod tests;
