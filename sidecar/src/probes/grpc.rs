//! `grpc.health.v1.Health/Check`, in the few bytes that it is.

use std::net::SocketAddr;

use http::{Method, Request, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::ask::AskError;

/// An answer is a handful of bytes.
const MOST: usize = 4096;
/// `HealthCheckResponse.ServingStatus.SERVING`
const SERVING: u8 = 1;

/// Good, or why not.
pub(super) async fn check(stream: TcpStream, app: SocketAddr, service: &str) -> Result<(), AskError> {
    let (mut sender, connection) =
        http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driven = tokio::spawn(connection);
    let answered = exchange(&mut sender, app, service).await;
    driven.abort();
    answered
}

async fn exchange(
    sender: &mut http2::SendRequest<Full<Bytes>>,
    app: SocketAddr,
    service: &str,
) -> Result<(), AskError> {
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{app}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/signet")
        .body(Full::new(Bytes::from(question(service))))?;
    let answer = sender.send_request(request).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MOST).collect().await;
    let body = body.map_err(|error| AskError::Grpc(format!("more than a health check does: {error}")))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
    let status = status.and_then(|value| value.to_str().ok()).unwrap_or("no status");
    if !head.status.is_success() || status != "0" {
        return Err(AskError::Grpc(format!("HTTP {}, gRPC {status}", head.status.as_u16())));
    }
    match serving(&body.to_bytes()) {
        Some(SERVING) => Ok(()),
        other => Err(AskError::Grpc(format!("that it is not serving ({})", other.unwrap_or(0)))),
    }
}

/// A message of one field, `service = 1`, behind gRPC's five bytes.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend(message);
    framed
}

/// The field `status = 1` of the one message; unset it is `UNKNOWN`.
fn serving(body: &[u8]) -> Option<u8> {
    let (head, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head.get(1..)?.try_into().ok()?);
    if head.first() != Some(&0) || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status, ..] if *status < 0x80 => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_what_protobuf_makes_of_it() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("a.B"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = question(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
    }

    #[test]
    fn only_serving_is_good_and_nonsense_is_not() {
        assert_eq!(serving(&[0, 0, 0, 0, 2, 0x08, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 2, 0x08, 2]), Some(2));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        for broken in
            [&[][..], &[0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 9, 8, 1], &[0, 0, 0, 0, 1, 8]]
        {
            assert_eq!(serving(broken), None, "{broken:?}");
        }
    }
}
