//! Just enough HTTP for the apps: serve a function, call a place. A place is a Unix socket or a
//! TCP address.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// `unix:/path` or `host:port`.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Unix(PathBuf),
    Tcp(String),
}

impl FromStr for Place {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(text.strip_prefix("tcp:").unwrap_or(text).into()),
        })
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
pub(crate) type BoxedStream = Pin<Box<dyn Stream>>;

pub(crate) async fn connect(place: &Place) -> std::io::Result<BoxedStream> {
    Ok(match place {
        Place::Unix(path) => Box::pin(UnixStream::connect(path).await?),
        Place::Tcp(address) => Box::pin(TcpStream::connect(address).await?),
    })
}

/// A bound listener; `accept` yields streams of either kind.
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    pub(crate) async fn bind(place: &Place) -> anyhow::Result<Self> {
        Ok(match place {
            Place::Unix(path) => {
                let _ = std::fs::remove_file(path);
                Self::Unix(
                    UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?,
                )
            }
            Place::Tcp(address) => Self::Tcp(
                TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?,
            ),
        })
    }

    pub(crate) async fn accept(&self) -> std::io::Result<BoxedStream> {
        Ok(match self {
            Self::Unix(listener) => Box::pin(listener.accept().await?.0),
            Self::Tcp(listener) => Box::pin(listener.accept().await?.0),
        })
    }
}

pub(crate) type Reply = Response<Full<Bytes>>;

/// Serves `handle` over HTTP/1.1 until the process ends.
pub(crate) async fn serve<F, Fut>(listen: Place, handle: F) -> anyhow::Result<()>
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Reply> + Send + 'static,
{
    let listener = Listener::bind(&listen).await?;
    loop {
        let stream = listener.accept().await?;
        let handle = handle.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let reply = handle(request);
                async move { Ok::<_, Infallible>(reply.await) }
            });
            // A client that goes away is not this app's concern.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// One request to a place; the answer's body is read whole (at most 1 MiB).
pub(crate) async fn call(place: &Place, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
    let stream = connect(place).await.with_context(|| format!("connecting to {place:?}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body =
        Limited::new(body, 1 << 20).collect().await.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

pub(crate) fn json(status: u16, value: &serde_json::Value) -> Reply {
    let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
    body.push(b'\n');
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    reply
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    reply
}

pub(crate) fn text(body: String) -> Reply {
    Response::new(Full::new(body.into()))
}

pub(crate) fn header<'r, B>(request: &'r Request<B>, name: &str) -> Option<&'r str> {
    request.headers().get(name)?.to_str().ok()
}
