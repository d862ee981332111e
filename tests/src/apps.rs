//! Apps for the mesh to carry: they answer with what they saw.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// An HTTP app (HTTP/1.1 and prior-knowledge HTTP/2) that answers each request with a JSON document of it, under the
/// status that its header `x-answer` asks for.
pub struct Echo {
    pub address: String,
    seen: Arc<AtomicUsize>,
    last: Arc<Mutex<Value>>,
}

impl Echo {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an app's port");
        let address = listener.local_addr().expect("its address").to_string();
        let (seen, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Value::Null)));
        let (count, keep) = (seen.clone(), last.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (count, keep) = (count.clone(), keep.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let (count, keep) = (count.clone(), keep.clone());
                        async move {
                            let status =
                                request.headers().get("x-answer").and_then(|status| status.to_str().ok());
                            let status =
                                status.and_then(|status| status.parse().ok()).unwrap_or(StatusCode::OK);
                            let answer = describe(request).await;
                            count.fetch_add(1, Ordering::SeqCst);
                            *keep.lock().expect("the last request") = answer.clone();
                            let mut answer = Response::new(Full::new(Bytes::from(answer.to_string())));
                            *answer.status_mut() = status;
                            Ok::<_, Infallible>(answer)
                        }
                    });
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, seen, last }
    }

    /// How many requests have arrived.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    pub fn last(&self) -> Value {
        self.last.lock().expect("the last request").clone()
    }
}

async fn describe(request: Request<Incoming>) -> Value {
    let (parts, body) = request.into_parts();
    let mut headers = Map::new();
    for name in parts.headers.keys() {
        let values: Vec<_> = parts
            .headers
            .get_all(name)
            .iter()
            .map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned())
            .collect();
        headers.insert(name.to_string(), json!(values));
    }
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    json!({
        "method": parts.method.as_str(), "path": parts.uri.path(), "query": parts.uri.query(),
        "version": format!("{:?}", parts.version), "headers": headers, "body": String::from_utf8_lossy(&body),
    })
}

/// A TCP app that greets first, then echoes, and ends when the client has ended.
pub async fn greeter() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("an app's port");
    let address = listener.local_addr().expect("its address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"hello\n").await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

/// A TCP app that keeps every connection's bytes until its end and then answers with their number.
pub async fn counter() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("an app's port");
    let address = listener.local_addr().expect("its address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut count, mut buffer) = (0usize, vec![0; 1 << 16]);
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    count += read;
                }
                let _ = stream.write_all(count.to_string().as_bytes()).await;
            });
        }
    });
    address
}
