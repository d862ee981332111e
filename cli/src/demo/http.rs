//! One HTTP request over TCP, for the scenario.

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub(crate) async fn send(
    method: &str,
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> anyhow::Result<Response<Bytes>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = sender.send_request(request.body(Full::new(Bytes::new()))?).await?;
    let (parts, body) = answer.into_parts();
    let body =
        Limited::new(body, 1 << 20).collect().await.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

pub(crate) fn header<'a>(answer: &'a Response<Bytes>, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The body on one line, for showing.
pub(crate) fn brief(answer: &Response<Bytes>) -> String {
    let text = String::from_utf8_lossy(answer.body());
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
