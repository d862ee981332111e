//! Who is behind a certificate of class `operator`, as the provider said when it was issued.

use std::collections::BTreeSet;

use super::mac::{Column, optional_text};
use super::sql::query;
use super::{Store, StoreError, Writer};

const TABLE: &str = "operators";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OperatorRow {
    /// Of the certificate.
    pub(crate) serial: Vec<u8>,
    pub(crate) spiffe_id: String,
    pub(crate) provider: String,
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) username: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) groups: BTreeSet<String>,
    pub(crate) not_after: i64,
}

impl OperatorRow {
    /// Sorted, so that one set has one text.
    fn groups_text(&self) -> String {
        serde_json::Value::from_iter(self.groups.iter().map(String::as_str)).to_string()
    }

    fn columns<'a>(&'a self, groups: &'a str) -> [Column<'a>; 9] {
        [
            Column::Bytes(&self.serial),
            Column::Text(&self.spiffe_id),
            Column::Text(&self.provider),
            Column::Text(&self.issuer),
            Column::Text(&self.subject),
            optional_text(self.username.as_deref()),
            optional_text(self.name.as_deref()),
            Column::Text(groups),
            Column::Number(self.not_after),
        ]
    }
}

impl Writer {
    pub(crate) async fn insert_operator(&mut self, row: &OperatorRow) -> Result<(), StoreError> {
        let groups = row.groups_text();
        let mac = self.mac.tag(TABLE, &row.columns(&groups));
        query(
            "INSERT INTO operators (serial, spiffe_id, provider, issuer, subject, username, name, group_names, \
             not_after, mac) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(&row.serial)
        .bind(&row.spiffe_id)
        .bind(&row.provider)
        .bind(&row.issuer)
        .bind(&row.subject)
        .bind(row.username.as_deref())
        .bind(row.name.as_deref())
        .bind(groups)
        .bind(row.not_after)
        .bind(mac)
        .execute(self.tx())
        .await?;
        Ok(())
    }

    /// Forgets whose certificates ended long ago: what they did stands in the log.
    pub(crate) async fn sweep_operators(&mut self, ended_before: i64) -> Result<(), StoreError> {
        query("DELETE FROM operators WHERE not_after < $1").bind(ended_before).execute(self.tx()).await?;
        Ok(())
    }
}

impl Store {
    /// Who holds the certificate with this serial, if it is an operator's.
    pub(crate) async fn operator(&self, serial: &[u8]) -> Result<Option<OperatorRow>, StoreError> {
        let found = query(
            "SELECT serial, spiffe_id, provider, issuer, subject, username, name, group_names, not_after, mac \
             FROM operators WHERE serial = $1",
        )
        .bind(serial)
        .fetch_optional(&mut self.desk.pool.read().await?)
        .await?;
        let Some(found) = found else { return Ok(None) };
        let groups: String = found.try_get(7)?;
        let corrupt =
            |_| StoreError::Corrupt { table: TABLE, what: "the groups are no JSON array of strings" };
        let row = OperatorRow {
            serial: found.try_get(0)?,
            spiffe_id: found.try_get(1)?,
            provider: found.try_get(2)?,
            issuer: found.try_get(3)?,
            subject: found.try_get(4)?,
            username: found.try_get(5)?,
            name: found.try_get(6)?,
            groups: serde_json::from_str::<Vec<String>>(&groups).map_err(corrupt)?.into_iter().collect(),
            not_after: found.try_get(8)?,
        };
        let mac: Vec<u8> = found.try_get(9)?;
        self.desk.mac.check(TABLE, &row.columns(&groups), &mac)?;
        Ok(Some(row))
    }
}
