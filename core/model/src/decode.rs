//! From text to a typed value, strictly: no duplicate keys, no empty fields, no unknown fields.
//!
//! YAML and JSON go through the same tree, so that a policy means the same on either way. A field that
//! is written and left empty (`user:`) is refused: read as absent, it would turn "needs a user" into
//! "anybody".

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use crate::error::{Misread, Problem, Unreadable};
use crate::typed::typed;

/// Any value; `N` is what its children are, so that YAML's can know their lines.
enum Tree<N> {
    Scalar(Value),
    List(Vec<N>),
    Map(Vec<(String, N)>),
}

struct YamlNode(Spanned<Tree<YamlNode>>);
struct JsonNode(Tree<JsonNode>);

impl Misread {
    fn whole(reason: &str) -> Misread {
        Misread { line: 0, column: 0, field: String::new(), reason: reason.to_owned() }
    }

    fn at(lines: &Lines, problem: Problem) -> Misread {
        let (line, column) = lines.place(&problem.field).unwrap_or_default();
        Misread { line, column, field: problem.field, reason: problem.reason }
    }
}

impl<'de> Deserialize<'de> for YamlNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<YamlNode, D::Error> {
        Spanned::deserialize(deserializer).map(YamlNode)
    }
}

impl<'de> Deserialize<'de> for JsonNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonNode, D::Error> {
        Tree::deserialize(deserializer).map(JsonNode)
    }
}

impl<'de, N: Deserialize<'de>> Deserialize<'de> for Tree<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree<N>, D::Error> {
        deserializer.deserialize_any(TreeVisitor(PhantomData))
    }
}

struct TreeVisitor<N>(PhantomData<N>);

