//! The shop's front. It forwards the `Txn-Token` of the request that it serves, and tells what it
//! was told: `/whoami` shows the headers by which an app learns who calls, and for whom.

use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::context;
use crate::http::{Place, Reply, connect, header, json as reply, serve};
use crate::shop::orders_client::OrdersClient;
use crate::shop::{ListRequest, Order, PlaceRequest};

struct Web {
    orders: Channel,
    ledger: Place,
}

pub(crate) async fn run(listen: Place, orders: Place, ledger: Place) -> anyhow::Result<()> {
    let connector = tower::service_fn(move |_: Uri| {
        let orders = orders.clone();
        async move { connect(&orders).await.map(TokioIo::new) }
    });
    let orders = Endpoint::from_static("http://orders.shop").connect_with_connector_lazy(connector);
    let web = Arc::new(Web { orders, ledger });
    serve(listen, move |request| {
        let web = web.clone();
        async move { web.answer(request).await }
    })
    .await
}

impl Web {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().to_owned();
        match (request.method().as_str(), path.as_str()) {
            ("GET", "/") => reply(200, &json!({"shop": "open", "hello": user(&request)})),
            ("GET", "/whoami") => reply(
                200,
                &json!({
                    "user": context::claims(header(&request, context::USER)),
                    "workload": header(&request, "x-forwarded-client-cert"),
                    "txn_token": header(&request, context::TXN_TOKEN).is_some(),
                }),
            ),
            ("GET", "/orders") => self.list(&request).await,
            ("POST", path) if path.starts_with("/orders/") => {
                self.place(&request, &path["/orders/".len()..]).await
            }
            ("GET", "/ledger") => match self.write_ledger(&user(&request)).await {
                Ok(lines) => reply(200, &json!({ "ledger": lines })),
                Err(error) => reply(502, &json!({"error": format!("ledger: {error}")})),
            },
            _ => reply(404, &json!({"error": "expected /, /whoami, /orders, /orders/{sku} or /ledger"})),
        }
    }

    async fn list(&self, request: &Request<Incoming>) -> Reply {
        let mut client = OrdersClient::new(self.orders.clone());
        match client.list(forward(request, ListRequest {})).await {
            Ok(answer) => {
                let orders: Vec<_> = answer.into_inner().orders.iter().map(shown).collect();
                reply(200, &json!({"seen_by_web": user(request), "orders": orders}))
            }
            Err(status) => refused(&status),
        }
    }

    async fn place(&self, request: &Request<Incoming>, sku: &str) -> Reply {
        let mut client = OrdersClient::new(self.orders.clone());
        match client.place(forward(request, PlaceRequest { sku: sku.to_owned(), quantity: 1 })).await {
            Ok(answer) => reply(201, &shown(&answer.into_inner())),
            Err(status) => refused(&status),
        }
    }

    /// The greeting, then the acknowledgement of one line.
    async fn write_ledger(&self, user: &str) -> std::io::Result<Vec<String>> {
        let mut stream = BufReader::new(connect(&self.ledger).await?);
        let mut lines = Vec::new();
        for line in [None, Some(format!("{user} looked\n"))] {
            if let Some(line) = line {
                stream.get_mut().write_all(line.as_bytes()).await?;
            }
            let mut answer = String::new();
            if stream.read_line(&mut answer).await? == 0 {
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            lines.push(answer.trim_end().to_owned());
        }
        Ok(lines)
    }
}

fn user(request: &Request<Incoming>) -> String {
    context::user(header(request, context::USER))
}

/// The recipe: one header from the request being served to the request being made.
fn forward<T>(served: &Request<Incoming>, message: T) -> tonic::Request<T> {
    let mut call = tonic::Request::new(message);
    if let Some(token) =
        header(served, context::TXN_TOKEN).and_then(|token| MetadataValue::try_from(token).ok())
    {
        call.metadata_mut().insert(context::TXN_TOKEN, token);
    }
    call
}

fn shown(order: &Order) -> serde_json::Value {
    json!({
        "id": order.id, "sku": order.sku, "quantity": order.quantity, "in_stock": order.in_stock,
        "seen_by_orders": order.seen_by_orders, "seen_by_inventory": order.seen_by_inventory,
    })
}

fn refused(status: &Status) -> Reply {
    let http = match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => 403,
        Code::InvalidArgument => 400,
        Code::Unavailable => 503,
        _ => 502,
    };
    let decision = status.metadata().get("signet-decision-id").and_then(|id| id.to_str().ok());
    reply(
        http,
        &json!({"error": status.message(), "code": format!("{:?}", status.code()), "decision": decision}),
    )
}
