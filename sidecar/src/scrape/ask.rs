//! Asking the app for its metrics, as Prometheus would.

use std::io;
use std::net::{IpAddr, SocketAddr};

use http::header::{ACCEPT, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::Format;
use super::lines::Malformed;
use crate::config::AppMetrics;

/// More than a large app says. What is read here is in the sidecar's memory.
const MOST: usize = 4 * 1024 * 1024;
/// An answer's head.
const HEAD_BYTES: usize = 64 * 1024;
/// Ours alone are text: so that is what is asked for of whom OpenMetrics would be no use.
const TEXT: &str = "text/plain;version=0.0.4";
const BOTH: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// Why there is nothing of the app.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("it is not reached: {0}")]
    Unreached(#[from] io::Error),
    #[error("it speaks no HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("expected a request that can be sent: {0}")]
    Request(#[from] http::Error),
    #[error("expected 200 OK, got {0}")]
    Status(StatusCode),
    #[error("expected metrics as text, not encoded, got {0:?}")]
    Format(String),
    #[error("expected at most {MOST} bytes, got more")]
    TooLarge,
    #[error("it took too long")]
    Timeout,
    #[error("whoever asked did not wait for it")]
    Impatient,
    #[error("it is asked at too many addresses already")]
    Busy,
    #[error(transparent)]
    Malformed(Malformed),
    #[error("it could not be read: {0}")]
    Unread(#[from] JoinError),
}

impl Failure {
    /// A short name for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Unreached(_) => "unreached",
            Self::Http(_) | Self::Request(_) => "http",
            Self::Status(_) => "status",
            Self::Format(_) => "format",
            Self::TooLarge => "too-large",
            Self::Timeout => "timeout",
            Self::Impatient => "impatient",
            Self::Busy => "busy",
            Self::Malformed(_) | Self::Unread(_) => "malformed",
        }
    }
}

/// What the app answered.
pub(super) struct Asked {
    pub(super) format: Format,
    pub(super) body: Bytes,
}

/// Whoever calls ends it at `end`; the app is told how long that is.
pub(super) async fn ask(
    app: &AppMetrics,
    at: IpAddr,
    openmetrics: bool,
    end: Instant,
) -> Result<Asked, Failure> {
    let address = SocketAddr::new(at, app.port.get());
    let stream = TcpStream::connect(address).await?;
    let patience = end.saturating_duration_since(Instant::now()).as_secs_f64();
    let request = Request::get(&app.path)
        .header(HOST, address.to_string())
        .header(ACCEPT, if openmetrics { BOTH } else { TEXT })
        .header(USER_AGENT, concat!("signet-sidecar/", env!("CARGO_PKG_VERSION")))
        .header(HeaderName::from_static("x-prometheus-scrape-timeout-seconds"), patience.to_string())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(Failure::Status(answer.status()));
        }
        let format = format(answer.headers(), openmetrics)?;
        match Limited::new(answer.into_body(), MOST).collect().await {
            Ok(body) => Ok(Asked { format, body: body.to_bytes() }),
            Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLarge),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(error) => Err(Failure::Http(*error)),
                Err(error) => Err(Failure::Unreached(io::Error::other(error))),
            },
        }
    };
    tokio::pin!(connection, answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

/// What a content type means to Prometheus. Nothing at all is text, as it takes it.
fn format(headers: &HeaderMap, openmetrics: bool) -> Result<Format, Failure> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if let Some(encoding) = text(CONTENT_ENCODING).filter(|encoding| encoding != "identity") {
        return Err(Failure::Format(encoding));
    }
    let kind = text(CONTENT_TYPE).unwrap_or_default();
    let name = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
        "" | "text/plain" => Ok(Format::Text),
        "application/openmetrics-text" if openmetrics => Ok(Format::OpenMetrics),
        _ => Err(Failure::Format(kind.chars().take(100).collect())),
    }
}
