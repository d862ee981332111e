//! From plain values to a type, with the path to what does not fit.
//!
//! A wrapper around every visitor, which is how a path is found in any format, was a megabyte of code in each sidecar:
//! from values that are all there, a path is found on the way back from the mistake.

use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use crate::error::Problem;

/// A typed value, or the first thing in it that is not of its shape.
pub(crate) fn typed<'de, T: Deserialize<'de>>(value: &'de Value) -> Result<T, Problem> {
    T::deserialize(At(value)).map_err(|misfit| Problem::new(misfit.path(), misfit.reason))
}

/// What does not fit, and the way to it, innermost step first.
#[derive(Debug)]
struct Misfit {
    steps: Vec<Step>,
    reason: String,
}

#[derive(Debug)]
enum Step {
    Field(String),
    Item(usize),
}

impl Misfit {
    fn under(mut self, step: Step) -> Misfit {
        self.steps.push(step);
        self
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => {
                    path.push('.');
                    path.push_str(name);
                }
                Step::Item(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<M: fmt::Display>(reason: M) -> Misfit {
        Misfit { steps: Vec::new(), reason: reason.to_string() }
    }
}

/// A value as something to read from.
struct At<'de>(&'de Value);

impl<'de> At<'de> {
    fn unexpected(&self) -> Unexpected<'de> {
        match self.0 {
            Value::Null => Unexpected::Other("null"),
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), ..) => Unexpected::Unsigned(value),
                (_, Some(value), _) => Unexpected::Signed(value),
                (.., Some(value)) => Unexpected::Float(value),
                _ => Unexpected::Other("number"),
            },
            Value::String(text) => Unexpected::Str(text),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        }
    }
}

