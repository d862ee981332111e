//! WebSocket frames that go by (RFC 6455), as far as their ends: what is to be said in between must not fall into one.

/// Follows the frames of one direction from its beginning.
#[derive(Debug, Default, Clone)]
pub struct Frames {
    /// What is known of a frame's head: its two first bytes, the length's own bytes and a mask.
    head: [u8; 14],
    have: u8,
    /// Bytes of the payload that are still to come.
    left: u64,
    /// A close frame went by: nothing may follow it (5.5.1).
    closed: bool,
}

impl Frames {
    /// These bytes were sent.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let part = self.left.min(bytes.len() as u64);
                self.left = self.left.saturating_sub(part);
                bytes = bytes.get(usize::try_from(part).unwrap_or(usize::MAX)..).unwrap_or_default();
                continue;
            }
            let Some((first, rest)) = bytes.split_first() else { return };
            bytes = rest;
            if let Some(place) = self.head.get_mut(usize::from(self.have)) {
                *place = *first;
            }
            self.have = self.have.saturating_add(1);
            if self.have == self.head_length() {
                self.left = self.payload();
                self.closed |= self.head.first().is_some_and(|first| first & 15 == 8);
                self.have = 0;
            }
        }
    }

    /// Whether the last frame has ended and another one may follow.
    pub fn between(&self) -> bool {
        self.have == 0 && self.left == 0 && !self.closed
    }

    /// How many bytes this frame's head has, as far as can be said (5.2).
    fn head_length(&self) -> u8 {
        let [_, second, ..] = self.head;
        if self.have < 2 {
            return 2;
        }
        let with_length = match second & 127 {
            126 => 4_u8,
            127 => 10,
            _ => 2,
        };
        let mask = if second & 128 == 0 { 0 } else { 4 };
        with_length.saturating_add(mask)
    }

    fn payload(&self) -> u64 {
        let [_, second, a, b, c, d, e, f, g, h, ..] = self.head;
        match second & 127 {
            126 => u64::from(u16::from_be_bytes([a, b])),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            short => u64::from(short),
        }
    }
}

/// The close frame of a server (5.5.1): a status and words for whoever reads them, of which 123 bytes fit.
pub fn close(status: u16, words: &str) -> Vec<u8> {
    let words = words.as_bytes().get(..words.len().min(123)).unwrap_or_default();
    let mut frame = vec![0x88, u8::try_from(words.len()).unwrap_or(0).saturating_add(2)];
    frame.extend(status.to_be_bytes());
    frame.extend(words);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, length: usize, mask: bool) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        let masked = if mask { 0x80 } else { 0 };
        match length {
            0..126 => frame.push(masked | length as u8),
            126..65536 => {
                frame.push(masked | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(masked | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        if mask {
            frame.extend([1, 2, 3, 4]);
        }
        frame.extend(vec![0x88; length]);
        frame
    }

    #[test]
    fn the_end_of_a_frame_is_found_whatever_its_length() {
        for length in [0, 1, 125, 126, 65535, 65536] {
            for mask in [false, true] {
                let frame = frame(2, length, mask);
                let mut frames = Frames::default();
                assert!(frames.between());
                frames.pass(&frame[..frame.len() - 1]);
                assert!(!frames.between(), "{length} {mask}");
                frames.pass(&frame[frame.len() - 1..]);
                assert!(frames.between(), "{length} {mask}");
            }
        }
    }

    #[test]
    fn after_a_close_frame_nothing_follows() {
        let mut frames = Frames::default();
        let bytes = close(1008, "user_revoked");
        assert_eq!(bytes[..4], [0x88, 14, 0x03, 0xf0]);
        assert_eq!(&bytes[4..], b"user_revoked");
        frames.pass(&bytes);
        assert!(!frames.between());
        assert_eq!(close(1008, &"x".repeat(200)).len(), 127);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            lengths in prop::collection::vec((0..300_usize, any::<bool>()), 1..6),
            cuts in prop::collection::vec(1..80_usize, 1..40),
        ) {
            let mut ends = Vec::new();
            let mut bytes = Vec::new();
            for (length, mask) in lengths {
                bytes.extend(frame(1, length, mask));
                ends.push(bytes.len());
            }
            let mut frames = Frames::default();
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while at < bytes.len() {
                let next = (at + cuts.next().unwrap()).min(bytes.len());
                frames.pass(&bytes[at..next]);
                at = next;
                prop_assert_eq!(frames.between(), ends.contains(&at));
            }
        }
    }
}
