//! Labels of Kubernetes objects, by the API server's own rules.

use super::checked_text;

const KEY: &str = "a label's key (a name of letters, digits, `-`, `_` and `.`, at most 63 characters, \
                   perhaps after a DNS subdomain and `/`)";
const VALUE: &str = "a label's value (letters, digits, `-`, `_` and `.`, at most 63 characters, beginning \
                     and ending with a letter or digit)";

/// What both a value and the name part of a key consist of; only a value may be empty.
fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let outer = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 63 && bytes.iter().copied().all(inner) && outer(bytes.first()) && outer(bytes.last())
}

fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => super::name::is_subdomain(prefix) && is_name(name),
        None => is_name(text),
    }
}

fn is_value(text: &str) -> bool {
    text.is_empty() || is_name(text)
}

checked_text!(
    /// The key of a pod's label: `app.kubernetes.io/name`.
    PodLabelKey, KEY, is_key
);
checked_text!(
    /// The value of a pod's label, possibly empty.
    PodLabelValue, VALUE, is_value
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_those_that_an_api_server_takes() {
        for good in ["app", "app.kubernetes.io/name", "A_b-c.D9", &"a".repeat(63)] {
            assert!(good.parse::<PodLabelKey>().is_ok(), "{good}");
        }
        for bad in ["", "/app", "a/", "a/b/c", "Up.example/a", "-a", "a-", "a b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<PodLabelKey>().is_err(), "{bad}");
        }
        for good in ["", "canary", "v1.2_3-x", "0"] {
            assert!(good.parse::<PodLabelValue>().is_ok(), "{good}");
        }
        for bad in ["-a", "a.", "a/b", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<PodLabelValue>().is_err(), "{bad}");
        }
    }
}
