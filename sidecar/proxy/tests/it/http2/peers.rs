//! HTTP/2 apps and callers, on the `h2` crate itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::support::caller::within;

/// An app that does with each request what the function says. Also: how many connections it took.
pub async fn app<F, Fut>(handler: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    app_with(h2::server::Builder::new(), handler).await
}

/// The same, with settings of its own.
pub async fn app_with<F, Fut>(builder: h2::server::Builder, handler: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, handler) = (connections.clone(), Arc::new(handler));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(builder.clone(), socket, handler.clone()));
        }
    });
    (address, connections)
}

/// Serves one connection to its end.
pub async fn serve<F, Fut>(builder: h2::server::Builder, socket: TcpStream, handler: Arc<F>)
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    socket.set_nodelay(true).unwrap();
    let Ok(mut connection) = builder.handshake(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(handler(request, respond));
    }
}

/// A caller's connection.
pub async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    connect_with(h2::client::Builder::new(), address).await.0
}

/// The same, with settings of its own; also the task that ends with the connection.
pub async fn connect_with(
    builder: h2::client::Builder,
    address: SocketAddr,
) -> (SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let socket = within(TcpStream::connect(address)).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (sender, connection) = within(builder.handshake(socket)).await.unwrap();
    let driver = tokio::spawn(connection);
    (within(sender.ready()).await.unwrap(), driver)
}

/// A gRPC call's head.
pub fn call(path: &str) -> Request<()> {
    Request::post(format!("http://orders.shop{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// A whole answer.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.as_ref()?.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Reads a body and its trailers, acknowledging as it goes.
pub async fn drain(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        all.extend_from_slice(&part);
        body.flow_control().release_capacity(part.len())?;
    }
    Ok((all, body.trailers().await?))
}

pub async fn answer(response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    within(async {
        let (head, body) = response.await?.into_parts();
        let (body, trailers) = drain(body).await?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
    })
    .await
}

/// Sends a request with this body, and waits for the whole answer.
pub async fn send(
    sender: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: impl Into<Bytes>,
) -> Result<Answer, h2::Error> {
    let body = body.into();
    let (response, mut stream) = sender.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        write(&mut stream, body, true).await?;
    }
    answer(response).await
}

/// Sends data as the window allows.
pub async fn write(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Err(h2::Reason::CANCEL.into()),
            };
        }
        let part = data.split_to(stream.capacity().min(data.len()));
        stream.send_data(part, end && data.is_empty())?;
    }
    Ok(())
}

/// Answers 200 with this body and gRPC's trailers.
pub fn answer_ok(respond: &mut SendResponse<Bytes>, body: impl Into<Bytes>) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    if let Ok(mut stream) = respond.send_response(head, false) {
        let _ = stream.send_data(body.into(), false);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let _ = stream.send_trailers(trailers);
    }
}
