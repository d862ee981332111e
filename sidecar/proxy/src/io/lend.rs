//! Buffers that are lent after there is something to put in them.
//!
//! An idle connection holds no buffer at all. A read borrows one from its thread's shelf, tries the
//! read, and gives the buffer back when there was nothing to read; it keeps it only while it holds
//! bytes. The shelf is small, and what nobody has borrowed for a second is given back to the allocator by and by.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use bytes::BytesMut;

/// One TLS record of plaintext, and the usual head with room to spare.
pub(crate) const BUFFER: usize = 16 * 1024;

/// What a stream that fills its buffers reads at once: four records.
pub(crate) const BULK: usize = 4 * BUFFER;

/// Buffers that a thread keeps for the next reader: 32 of them are half a megabyte, a whole one if all grew.
const SHELF: usize = 32;

/// Large ones that it keeps, for as many streams as are read in bulk in one turn: a quarter of a megabyte.
const LARGE_SHELF: usize = 4;

thread_local! {
    static FREE: RefCell<Shelves> = const { RefCell::new(Shelves { usual: Shelf::new(), large: Shelf::new() }) };
}

struct Shelves {
    usual: Shelf,
    large: Shelf,
}

struct Shelf {
    buffers: Vec<BytesMut>,
    /// As few were there since the last look: so many nobody needed.
    spare: usize,
}

impl Shelf {
    const fn new() -> Self {
        Shelf { buffers: Vec::new(), spare: 0 }
    }

    fn pop(&mut self) -> Option<BytesMut> {
        let buffer = self.buffers.pop();
        self.spare = self.spare.min(self.buffers.len());
        buffer
    }

    /// Gives back half of what nobody needed, but for one.
    fn tidy(&mut self) {
        let keep = self.buffers.len() - self.spare / 2;
        self.buffers.truncate(keep);
        self.spare = keep;
    }
}

/// Gives back buffers of this thread that nobody has borrowed since the last call. Called by the clock.
pub(crate) fn tidy() {
    let _ = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        free.usual.tidy();
        free.large.tidy();
    });
}

impl Shelves {
    fn take(&mut self, room: usize) -> Option<BytesMut> {
        if room > 2 * BUFFER { self.large.pop() } else { self.usual.pop() }
    }

    /// Keeps an empty buffer, or gives it to the allocator.
    fn put(&mut self, buffer: BytesMut) {
        let (shelf, most) = match buffer.capacity() {
            BUFFER..=TWICE => (&mut self.usual, SHELF),
            BULK..=TWICE_BULK => (&mut self.large, LARGE_SHELF),
            // One that grew for a large head was an exception.
            _ => return,
        };
        if shelf.buffers.len() < most {
            shelf.buffers.push(buffer);
        }
    }
}

const TWICE: usize = 2 * BUFFER;
const TWICE_BULK: usize = 2 * BULK;

/// A byte buffer that goes back to its thread's shelf when it is dropped.
#[derive(Debug)]
pub(crate) struct Lent {
    buffer: BytesMut,
    /// Whether there is a buffer to give back; one whose room is used up does not look like it.
    lent: bool,
}

impl Lent {
    /// Borrows an empty buffer with [`BUFFER`] bytes of room.
    pub(crate) fn take() -> Self {
        Lent::with_room(BUFFER)
    }

    fn with_room(room: usize) -> Self {
        let taken = FREE.try_with(|free| free.borrow_mut().take(room)).ok().flatten();
        let mut buffer = taken.unwrap_or_default();
        buffer.reserve(room.max(BUFFER));
        Lent { buffer, lent: true }
    }

    /// A buffer without room, which costs nothing: what an idle connection holds.
    pub(crate) fn none() -> Self {
        Lent { buffer: BytesMut::new(), lent: false }
    }

    /// Makes room for more, borrowing a buffer if there was none.
    pub(crate) fn make_room(&mut self, room: usize) {
        if self.lent && self.buffer.capacity() - self.buffer.len() >= room && self.buffer.capacity() != 0 {
            return;
        }
        if self.buffer.is_empty() {
            // Growing an empty buffer would copy nothing of worth into a new place.
            *self = Lent::with_room(room);
        } else {
            self.buffer.reserve(room.max(BUFFER));
        }
    }

    /// Gives the buffer back if nothing is in it.
    pub(crate) fn release_if_empty(&mut self) {
        if self.lent && self.buffer.is_empty() {
            *self = Lent::none();
        }
    }
}

impl Deref for Lent {
    type Target = BytesMut;
    fn deref(&self) -> &BytesMut {
        &self.buffer
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.lent {
            return;
        }
        let mut kept = std::mem::take(&mut self.buffer);
        kept.clear();
        // One that a part still refers to has no room.
        if !kept.try_reclaim(BUFFER) {
            return;
        }
        // At the end of a thread the shelf may be gone already; then the allocator takes it.
        let _ = FREE.try_with(|free| free.borrow_mut().put(kept));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_lent_again_and_empty() {
        let mut first = Lent::take();
        first.extend_from_slice(b"head and body");
        let place = first.as_ptr();
        drop(first.split_to(5));
        drop(first);
        let second = Lent::take();
        assert_eq!(second.as_ptr(), place);
        assert!(second.is_empty());
    }

    #[test]
    fn a_buffer_that_grew_or_is_still_referred_to_is_not_kept() {
        FREE.with(|free| free.borrow_mut().usual.buffers.clear());
        let mut grown = Lent::take();
        grown.reserve(10 * BUFFER);
        drop(grown);
        let mut shared = Lent::take();
        shared.extend_from_slice(b"head");
        let head = shared.split_to(4).freeze();
        drop(shared);
        assert!(FREE.with(|free| free.borrow().usual.buffers.is_empty() && free.borrow().large.buffers.is_empty()));
        assert_eq!(&head[..], b"head");
    }

    #[test]
    fn a_buffer_for_bulk_is_lent_again_for_bulk_only() {
        FREE.with(|free| free.borrow_mut().large.buffers.clear());
        let mut bulk = Lent::take();
        bulk.make_room(BULK);
        let place = bulk.as_ptr();
        bulk.extend_from_slice(&[1; BULK]);
        // Taken from the front, as readers do, until no room is to be seen.
        bytes::Buf::advance(&mut *bulk, BULK);
        drop(bulk);
        let usual = Lent::take();
        assert_ne!(usual.as_ptr(), place);
        let mut again = Lent::none();
        again.make_room(BULK);
        assert_eq!(again.as_ptr(), place);
        let more: Vec<Lent> = (0..2 * LARGE_SHELF).map(|_| Lent::with_room(BULK)).collect();
        drop(more);
        assert_eq!(FREE.with(|free| free.borrow().large.buffers.len()), LARGE_SHELF);
    }

    #[test]
    fn buffers_that_nobody_borrows_are_given_back_and_those_in_use_stay() {
        let on_shelf = || FREE.with(|free| free.borrow().usual.buffers.len());
        let many: Vec<Lent> = (0..SHELF).map(|_| Lent::take()).collect();
        drop(many);
        assert_eq!(on_shelf(), SHELF);
        tidy();
        for _ in 0..20 {
            // Ten are needed all the time.
            let ten: Vec<Lent> = (0..10).map(|_| Lent::take()).collect();
            drop(ten);
            tidy();
        }
        assert!((10..=11).contains(&on_shelf()), "{}", on_shelf());
        for _ in 0..20 {
            tidy();
        }
        assert_eq!(on_shelf(), 1);
    }
}
