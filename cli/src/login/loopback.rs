//! Where the browser comes back to: a listener on this machine, for one login (RFC 8252, section 7.3).
//!
//! The answer is believed only with the `state` that this login made, and, where the provider says who it is (RFC
//! 9207), only from the provider that was asked. Whatever else knocks (another tab, a favicon, somebody probing the
//! port) is sent away and does not end the wait.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// For the person to find their second factor.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
const PATH: &str = "/callback";
/// Connections at once.
const MOST: usize = 8;

pub(crate) struct Loopback {
    listener: TcpListener,
    address: SocketAddr,
}

/// What an answer must carry.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) state: String,
    pub(crate) issuer: String,
    /// The provider promises to say who it is in every answer.
    pub(crate) names_itself: bool,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Code(String),
    /// The provider's words: error and description.
    Refused(String),
}

impl Loopback {
    pub(crate) async fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listening for the browser")?;
        let address = listener.local_addr().context("listening for the browser")?;
        Ok(Self { listener, address })
    }

    pub(crate) fn redirect_uri(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// The authorisation code.
    pub(crate) async fn code(self, expected: Expected) -> anyhow::Result<String> {
        let (tell, mut told) = mpsc::channel(1);
        let mut connections = JoinSet::new();
        let end = tokio::time::sleep(PATIENCE);
        tokio::pin!(end);
        let answer = loop {
            tokio::select! {
                answer = told.recv() => break answer,
                () = &mut end => break None,
                accepted = self.listener.accept() => {
                    // Whoever floods the port waits; the browser's connection may be among those that are open.
                    while connections.len() >= MOST {
                        connections.join_next().await;
                    }
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(serve(stream, expected.clone(), tell.clone()));
                    }
                }
            }
        };
        // The page is on its way, and the process may end soon.
        let sent = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(2), sent).await;
        match answer {
            Some(Answer::Code(code)) => Ok(code),
            Some(Answer::Refused(why)) => {
                bail!("the provider refused the login: {}", crate::operator::one_line(&why))
            }
            None => bail!("nobody came back from the browser within {} minutes", PATIENCE.as_secs() / 60),
        }
    }
}

/// One connection: one question, one page.
async fn serve(stream: TcpStream, expected: Expected, tell: mpsc::Sender<Answer>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (answer, page) = judge(&request, &expected);
        if let Some(answer) = answer {
            // The first one counts.
            let _ = tell.try_send(answer);
        }
        async move { Ok::<_, Infallible>(page) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .max_buf_size(16 * 1024)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(Duration::from_secs(10), connection).await;
}

fn judge(request: &Request<Incoming>, expected: &Expected) -> (Option<Answer>, Response<Full<Bytes>>) {
    if request.method() != http::Method::GET || request.uri().path() != PATH {
        return (None, page(StatusCode::NOT_FOUND, "There is nothing here."));
    }
    match read(request.uri().query().unwrap_or_default(), expected) {
        Ok(answer @ Answer::Code(_)) => (
            Some(answer),
            page(StatusCode::OK, "You are back: the terminal says how it went. You may close this window."),
        ),
        Ok(answer) => {
            (Some(answer), page(StatusCode::OK, "The provider refused the login. You may close this window."))
        }
        Err(why) => {
            eprintln!("an answer was left aside: {why}");
            (None, page(StatusCode::BAD_REQUEST, "This is not the answer that was waited for."))
        }
    }
}

fn read(query: &str, expected: &Expected) -> Result<Answer, &'static str> {
    let one = |name: &str| {
        let mut values = oauth2::url::form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
        match (values.next(), values.next()) {
            (found, None) => Ok(found.map(|(_, value)| value.into_owned())),
            _ => Err("a parameter stands twice"),
        }
    };
    if one("state")?.as_deref() != Some(expected.state.as_str()) {
        return Err("its state is not that of this login");
    }
    match one("iss")? {
        Some(issuer) if issuer != expected.issuer => return Err("it comes from another provider"),
        None if expected.names_itself => return Err("it does not say which provider it comes from"),
        _ => {}
    }
    if let Some(error) = one("error")? {
        let description = one("error_description")?.map(|it| format!(": {it}")).unwrap_or_default();
        return Ok(Answer::Refused(format!("{error}{description}")));
    }
    one("code")?.filter(|code| !code.is_empty()).map(Answer::Code).ok_or("it has no code")
}

/// Nothing of the request is in it.
fn page(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let body = format!("<!doctype html><meta charset=utf-8><title>signet login</title><p>{text}</p>\n");
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", "default-src 'none'"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
    ] {
        response.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(names_itself: bool) -> Expected {
        Expected { state: "s-1".into(), issuer: "https://login.example.com".into(), names_itself }
    }

    #[test]
    fn an_answer_counts_only_with_this_logins_state_and_from_its_provider() {
        let code = Ok(Answer::Code("c".into()));
        let iss = "iss=https%3A%2F%2Flogin.example.com";
        assert_eq!(read("code=c&state=s-1", &expected(false)), code);
        assert_eq!(read(&format!("code=c&state=s-1&{iss}"), &expected(true)), code);
        for (query, names_itself) in [
            ("code=c", false),
            ("code=c&state=s-2", false),
            ("code=c&state=s-1&state=s-1", false),
            ("code=c&code=d&state=s-1", false),
            ("code=&state=s-1", false),
            ("state=s-1", false),
            ("code=c&state=s-1&iss=https%3A%2F%2Fevil.example.com", false),
            ("code=c&state=s-1", true),
        ] {
            assert!(read(query, &expected(names_itself)).is_err(), "{query}");
        }
        let refused = read("error=access_denied&error_description=no+way&state=s-1", &expected(false));
        assert_eq!(refused, Ok(Answer::Refused("access_denied: no way".into())));
    }
}
