//! How many there are of what. The last hop: it only reports whom its sidecar says it works for.

use serde_json::json;

use crate::context;
use crate::http::{Place, header, json as reply, serve};

pub(crate) async fn run(listen: Place) -> anyhow::Result<()> {
    serve(listen, |request| async move {
        let user = context::user(header(&request, context::USER));
        match request.uri().path().strip_prefix("/stock/") {
            Some(sku) if !sku.is_empty() => {
                reply(200, &json!({"sku": sku, "in_stock": sku.len() * 7, "user": user}))
            }
            _ => reply(404, &json!({"error": "expected /stock/{sku}"})),
        }
    })
    .await
}
