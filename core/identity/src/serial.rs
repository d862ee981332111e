//! Certificate serial numbers: what revocation and the issuance log name a certificate by.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest serial that RFC 5280 allows (section 4.1.2.2).
const MAX: usize = 20;

/// A positive, non-zero serial of at most 20 bytes; ours are 16, see [`Serial::fresh`]. Shown in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial {
    len: u8,
    bytes: [u8; MAX],
}

/// Why some bytes are not a serial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    #[error("a serial is 1 to 20 bytes, this one has {0}")]
    Length(usize),
    #[error("a serial is positive and not zero")]
    NotPositive,
    #[error("a serial is written in hexadecimal digits")]
    NotHex,
    #[error("the system gave no random bytes")]
    NoRandomness,
}

impl Serial {
    /// A new one of sixteen bytes: the milliseconds since the epoch in six, their first between 0x40 and 0x7f, then ten
    /// random ones, which is more than the 64 bits that nobody may foresee (CA/Browser Forum baseline requirements, 7.1).
    /// Later ones are greater, by the machine's clock: what a store or a log keeps by serial grows at its end instead of
    /// everywhere, and of two that one sidecar shows, the greater is what it goes by. Nothing is granted by it.
    pub fn fresh() -> Result<Self, SerialError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let [_, _, time @ ..] = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).to_be_bytes();
        let mut bytes = [0u8; 16];
        let (first, random) = bytes.split_at_mut(time.len());
        first.copy_from_slice(&time);
        SystemRandom::new().fill(random).map_err(|_| SerialError::NoRandomness)?;
        // Positive, and of the same length wherever and however it is written, until the year 4199.
        if let Some(top) = bytes.first_mut() {
            *top = (*top & 0x7f) | 0x40;
        }
        Self::from_bytes(&bytes)
    }

    /// Reads a big-endian number as it stands in DER: a leading zero byte is only a sign and is dropped, a
    /// set top bit means a negative number and is refused.
    pub fn from_der_integer(content: &[u8]) -> Result<Self, SerialError> {
        match content.first() {
            Some(first) if first & 0x80 != 0 => Err(SerialError::NotPositive),
            _ => Self::from_bytes(content),
        }
    }

    /// Reads an unsigned big-endian number; leading zero bytes do not count.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SerialError> {
        let start = bytes.iter().position(|b| *b != 0).ok_or(match bytes.len() {
            0 => SerialError::Length(0),
            _ => SerialError::NotPositive,
        })?;
        let number = bytes.get(start..).unwrap_or_default();
        let mut serial = Self { len: 0, bytes: [0; MAX] };
        let room = serial.bytes.get_mut(..number.len()).ok_or(SerialError::Length(bytes.len()))?;
        room.copy_from_slice(number);
        serial.len = u8::try_from(number.len()).map_err(|_| SerialError::Length(bytes.len()))?;
        Ok(serial)
    }

    /// The number, big-endian, without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads an even number of hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks_exact(2);
    if !digits.remainder().is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

impl FromStr for Serial {
    type Err = SerialError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(&unhex(s).ok_or(SerialError::NotHex)?)
    }
}

impl Serialize for Serial {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Serial {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}
