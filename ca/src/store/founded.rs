//! Whose store this is.
//!
//! One marked row names the mesh whose authority made the store, and with it begins the set of revocations.
//! Both are written once, by the first start; from then on a store without them, or with those of another mesh, is
//! refused: beginning anew would forget every revocation without a word.

use super::mac::Column;
use super::sql::{Dialect, Pool, query};
use super::{Owner, StoreError, revocations, tokens};
use signet_identity::KeyId;

const TABLE: &str = "founded";

/// Whether it was made just now, by us.
pub(super) async fn check(pool: &Pool, place: &str, owner: &Owner<'_>) -> Result<bool, StoreError> {
    let columns = [Column::Bytes(owner.mesh.as_bytes())];
    let mut tx = pool.write().await?;
    if tx.dialect() == Dialect::Postgres {
        // Of several that make the mesh at once one does; the others find it made.
        query("SELECT pg_advisory_xact_lock(1, 1)").execute(&mut tx).await?;
    }
    let row = query("SELECT mesh, mac FROM founded WHERE id = 1").fetch_optional(&mut tx).await?;
    let Some(row) = row else {
        if !owner.founding {
            return Err(StoreError::Unbound { place: place.to_owned(), mesh: owner.mesh.to_string() });
        }
        query("INSERT INTO founded (id, mesh, mac) VALUES (1, $1, $2)")
            .bind(owner.mesh.as_bytes().as_slice())
            .bind(owner.mac.tag(TABLE, &columns))
            .execute(&mut tx)
            .await?;
        revocations::found(&mut tx, &owner.mac).await?;
        tx.commit().await?;
        return Ok(true);
    };
    let found = KeyId::from_bytes(tokens::hash(row.try_get(0)?, TABLE)?);
    if found != owner.mesh {
        return Err(StoreError::Foreign {
            place: place.to_owned(),
            mesh: owner.mesh.to_string(),
            found: found.to_string(),
        });
    }
    let mac: Vec<u8> = row.try_get(1)?;
    owner.mac.check(TABLE, &columns, &mac)?;
    Ok(false)
}
