//! To which running thing a certificate was issued by attestation.

use super::mac::Column;
use super::sql::query;
use super::{StoreError, Writer};
use crate::attested::Instance;

const TABLE: &str = "attested";

fn columns<'a>(serial: &'a [u8], instance: &'a Instance) -> [Column<'a>; 6] {
    [
        Column::Bytes(serial),
        Column::Text(&instance.cluster),
        Column::Text(&instance.namespace),
        Column::Text(&instance.pod),
        Column::Text(&instance.pod_uid),
        Column::Text(&instance.node),
    ]
}

impl Writer {
    pub(crate) async fn insert_attested(
        &mut self,
        serial: &[u8],
        instance: &Instance,
    ) -> Result<(), StoreError> {
        let mac = self.mac.tag(TABLE, &columns(serial, instance));
        query(
            "INSERT INTO attested (serial, cluster, namespace, pod, pod_uid, node, mac) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(serial)
        .bind(&instance.cluster)
        .bind(&instance.namespace)
        .bind(&instance.pod)
        .bind(&instance.pod_uid)
        .bind(&instance.node)
        .bind(mac)
        .execute(self.tx())
        .await?;
        Ok(())
    }

    /// To whom the certificate of this serial was issued, if by attestation.
    pub(crate) async fn attested(&mut self, serial: &[u8]) -> Result<Option<Instance>, StoreError> {
        let found =
            query("SELECT cluster, namespace, pod, pod_uid, node, mac FROM attested WHERE serial = $1")
                .bind(serial)
                .fetch_optional(self.tx())
                .await?;
        let Some(found) = found else { return Ok(None) };
        let instance = Instance {
            cluster: found.try_get(0)?,
            namespace: found.try_get(1)?,
            pod: found.try_get(2)?,
            pod_uid: found.try_get(3)?,
            node: found.try_get(4)?,
        };
        let mac: Vec<u8> = found.try_get(5)?;
        self.mac.check(TABLE, &columns(serial, &instance), &mac)?;
        Ok(Some(instance))
    }
}
