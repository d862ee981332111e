//! The mark on rows that grant.
//!
//! HMAC-SHA256 over the table's name and the row's columns, each with its length, under a key that lies
//! sealed beside the private keys. Whoever can write to the database, but does not have that key, cannot
//! make a row that is believed. They can still put an older row back: what that could gain is closed by
//! the unique columns (one lineage per token, one child per parent, one certificate per key).

use ring::hmac;
use signet_identity::KeyId;

use super::StoreError;

#[derive(Clone)]
pub(crate) struct RowMac(hmac::Key);

/// One column, so that text and numbers cannot be taken for each other.
pub(crate) enum Column<'a> {
    Bytes(&'a [u8]),
    Text(&'a str),
    Number(i64),
    None,
}

impl RowMac {
    pub(crate) fn new(key: &[u8]) -> RowMac {
        RowMac(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The mesh's name: whoever has this key writes for this mesh, and nobody else.
    pub(crate) fn mesh(&self) -> KeyId {
        KeyId::of(hmac::sign(&self.0, b"signet: the name of the mesh").as_ref())
    }

    pub(crate) fn tag(&self, table: &'static str, columns: &[Column<'_>]) -> Vec<u8> {
        hmac::sign(&self.0, &message(table, columns)).as_ref().to_vec()
    }

    /// In constant time.
    pub(crate) fn check(
        &self,
        table: &'static str,
        columns: &[Column<'_>],
        tag: &[u8],
    ) -> Result<(), StoreError> {
        hmac::verify(&self.0, &message(table, columns), tag).map_err(|_| StoreError::Tampered { table })
    }
}

fn message(table: &str, columns: &[Column<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut push = |kind: u8, bytes: &[u8]| {
        out.push(kind);
        out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    push(b't', table.as_bytes());
    for column in columns {
        match column {
            Column::Bytes(bytes) => push(b'b', bytes),
            Column::Text(text) => push(b's', text.as_bytes()),
            Column::Number(number) => push(b'n', &number.to_be_bytes()),
            Column::None => push(b'0', &[]),
        }
    }
    out
}

pub(super) fn optional_number(number: Option<i64>) -> Column<'static> {
    number.map_or(Column::None, Column::Number)
}

pub(super) fn optional_bytes(bytes: Option<&[u8]>) -> Column<'_> {
    bytes.map_or(Column::None, Column::Bytes)
}

pub(super) fn optional_text(text: Option<&str>) -> Column<'_> {
    text.map_or(Column::None, Column::Text)
}
