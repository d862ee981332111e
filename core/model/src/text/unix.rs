//! What a host calls its users, groups and programs.

use super::checked_text;

const ACCOUNT: &str =
    "a user's or group's name (at most 64 letters, digits, `-`, `_`, `.` and `@`, perhaps a `$` at the end)";
const PATH: &str = "an absolute path of a program, at most 1024 bytes, without empty, `.` or `..` segments and control characters";
const SHA256: &str = "64 hexadecimal digits in lower case";

fn is_account(text: &str) -> bool {
    let plain = text.strip_suffix('$').unwrap_or(text);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@');
    (1..=64).contains(&plain.len()) && !plain.starts_with('-') && plain.bytes().all(allowed)
}

fn is_path(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('/') else { return false };
    text.len() <= 1024
        && !text.chars().any(char::is_control)
        // What the kernel says of a program that is gone.
        && !text.ends_with(" (deleted)")
        && rest.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

checked_text!(
    /// `postgres`
    AccountName, ACCOUNT, is_account
);
checked_text!(
    /// `/usr/lib/orders/orders`
    BinaryPath, PATH, is_path
);
checked_text!(
    /// As `sha256sum` prints it.
    Sha256, SHA256, is_sha256
);

impl Sha256 {
    /// The digest itself.
    pub fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        for (place, pair) in bytes.iter_mut().zip(self.as_str().as_bytes().chunks_exact(2)) {
            if let [high, low] = pair {
                *place = (digit(*high).unwrap_or(0) << 4) | digit(*low).unwrap_or(0);
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_paths_and_digests_are_those_that_a_host_can_have() {
        for good in ["root", "www-data", "_apt", "a.b@example.com", "machine$"] {
            assert!(good.parse::<AccountName>().is_ok(), "{good}");
        }
        for bad in ["", "$", "-a", "a b", "a:b", &"a".repeat(65)] {
            assert!(bad.parse::<AccountName>().is_err(), "{bad}");
        }
        for good in ["/bin/sh", "/opt/My App/run", "/usr/bin/python3.12"] {
            assert!(good.parse::<BinaryPath>().is_ok(), "{good}");
        }
        for bad in ["", "/", "bin/sh", "/bin/../sh", "/bin//sh", "/bin/", "/a\nb", "/bin/sh (deleted)"] {
            assert!(bad.parse::<BinaryPath>().is_err(), "{bad}");
        }
        let digest = format!("0f{}a9", "00".repeat(30));
        let read = digest.parse::<Sha256>().unwrap().bytes();
        assert_eq!((read[0], read[1], read[31]), (0x0f, 0, 0xa9));
        for bad in ["", &digest.to_uppercase(), &digest[1..], &format!("{digest}0")] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad}");
        }
    }
}
