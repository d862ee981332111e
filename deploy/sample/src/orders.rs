//! Orders over gRPC. For each one it asks `inventory`, with the token of the call that it serves.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http_body_util::Full;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::context;
use crate::http::{BoxedStream, Listener, Place, call};
use crate::shop::orders_server::{Orders, OrdersServer};
use crate::shop::{ListRequest, ListResponse, Order, PlaceRequest};

pub(crate) async fn run(listen: Place, inventory: Place) -> anyhow::Result<()> {
    let listener = Listener::bind(&listen).await?;
    let incoming = stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(Accepted);
        Some((accepted, listener))
    });
    let book = vec![("1001".to_owned(), "apple".to_owned(), 3), ("1002".to_owned(), "pear".to_owned(), 12)];
    let shop = Shop { inventory: Arc::new(inventory), book: Arc::new(Mutex::new(book)) };
    tonic::transport::Server::builder()
        .add_service(OrdersServer::new(shop))
        .serve_with_incoming(incoming)
        .await
        .context("serving gRPC")
}

struct Shop {
    inventory: Arc<Place>,
    book: Arc<Mutex<Vec<(String, String, u32)>>>,
}

impl Shop {
    fn book(&self) -> Vec<(String, String, u32)> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tonic::async_trait]
impl Orders for Shop {
    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let caller = Caller::of(request.metadata());
        let mut orders = Vec::new();
        for entry in self.book() {
            orders.push(order(&self.inventory, &caller, entry).await?);
        }
        Ok(Response::new(ListResponse { orders }))
    }

    async fn place(&self, request: Request<PlaceRequest>) -> Result<Response<Order>, Status> {
        let caller = Caller::of(request.metadata());
        let PlaceRequest { sku, quantity } = request.into_inner();
        if sku.is_empty() || !sku.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Status::invalid_argument("sku: expected letters and digits"));
        }
        let entry = {
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = ((1001 + book.len()).to_string(), sku, quantity);
            book.push(entry.clone());
            entry
        };
        Ok(Response::new(order(&self.inventory, &caller, entry).await?))
    }

    type WatchStream = BoxStream<'static, Result<Order, Status>>;

    async fn watch(&self, request: Request<ListRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(request.metadata());
        let inventory = self.inventory.clone();
        let orders = stream::iter(self.book()).then(move |entry| {
            let (inventory, caller) = (inventory.clone(), caller.clone());
            async move { order(&inventory, &caller, entry).await }
        });
        Ok(Response::new(orders.boxed()))
    }
}

/// What of a call goes into the calls made for it.
#[derive(Clone)]
struct Caller {
    token: Option<String>,
    user: String,
}

impl Caller {
    fn of(metadata: &MetadataMap) -> Self {
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        Self { token: text(context::TXN_TOKEN).map(str::to_owned), user: context::user(text(context::USER)) }
    }
}

async fn order(inventory: &Place, caller: &Caller, entry: (String, String, u32)) -> Result<Order, Status> {
    let (id, sku, quantity) = entry;
    let mut request = http::Request::get(format!("/stock/{sku}")).header("host", "inventory.shop");
    if let Some(token) = &caller.token {
        request = request.header(context::TXN_TOKEN, token);
    }
    let request = request
        .body(Full::new(Bytes::new()))
        .map_err(|error| Status::internal(format!("building the call to inventory: {error}")))?;
    let answer = call(inventory, request)
        .await
        .map_err(|error| Status::unavailable(format!("inventory: {error:#}")))?;
    if answer.status() != http::StatusCode::OK {
        return Err(Status::permission_denied(format!("inventory answered {}", answer.status())));
    }
    let stock: serde_json::Value = serde_json::from_slice(answer.body())
        .map_err(|error| Status::internal(format!("inventory's answer: {error}")))?;
    Ok(Order {
        id,
        sku,
        quantity,
        in_stock: stock["in_stock"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        seen_by_orders: caller.user.clone(),
        seen_by_inventory: stock["user"].as_str().unwrap_or("nobody").to_owned(),
    })
}

/// Lets tonic serve any stream.
struct Accepted(BoxedStream);

impl tonic::transport::server::Connected for Accepted {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl tokio::io::AsyncRead for Accepted {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.0.as_mut().poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Accepted {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.0.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }
}
