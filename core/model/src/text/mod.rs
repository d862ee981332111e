//! Values that exist only when valid, each read from one string (or number) and written back the same.
//!
//! Parse once, at the edge: whoever holds a [`Label`](name::Label) need not ask again what is in it.

pub(crate) mod address;
pub(crate) mod duration;
pub(crate) mod header;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod jose;
pub(crate) mod label;
pub(crate) mod moment;
pub(crate) mod name;
pub(crate) mod network;
pub(crate) mod period;
pub(crate) mod port;
pub(crate) mod unix;
pub(crate) mod words;

/// A text that is not what its field asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got `{got}`")]
pub struct Invalid {
    /// What would have been right, in words that an operator can act on.
    pub expected: String,
    /// What came, shortened.
    pub got: String,
}

impl Invalid {
    pub(crate) fn new(expected: impl Into<String>, got: &str) -> Invalid {
        Invalid { expected: expected.into(), got: shorten(got) }
    }
}

/// Error messages quote input; input may be long or hostile to a terminal.
pub(crate) fn shorten(text: &str) -> String {
    const KEEP: usize = 80;
    let mut out: String = text.chars().take(KEEP).flat_map(char::escape_debug).collect();
    if text.chars().nth(KEEP).is_some() {
        out.push('…');
    }
    out
}

/// Serde by way of `FromStr` and `Display`, with `$expected` in the message for a value of another type.
macro_rules! serde_as_text {
    ($type:ty, $expected:expr) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "x-signet-expected": $expected})
            }
        }
    };
}
pub(crate) use serde_as_text;

/// A string that satisfies `$check`, and nothing more.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $expected:expr, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::text::Invalid;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok($name(text.into())) } else { Err($crate::text::Invalid::new($expected, text)) }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        $crate::text::serde_as_text!($name, $expected);
    };
}
pub(crate) use checked_text;
