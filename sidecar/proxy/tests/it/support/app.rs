//! Apps behind a sidecar.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// An app that answers with what it got: request line and headers as lines, an empty line, the body.
pub async fn echo() -> SocketAddr {
    counted_echo().await.0
}

/// The same at this address.
pub async fn echo_at(address: &str) -> SocketAddr {
    echoing(TcpListener::bind(address).await.unwrap()).0
}

/// The same, with a count of the connections that it took.
pub async fn counted_echo() -> (SocketAddr, Arc<AtomicUsize>) {
    echoing(TcpListener::bind("127.0.0.1:0").await.unwrap())
}

fn echoing(listener: TcpListener) -> (SocketAddr, Arc<AtomicUsize>) {
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else { return };
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service_fn(answer))
                    .await;
            });
        }
    });
    (address, connections)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut text = format!("{} {}\n", head.method, head.uri);
    for (name, value) in &head.headers {
        text += &format!("{name}: {}\n", value.to_str().unwrap_or("?"));
    }
    text.push('\n');
    let mut out = text.into_bytes();
    let mut trailers = String::new();
    if let Ok(collected) = body.collect().await {
        if let Some(found) = collected.trailers() {
            for (name, value) in found {
                trailers += &format!("trailer {name}: {}\n", value.to_str().unwrap_or("?"));
            }
        }
        out.extend_from_slice(&collected.to_bytes());
    }
    out.extend_from_slice(trailers.as_bytes());
    Ok(Response::new(Full::new(out.into())))
}

/// An app that does with each connection what the function says.
pub async fn scripted<F, Fut>(script: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let script = script.clone();
            tokio::spawn(async move { script(socket).await });
        }
    });
    address
}

/// An app that answers every request on a connection with these bytes, once it saw the end of a head.
pub async fn fixed(answer: &'static [u8]) -> SocketAddr {
    scripted(move |mut socket| async move {
        while read_head(&mut socket).await.is_some() {
            if socket.write_all(answer).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Reads up to the end of a head; what follows it on the connection must come later.
pub async fn read_head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}
