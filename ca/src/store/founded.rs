//! Whose store this is.
//!
//! One marked row names the root of the authority that made the store. It is written once, by the first start;
//! from then on a store without it, or with that of another root, is refused: beginning anew would forget every
//! revocation without a word.

use std::path::Path;

use signet_identity::KeyId;
use sqlx::{Row as _, SqlitePool};

use super::mac::Column;
use super::{Owner, StoreError, tokens};

const TABLE: &str = "founded";

pub(super) async fn check(store: &SqlitePool, path: &Path, owner: &Owner<'_>) -> Result<(), StoreError> {
    let columns = [Column::Text(owner.replica), Column::Bytes(owner.root.as_bytes())];
    let row = sqlx::query("SELECT root, mac FROM founded WHERE replica = ?1")
        .bind(owner.replica)
        .fetch_optional(store)
        .await?;
    let Some(row) = row else {
        if !owner.founding {
            return Err(StoreError::Unbound { path: path.to_owned(), root: owner.root.to_string() });
        }
        sqlx::query("INSERT INTO founded (replica, root, mac) VALUES (?1, ?2, ?3)")
            .bind(owner.replica)
            .bind(owner.root.as_bytes().as_slice())
            .bind(owner.mac.tag(TABLE, &columns))
            .execute(store)
            .await?;
        return Ok(());
    };
    let found = KeyId::from_bytes(tokens::hash(row.try_get(0)?, TABLE)?);
    if found != owner.root {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            root: owner.root.to_string(),
            found: found.to_string(),
        });
    }
    let mac: Vec<u8> = row.try_get(1)?;
    owner.mac.check(TABLE, &columns, &mac)
}
