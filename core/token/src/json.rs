//! JSON for security decisions: no member twice at any depth (RFC 7515 §4 lets us refuse, and two
//! readers that disagree about which one counts are an attack), and a bounded depth.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deepest nesting of objects and arrays in a header, a claims set or a key set.
pub const MAX_DEPTH: u8 = 16;

/// Why bytes are not the JSON object that was expected. Carries no text of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("not valid JSON")]
    Syntax,
    #[error("an object names one member twice")]
    Duplicate,
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("not a JSON object")]
    NotAnObject,
}

/// One JSON value with nothing but white space around it.
pub fn value(bytes: &[u8]) -> Result<Value, JsonError> {
    let mut source = serde_json::Deserializer::from_slice(bytes);
    let parsed = Strict { depth: MAX_DEPTH }.deserialize(&mut source).map_err(|e| classify(&e))?;
    source.end().map_err(|_| JsonError::Syntax)?;
    Ok(parsed)
}

/// One JSON object with nothing but white space around it.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    match value(bytes)? {
        Value::Object(map) => Ok(map),
        _ => Err(JsonError::NotAnObject),
    }
}

// serde carries our own refusals as text; these two texts are ours alone because serde_json's own
// messages never begin like this.
const DUPLICATE: &str = "signet: duplicate member";
const TOO_DEEP: &str = "signet: too deep";

fn classify(error: &serde_json::Error) -> JsonError {
    let text = error.to_string();
    if text.starts_with(DUPLICATE) {
        JsonError::Duplicate
    } else if text.starts_with(TOO_DEEP) {
        JsonError::TooDeep
    } else {
        JsonError::Syntax
    }
}

struct Strict {
    depth: u8,
}

impl Strict {
    fn inner<E: serde::de::Error>(&self) -> Result<u8, E> {
        self.depth.checked_sub(1).ok_or_else(|| E::custom(TOO_DEEP))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let depth = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict { depth })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let depth = self.inner()?;
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            if map.contains_key(&name) {
                return Err(A::Error::custom(DUPLICATE));
            }
            map.insert(name, access.next_value_seed(Strict { depth })?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_named_twice_is_refused_at_any_depth() {
        for text in
            [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, r#"{"x":{"a":1,"a":2}}"#, r#"[[{"a":1,"a":2}]]"#]
        {
            assert_eq!(value(text.as_bytes()), Err(JsonError::Duplicate), "{text}");
        }
        // The same name in two different objects is two members.
        assert!(object(br#"{"a":{"a":1},"b":{"a":2}}"#).is_ok());
    }

    #[test]
    fn depth_is_bounded_exactly() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(value(nested(16).as_bytes()).is_ok());
        assert_eq!(value(nested(17).as_bytes()), Err(JsonError::TooDeep));
        // Far past any recursion limit: refused, never a stack overflow.
        assert!(value("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn numbers_stay_numbers() {
        // Would fail if some dependency switched serde_json to arbitrary precision.
        let map = object(br#"{"i":7,"n":-7,"f":1.5,"big":18446744073709551616}"#).unwrap();
        assert_eq!(map["i"].as_u64(), Some(7));
        assert_eq!(map["n"].as_i64(), Some(-7));
        assert_eq!(map["f"].as_f64(), Some(1.5));
        assert_eq!(map["big"].as_u64(), None);
        assert_eq!(value(b"1e400"), Err(JsonError::Syntax));
    }

    #[test]
    fn only_one_value_and_only_an_object() {
        assert_eq!(object(b"[]"), Err(JsonError::NotAnObject));
        assert_eq!(object(b"\"{}\""), Err(JsonError::NotAnObject));
        for text in [&b"{} {}"[..], b"{}x", b"", b"{\"a\":\"\xff\"}", b"\xef\xbb\xbf{}"] {
            assert_eq!(object(text), Err(JsonError::Syntax));
        }
        assert!(object(b" {}\n").is_ok());
    }

    #[test]
    fn a_text_of_the_input_cannot_pass_for_our_own_refusal() {
        assert_eq!(value(b"\"signet: duplicate member\" x"), Err(JsonError::Syntax));
    }
}
