//! Buffers that are lent after there is something to put in them.
//!
//! An idle connection holds no buffer at all. A read borrows one from its thread's shelf, tries the
//! read, and gives the buffer back when there was nothing to read; it keeps it only while it holds
//! bytes. The shelf is small: after a burst the rest goes back to the allocator.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use bytes::BytesMut;

/// One TLS record of plaintext, and the usual head with room to spare.
pub(crate) const BUFFER: usize = 16 * 1024;

/// Buffers that a thread keeps for the next reader: 32 of them are half a megabyte.
const SHELF: usize = 32;

thread_local! {
    static FREE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// A byte buffer that goes back to its thread's shelf when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Lent(BytesMut);

impl Lent {
    /// Borrows an empty buffer with [`BUFFER`] bytes of room.
    pub(crate) fn take() -> Self {
        let mut buffer = FREE.try_with(|free| free.borrow_mut().pop()).ok().flatten().unwrap_or_default();
        // Parts that were split off are dropped by now, so this takes their room back.
        buffer.reserve(BUFFER);
        Lent(buffer)
    }

    /// A buffer without room, which costs nothing: what an idle connection holds.
    pub(crate) fn none() -> Self {
        Lent(BytesMut::new())
    }

    /// Makes room for more, borrowing a buffer if there was none.
    pub(crate) fn make_room(&mut self, room: usize) {
        if self.0.capacity() == 0 {
            *self = Lent::take();
        }
        if self.0.capacity() - self.0.len() < room {
            self.0.reserve(room.max(BUFFER));
        }
    }

    /// Gives the buffer back if nothing is in it.
    pub(crate) fn release_if_empty(&mut self) {
        if self.0.is_empty() && self.0.capacity() != 0 {
            *self = Lent::none();
        }
    }
}

impl Deref for Lent {
    type Target = BytesMut;
    fn deref(&self) -> &BytesMut {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut kept = std::mem::take(&mut self.0);
        kept.clear();
        // One that grew for a large head was an exception; one that a part still refers to has no room.
        if kept.capacity() > 2 * BUFFER || !kept.try_reclaim(BUFFER) {
            return;
        }
        // At the end of a thread the shelf may be gone already; then the allocator takes it.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < SHELF {
                free.push(kept);
            }
        });
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
        FREE.with(|free| free.borrow_mut().clear());
        let mut grown = Lent::take();
        grown.reserve(10 * BUFFER);
        drop(grown);
        let mut shared = Lent::take();
        shared.extend_from_slice(b"head");
        let head = shared.split_to(4).freeze();
        drop(shared);
        assert!(FREE.with(|free| free.borrow().is_empty()));
        assert_eq!(&head[..], b"head");
    }
}
