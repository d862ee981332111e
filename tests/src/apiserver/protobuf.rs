//! A Secret as Go's typed clients send it: Kubernetes' envelope around protobuf. Only what helm writes of one.

use base64::Engine as _;
use serde_json::{Map, Value, json};

/// Fields of a message: number and bytes; of numbers only that they are there.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes);
        let length = match key & 7 {
            2 => usize::try_from(number(&mut bytes)).expect("a length"),
            _ => {
                number(&mut bytes);
                0
            }
        };
        let (field, rest) = bytes.split_at(length);
        all.push((key >> 3, field));
        bytes = rest;
    }
    all
}

fn number(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (byte, rest) = bytes.split_first().expect("a number");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

fn field(message: &[u8], number: u64) -> &[u8] {
    fields(message).into_iter().find(|(it, _)| *it == number).map_or(&[], |(_, bytes)| bytes)
}

fn text(bytes: &[u8]) -> Value {
    String::from_utf8(bytes.to_vec()).expect("text").into()
}

/// Entries of a map.
fn entries(message: &[u8], number: u64, value: impl Fn(&[u8]) -> Value) -> Value {
    let of = fields(message).into_iter().filter(|(it, _)| *it == number);
    let pair = |(_, entry): (u64, &[u8])| {
        let name = String::from_utf8(field(entry, 1).to_vec()).expect("a name");
        (name, value(field(entry, 2)))
    };
    Value::Object(of.map(pair).collect::<Map<_, _>>())
}

/// The object, if the body is one.
pub(super) fn secret(body: &[u8]) -> Option<Value> {
    let envelope = body.strip_prefix(b"k8s\0")?;
    let (kind, raw) = (field(envelope, 1), field(envelope, 2));
    if field(kind, 2) != b"Secret" {
        return None;
    }
    let metadata = field(raw, 1);
    let encoded = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes).into();
    Some(json!({
        "apiVersion": text(field(kind, 1)), "kind": "Secret", "type": text(field(raw, 3)),
        "metadata": {"name": text(field(metadata, 1)), "namespace": text(field(metadata, 3)),
                     "labels": entries(metadata, 11, text)},
        "data": entries(raw, 2, encoded),
    }))
}