impl<'de> Deserializer<'de> for At<'de> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (.., Some(value)) => visitor.visit_f64(value),
                _ => Err(de::Error::invalid_type(self.unexpected(), &visitor)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => list(items, visitor),
            Value::Object(fields) => map(fields, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let mut entries = match self.0 {
            Value::String(variant) => return visitor.visit_enum(Variant { name: variant, content: None }),
            Value::Object(fields) => fields.iter(),
            _ => return Err(de::Error::invalid_type(self.unexpected(), &"string or map")),
        };
        match (entries.next(), entries.next()) {
            (Some((variant, content)), None) => {
                visitor.visit_enum(Variant { name: variant, content: Some(content) })
            }
            _ => Err(de::Error::invalid_value(Unexpected::Map, &"map with a single key")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier
    }
}

fn list<'de, V: Visitor<'de>>(items: &'de [Value], visitor: V) -> Result<V::Value, Misfit> {
    let mut rest = Items { rest: items.iter(), index: 0 };
    let value = visitor.visit_seq(&mut rest)?;
    if rest.rest.next().is_some() {
        return Err(de::Error::invalid_length(items.len(), &"fewer elements in the list"));
    }
    Ok(value)
}

struct Items<'de> {
    rest: std::slice::Iter<'de, Value>,
    index: usize,
}

impl<'de> SeqAccess<'de> for &mut Items<'de> {
    type Error = Misfit;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Misfit> {
        let Some(item) = self.rest.next() else { return Ok(None) };
        let index = self.index;
        self.index = index.saturating_add(1);
        seed.deserialize(At(item)).map(Some).map_err(|misfit| misfit.under(Step::Item(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

fn map<'de, V: Visitor<'de>>(fields: &'de Map<String, Value>, visitor: V) -> Result<V::Value, Misfit> {
    let mut rest = Fields { rest: fields.iter(), current: None };
    let value = visitor.visit_map(&mut rest)?;
    if rest.rest.next().is_some() {
        return Err(de::Error::invalid_length(fields.len(), &"fewer fields"));
    }
    Ok(value)
}

struct Fields<'de> {
    rest: serde_json::map::Iter<'de>,
    current: Option<(&'de str, &'de Value)>,
}

impl<'de> MapAccess<'de> for &mut Fields<'de> {
    type Error = Misfit;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Misfit> {
        let Some((name, value)) = self.rest.next() else { return Ok(None) };
        self.current = Some((name, value));
        let key = seed.deserialize(BorrowedStrDeserializer::new(name));
        key.map(Some).map_err(|misfit: Misfit| misfit.under(Step::Field(name.clone())))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Misfit> {
        let (name, value) = self.current.take().ok_or_else(|| Misfit::of("a value without its field"))?;
        seed.deserialize(At(value)).map_err(|misfit| misfit.under(Step::Field(name.to_owned())))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

impl Misfit {
    fn of(reason: &str) -> Misfit {
        Misfit { steps: Vec::new(), reason: reason.to_owned() }
    }
}

struct Variant<'de> {
    name: &'de str,
    content: Option<&'de Value>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Misfit;
    type Variant = Variant<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Variant<'de>), Misfit> {
        let name: StrDeserializer<'_, Misfit> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> Variant<'de> {
    fn content(&self, expected: &'static str) -> Result<At<'de>, Misfit> {
        let missing = || de::Error::invalid_type(Unexpected::UnitVariant, &expected);
        self.content.map(At).ok_or_else(missing)
    }

    fn step(&self) -> Step {
        Step::Field(self.name.to_owned())
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        match self.content {
            None => Ok(()),
            Some(content) => {
                Deserialize::deserialize(At(content)).map_err(|misfit: Misfit| misfit.under(self.step()))
            }
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Misfit> {
        let content = self.content("newtype variant")?;
        seed.deserialize(content).map_err(|misfit| misfit.under(self.step()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Misfit> {
        let content = self.content("tuple variant")?;
        content.deserialize_seq(visitor).map_err(|misfit| misfit.under(self.step()))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let content = self.content("struct variant")?;
        content.deserialize_map(visitor).map_err(|misfit| misfit.under(self.step()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Listener {
        port: u16,
        #[serde(default)]
        kind: Option<Kind>,
        #[serde(default)]
        labels: BTreeMap<String, u8>,
        #[serde(default)]
        inner: Vec<Listener>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    enum Kind {
        Plain,
        Named(String),
        Bound { to: (u8, u8) },
    }

    fn read(value: Value) -> Result<Listener, String> {
        typed(&value).map_err(|problem| problem.to_string())
    }

    #[test]
    fn what_fits_is_read() {
        let value = json!({"port": 80, "kind": {"bound": {"to": [1, 2]}}, "labels": {"a": 1}, "inner": [{"port": 1, "kind": "plain"}]});
        let listener = read(value).unwrap();
        assert_eq!(listener.kind, Some(Kind::Bound { to: (1, 2) }));
        assert_eq!(listener.inner[0].kind, Some(Kind::Plain));
        assert_eq!(
            read(json!({"port": 1, "kind": {"named": "x"}})).unwrap().kind,
            Some(Kind::Named("x".into()))
        );
        assert_eq!(read(json!({"port": 1, "kind": null})).unwrap().kind, None);
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_path() {
        let said = |value| read(value).unwrap_err();
        for (value, expected) in [
            (json!([]), "invalid length 0, expected struct Listener with 4 elements"),
            (json!("x"), "invalid type: string \"x\", expected struct Listener"),
            (json!({}), "missing field `port`"),
            (json!({"port": 70000}), "port: invalid value: integer `70000`, expected u16"),
            (json!({"port": -1}), "port: invalid value: integer `-1`, expected u16"),
            (json!({"port": null}), "port: invalid type: unit value, expected u16"),
            (
                json!({"port": 1, "prot": 1}),
                "prot: unknown field `prot`, expected one of `port`, `kind`, `labels`, `inner`",
            ),
            (
                json!({"port": 1, "inner": [{"port": 1}, {"port": "a"}]}),
                "inner[1].port: invalid type: string \"a\", expected u16",
            ),
            (json!({"port": 1, "labels": {"a": "b"}}), "labels.a: invalid type: string \"b\", expected u8"),
            (
                json!({"port": 1, "kind": "loose"}),
                "kind: unknown variant `loose`, expected one of `plain`, `named`, `bound`",
            ),
            (
                json!({"port": 1, "kind": {"loose": 1}}),
                "kind: unknown variant `loose`, expected one of `plain`, `named`, `bound`",
            ),
            (
                json!({"port": 1, "kind": "named"}),
                "kind: invalid type: unit variant, expected newtype variant",
            ),
            (
                json!({"port": 1, "kind": {"bound": {"to": [1, 2, 3]}}}),
                "kind.bound.to: invalid length 3, expected fewer elements in the list",
            ),
            (
                json!({"port": 1, "kind": {"plain": 1}}),
                "kind.plain: invalid type: integer `1`, expected unit",
            ),
            (
                json!({"port": 1, "kind": {"plain": null, "named": "a"}}),
                "kind: invalid value: map, expected map with a single key",
            ),
        ] {
            assert_eq!(said(value), expected);
        }
    }
}
