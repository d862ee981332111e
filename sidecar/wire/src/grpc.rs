//! What a proxy needs of gRPC: to recognise a call, its deadline, and to refuse it in its own terms (a trailers-only
//! answer: HTTP 200 with `grpc-status`).

use std::time::Duration;

/// The status codes that a proxy answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Status {
    /// The code that stands for an HTTP status of ours. A limit (429) is `ResourceExhausted`, so that clients do not
    /// take it for an outage.
    pub const fn of_http(status: u16) -> Status {
        match status {
            400 | 405 | 411..=417 | 431 => Status::InvalidArgument,
            401 => Status::Unauthenticated,
            403 => Status::PermissionDenied,
            404 => Status::Unimplemented,
            429 => Status::ResourceExhausted,
            499 => Status::Cancelled,
            502 | 503 => Status::Unavailable,
            504 => Status::DeadlineExceeded,
            500 => Status::Internal,
            _ => Status::Unknown,
        }
    }

    /// The code as it stands in `grpc-status`.
    pub const fn text(self) -> &'static str {
        match self {
            Status::Cancelled => "1",
            Status::Unknown => "2",
            Status::InvalidArgument => "3",
            Status::DeadlineExceeded => "4",
            Status::PermissionDenied => "7",
            Status::ResourceExhausted => "8",
            Status::Unimplemented => "12",
            Status::Internal => "13",
            Status::Unavailable => "14",
            Status::Unauthenticated => "16",
        }
    }
}

/// Whether a content type is gRPC's own (`application/grpc`, `application/grpc+proto`, with parameters), and not
/// gRPC-Web.
pub fn is_grpc(content_type: &[u8]) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    match content_type.split_at_checked(TYPE.len()) {
        Some((head, rest)) => {
            head.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
        }
        None => false,
    }
}

/// Reads `grpc-timeout`: at most 8 digits and a unit (H, M, S, m, u, n). None when malformed.
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount.saturating_mul(3600)),
        b'M' => Duration::from_secs(amount.saturating_mul(60)),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Writes a duration as `grpc-timeout`, in the finest unit that 8 digits hold, rounded down.
pub fn write_timeout(timeout: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let nanos = timeout.as_nanos();
    for (unit, size) in
        [('n', 1u128), ('u', 1_000), ('m', 1_000_000), ('S', 1_000_000_000), ('M', 60_000_000_000)]
    {
        let amount = nanos.checked_div(size).unwrap_or(0);
        if amount <= MOST {
            return format!("{amount}{unit}");
        }
    }
    format!("{}H", nanos.checked_div(3_600_000_000_000).unwrap_or(0).min(MOST))
}

/// Percent-encodes a `grpc-message`: printable ASCII but `%` stays.
pub fn encode_message(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' => text.push_str("%25"),
            0x20..=0x7e => text.push(char::from(byte)),
            _ => {
                text.push('%');
                for digit in [byte >> 4, byte & 0xf] {
                    let digit = char::from_digit(u32::from(digit), 16).unwrap_or('0');
                    text.push(digit.to_ascii_uppercase());
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit_and_nothing_else() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("250m", Duration::from_millis(250)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(timeout(text.as_bytes()), Some(expected), "{text}");
        }
        for text in ["", "S", "1", "1s", "123456789S", "-1S", "1.5S", " 1S", "1 S", "+1S"] {
            assert_eq!(timeout(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_written_timeout_reads_back_no_longer_than_it_was() {
        for duration in [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_millis(1500),
            Duration::from_secs(1 << 40),
            Duration::MAX,
        ] {
            let read = timeout(write_timeout(duration).as_bytes()).unwrap();
            assert!(read <= duration);
        }
        assert_eq!(write_timeout(Duration::from_millis(1500)), "1500000u");
    }

    #[test]
    fn only_grpc_itself_is_grpc() {
        for yes in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC;charset=utf-8",
            "application/grpc+json",
        ] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in [
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpcx",
            "application/json",
            "",
        ] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn messages_keep_only_printable_ascii() {
        assert_eq!(encode_message("100% naïve\n"), "100%25 na%C3%AFve%0A");
    }
}
