//! Where the fields of a head lie in its bytes. Most heads have under two dozen fields, kept inline; a longer list
//! moves to the heap as a whole.

use bytes::Bytes;

use crate::names::{Known, KnownSet};

/// Fields kept without an allocation: browsers send 12–20.
const INLINE: usize = 24;

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

const NOWHERE: Place = Place {
    start: 0,
    name_len: 0,
    value: 0,
    value_len: 0,
    end: 0,
    known: Known::Other,
    hop: false,
    protected: false,
};

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
    inline: [Place; INLINE],
    spilled: Vec<Place>,
    len: usize,
    pub(crate) present: KnownSet,
    pub(crate) any_protected: bool,
}

impl Fields {
    pub(crate) fn new() -> Fields {
        Fields {
            bytes: Bytes::new(),
            inline: [NOWHERE; INLINE],
            spilled: Vec::new(),
            len: 0,
            present: KnownSet::EMPTY,
            any_protected: false,
        }
    }

    pub(crate) fn push(&mut self, place: Place) {
        self.present.insert(place.known);
        self.any_protected |= place.protected;
        if self.spilled.is_empty() {
            if let Some(free) = self.inline.get_mut(self.len) {
                *free = place;
                self.len = self.len.saturating_add(1);
                return;
            }
            self.spilled.extend_from_slice(&self.inline);
        }
        self.spilled.push(place);
        self.len = self.spilled.len();
    }

    pub(crate) fn places(&self) -> &[Place] {
        if self.spilled.is_empty() { self.inline.get(..self.len).unwrap_or(&[]) } else { &self.spilled }
    }

    pub(crate) fn places_mut(&mut self) -> &mut [Place] {
        if self.spilled.is_empty() {
            self.inline.get_mut(..self.len).unwrap_or(&mut [])
        } else {
            &mut self.spilled
        }
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