impl<'de, N: Deserialize<'de>> Visitor<'de> for TreeVisitor<N> {
    type Value = Tree<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Tree<N>, E> {
        Ok(Tree::Scalar(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Tree<N>, E> {
        Ok(Tree::Scalar(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Tree<N>, E> {
        Ok(Tree::Scalar(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Tree<N>, E> {
        Ok(Tree::Scalar(value.into()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Tree<N>, E> {
        Ok(Tree::Scalar(value.into()))
    }
    fn visit_unit<E>(self) -> Result<Tree<N>, E> {
        Ok(Tree::Scalar(Value::Null))
    }
    fn visit_none<E>(self) -> Result<Tree<N>, E> {
        Ok(Tree::Scalar(Value::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree<N>, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree<N>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree<N>, A::Error> {
        let mut map: Vec<(String, N)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = access.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(de::Error::custom(format_args!("field `{key}` stands twice")));
            }
            map.push((key, access.next_value()?));
        }
        Ok(Tree::Map(map))
    }
}

/// Where the fields of one YAML document stand: lines and columns, from 1.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(BTreeMap<String, (u64, u64)>);

impl Lines {
    /// The line of `field`, or of the nearest thing around it.
    pub(crate) fn of(&self, field: &str) -> Option<u64> {
        self.place(field).map(|(line, _)| line)
    }

    fn place(&self, field: &str) -> Option<(u64, u64)> {
        let mut field = field;
        loop {
            if let Some(place) = self.0.get(field) {
                return Some(*place);
            }
            if field.is_empty() {
                return None;
            }
            let cut = field.rfind(['.', '[']).unwrap_or(0);
            field = field.get(..cut).unwrap_or_default();
        }
    }
}

/// A YAML document as plain values, with the lines of its fields and what is already wrong with it.
#[derive(Default)]
pub(crate) struct Document {
    pub(crate) value: Value,
    pub(crate) lines: Lines,
    pub(crate) problems: Vec<Problem>,
}

/// The documents of one YAML text. An empty document comes out as `Value::Null`.
pub(crate) fn yaml_documents(text: &str) -> Result<Vec<Document>, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        with_snippet: false,
    };
    let roots: Vec<YamlNode> = serde_saphyr::from_multiple_with_options(text, options)?;
    Ok(roots
        .into_iter()
        .map(|root| {
            let mut document = Document { value: Value::Null, lines: Lines::default(), problems: Vec::new() };
            let is_empty = matches!(root.0.value, Tree::Scalar(Value::Null));
            document.value = flatten(root, String::new(), &mut document.lines, &mut document.problems);
            if is_empty {
                document.problems.clear();
            }
            document
        })
        .collect())
}

/// Strips what only YAML knows, keeping lines by path. YAML's own limits bound the depth.
fn flatten(node: YamlNode, path: String, lines: &mut Lines, problems: &mut Vec<Problem>) -> Value {
    lines.0.insert(path.clone(), (node.0.referenced.line(), node.0.referenced.column()));
    match node.0.value {
        Tree::Scalar(Value::Null) => {
            problems.push(empty_field(&path));
            Value::Null
        }
        Tree::Scalar(value) => value,
        Tree::List(items) => Value::Array(
            items
                .into_iter()
                .enumerate()
                .map(|(index, item)| flatten(item, format!("{path}[{index}]"), lines, problems))
                .collect(),
        ),
        Tree::Map(entries) => Value::Object(
            entries
                .into_iter()
                .map(|(key, item)| {
                    let inner = join(&path, &key);
                    let value = flatten(item, inner, lines, problems);
                    (key, value)
                })
                .collect(),
        ),
    }
}

/// A YAML text that is one document of the shape `T`, as files of configuration are.
///
/// By way of plain values: a reader of YAML for every type would be a multiple of the code.
///
/// # Errors
/// What is wrong first, and where it stands.
pub fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, Misread> {
    let documents = yaml_documents(text).map_err(|error| {
        let place = error.location();
        Misread {
            line: place.as_ref().map_or(0, |place| place.line()),
            column: place.as_ref().map_or(0, |place| place.column()),
            field: String::new(),
            reason: format!("expected YAML: {}", first_line(&error.to_string())),
        }
    })?;
    let mut written = documents.into_iter().filter(|document| document.value != Value::Null);
    let document = written.next().unwrap_or_default();
    if written.next().is_some() {
        return Err(Misread::whole("expected one document, got several"));
    }
    if let Some(problem) = document.problems.into_iter().next() {
        return Err(Misread::at(&document.lines, problem));
    }
    let value = if document.value == Value::Null { Value::Object(Map::new()) } else { document.value };
    typed(&value).map_err(|problem| Misread::at(&document.lines, problem))
}

/// A message without the place, which is told beside it.
fn first_line(message: &str) -> &str {
    let line = message.lines().next().unwrap_or_default();
    let end = [" at line ", " (line "].iter().filter_map(|mark| line.rfind(mark)).min();
    let line = end.and_then(|end| line.get(..end)).unwrap_or(line);
    line.trim_end_matches([':', ' '])
}

fn plain(node: JsonNode, path: &str, problems: &mut Vec<Problem>) -> Value {
    match node.0 {
        Tree::Scalar(Value::Null) => {
            problems.push(empty_field(path));
            Value::Null
        }
        Tree::Scalar(value) => value,
        Tree::List(items) => Value::Array(
            items
                .into_iter()
                .enumerate()
                .map(|(index, item)| plain(item, &format!("{path}[{index}]"), problems))
                .collect(),
        ),
        Tree::Map(entries) => Value::Object(
            entries
                .into_iter()
                .map(|(key, item)| {
                    let value = plain(item, &join(path, &key), problems);
                    (key, value)
                })
                .collect(),
        ),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn empty_field(path: &str) -> Problem {
    Problem::new(path, "expected a value, got an empty field: give it one, or leave the field out")
}

/// A JSON text as plain values, as strict as the YAML side.
pub(crate) fn json_value(text: &str) -> Result<Value, Unreadable> {
    let root: JsonNode = serde_json::from_str(text)
        .map_err(|e| Unreadable::reason(format!("expected a JSON document: {e}")))?;
    let mut problems = Vec::new();
    let value = plain(root, "", &mut problems);
    if problems.is_empty() { Ok(value) } else { Err(Unreadable { problems }) }
}

/// The fields of a value that are written and empty.
pub(crate) fn nulls(value: &Value) -> Vec<Problem> {
    fn look(value: &Value, path: &str, problems: &mut Vec<Problem>) {
        match value {
            Value::Null => problems.push(empty_field(path)),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    look(item, &format!("{path}[{index}]"), problems);
                }
            }
            Value::Object(fields) => {
                for (key, item) in fields {
                    look(item, &join(path, key), problems);
                }
            }
            _ => {}
        }
    }
    let mut problems = Vec::new();
    look(value, "", &mut problems);
    problems
}

/// JSON with sorted keys and no blanks: equal values give equal text in every build, whatever the
/// features that the JSON library was built with.
pub(crate) fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// For lists where empty and absent would be read differently by different people.
pub(crate) fn non_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::<T>::deserialize(deserializer)?;
    if list.is_empty() {
        return Err(de::Error::custom(
            "expected at least one item, got an empty list: leave the field out instead",
        ));
    }
    Ok(list)
}

/// As [`non_empty`], for maps.
pub(crate) fn non_empty_map<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    let map = BTreeMap::<K, V>::deserialize(deserializer)?;
    if map.is_empty() {
        return Err(de::Error::custom("expected at least one entry, got none: leave the field out instead"));
    }
    Ok(map)
}
