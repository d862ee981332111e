//! Where the fields of a head lie in its bytes.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::names::{Known, KnownSet};

/// Heads up to this size are copied out of the buffer that they came in. To share a buffer costs more than to copy this
/// much, and while a part of it is in use it is lent to nobody else.
const COPIED: usize = 4096;

/// Takes a head off the front of the input.
pub(super) fn take_head(input: &mut BytesMut, len: usize) -> Bytes {
    match input.get(..len) {
        Some(head) if len <= COPIED => {
            let head = Bytes::copy_from_slice(head);
            input.advance(len);
            head
        }
        _ => input.split_to(len).freeze(),
    }
}

/// One field's place: offsets into the head, 16 bits each (a head is under 64 KiB).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// First byte of the line, which is the name's.
    pub(crate) start: u16,
    pub(crate) name_len: u16,
    pub(crate) value: u16,
    pub(crate) value_len: u16,
    /// One past the line's CR LF.
    pub(crate) end: u16,
    pub(crate) known: Known,
    /// Belongs to this connection alone: by its name, or named in `Connection`.
    pub(crate) hop: bool,
    pub(crate) protected: bool,
}

/// A received field. Name in the sender's case; value without surrounding white space, possibly not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as it came.
    pub name: &'a [u8],
    /// The value as it came.
    pub value: &'a [u8],
    /// The name as a number.
    pub known: Known,
    /// Whether only the mesh may set it.
    pub protected: bool,
    /// Whether it is dropped when the head is forwarded, since it belongs to one connection.
    pub hop_by_hop: bool,
}

/// The bytes of a head and the table of its fields.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    pub(crate) bytes: Bytes,
    places: Vec<Place>,
    pub(crate) present: KnownSet,
    pub(crate) any_protected: bool,
}

impl Fields {
    /// No field yet, and room for so many.
    pub(crate) fn with_capacity(count: usize) -> Fields {
        Fields {
            bytes: Bytes::new(),
            places: Vec::with_capacity(count),
            present: KnownSet::EMPTY,
            any_protected: false,
        }
    }

    pub(crate) fn push(&mut self, place: Place) {
        self.present.insert(place.known);
        self.any_protected |= place.protected;
        self.places.push(place);
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    pub(crate) fn places_mut(&mut self) -> &mut [Place] {
        &mut self.places
    }

    pub(crate) fn slice(&self, start: u16, len: u16) -> &[u8] {
        let start = usize::from(start);
        self.bytes.get(start..start.saturating_add(usize::from(len))).unwrap_or(&[])
    }

    pub(crate) fn name(&self, place: &Place) -> &[u8] {
        self.slice(place.start, place.name_len)
    }

    pub(crate) fn value(&self, place: &Place) -> &[u8] {
        self.slice(place.value, place.value_len)
    }

    pub(crate) fn field(&self, place: &Place) -> Field<'_> {
        Field {
            name: self.name(place),
            value: self.value(place),
            known: place.known,
            protected: place.protected,
            hop_by_hop: place.hop,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Field<'_>> + Clone {
        self.places().iter().map(|place| self.field(place))
    }

    /// The first value of a known name.
    pub(crate) fn get(&self, known: Known) -> Option<&[u8]> {
        if !self.present.contains(known) {
            return None;
        }
        self.places().iter().find(|place| place.known == known).map(|place| self.value(place))
    }

    pub(crate) fn count(&self, known: Known) -> usize {
        if !self.present.contains(known) {
            return 0;
        }
        self.places().iter().filter(|place| place.known == known).count()
    }
}
