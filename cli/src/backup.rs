//! `signet ca backup`: a copy of the authority, made by the control plane while it works.

use serde_json::json;
use signet_proto::v1::BackupRequest;

use crate::operator::{Context, refused};

pub(crate) async fn run(context: &Context) -> anyhow::Result<()> {
    let asked = context.recovery().await?.backup(BackupRequest {}).await;
    let made = asked.map_err(|it| refused(&it))?.into_inner();
    let json = json!({
        "folder": made.folder, "name": made.name, "at": made.at, "log_sequence": made.log_sequence, "files": made.files,
        "bytes": made.bytes, "store": made.store, "removed": made.removed,
    });
    context.show(json, || {
        let mut text = format!(
            "copied to {} on the control plane's machine: {} files, {} bytes, up to record {} of the issuance log",
            made.folder, made.files, made.bytes, made.log_sequence
        );
        if !made.store {
            text.push_str("\nthe database is not in it: copy it now, with pg_dump (docs/recovery.md)");
        }
        for name in &made.removed {
            text.push_str(&format!("\nremoved an older copy: {name}"));
        }
        text.push_str("\nkeep the seal key elsewhere: it is not in the copy");
        text
    })
}
