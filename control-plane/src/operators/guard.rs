//! What every call of an operator passes, on either door, before the service behind it sees it.
//!
//! Who calls, whether the call is known, whether the role suffices for these arguments, whether a second person
//! is needed; then the call, then its record. A call that changed something and could not be recorded is answered as
//! failed: its answer, which may be a secret, is withheld. The request is read whole (operators' requests are small
//! and none is a stream), so that what was judged is, byte for byte, what runs.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use signet_ca::Authority;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use super::approvals::{Approvals, Ticket, digest};
use super::audit::{self, Call};
use super::config::Operators;
use super::table::{self, Row};
use super::who::Who;
use crate::clock::unix_now;
use crate::metrics::Metrics;

/// The header of an answer that says which request waits for a second person.
pub const APPROVAL: &str = "signet-approval";

/// What all guarded services share.
pub struct Desk {
    pub config: Operators,
    pub authority: Authority,
    pub approvals: Approvals,
    pub metrics: Metrics,
    /// The largest request, in bytes.
    pub max_message: usize,
}

/// A service that only operators reach, and only for what they may.
pub struct Guarded<S> {
    inner: S,
    desk: Arc<Desk>,
}

impl<S: Clone> Clone for Guarded<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), desk: Arc::clone(&self.desk) }
    }
}

impl<S> Guarded<S> {
    pub fn new(inner: S, desk: Arc<Desk>) -> Self {
        Self { inner, desk }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that was polled ready is the one that is called.
        let other = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, other);
        let desk = Arc::clone(&self.desk);
        Box::pin(
            async move { Ok(desk.pass(inner, S::NAME, request).await.unwrap_or_else(Status::into_http)) },
        )
    }
}

/// A call that was let through.
struct Passed {
    row: &'static Row,
    words: String,
    approved_by: Option<String>,
}

/// A call that was not.
struct Stopped {
    row: Option<&'static Row>,
    words: String,
    status: Status,
}

impl Desk {
    async fn pass<S>(
        &self,
        mut inner: S,
        service: &'static str,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let (mut parts, body) = request.into_parts();
        let method = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        let who = Arc::new(Who::find(&parts.extensions, &self.authority, &self.config.roles).await?);
        let read = Limited::new(body, self.max_message.saturating_add(FRAME)).collect().await;
        let frame = read.map(http_body_util::Collected::to_bytes);
        let judged = match &frame {
            Ok(frame) => self.judge(&who, service, &method, frame),
            Err(_) => Err(Stopped {
                row: table::find(service, &method),
                words: String::new(),
                status: Status::resource_exhausted("the request is too large, or did not arrive whole"),
            }),
        };
        let passed = match judged {
            Ok(passed) => passed,
            Err(stopped) => return Err(self.refuse(&who, &method, stopped).await),
        };
        parts.extensions.insert(Arc::clone(&who));
        let body = Body::new(Full::new(frame.unwrap_or_default()));
        let Ok(response) = inner.call(Request::from_parts(parts, body)).await;
        let code = code_of(&response);
        let call = Call {
            who: &who,
            name: passed.row.name,
            row: Some(passed.row),
            words: &passed.words,
            code,
            result: "",
            approved_by: passed.approved_by.as_deref(),
            refused: false,
        };
        match audit::write(&self.authority, &call).await {
            Ok(()) => Ok(response),
            Err(error) => {
                tracing::error!(target: "signet::audit", %error, call = passed.row.name, actor = who.actor, ?code, "a call was made and could not be recorded");
                Err(Status::unavailable(format!(
                    "the call was made and came to {code:?}, but could not be recorded; its answer is withheld"
                )))
            }
        }
    }

    fn judge(
        &self,
        who: &Who,
        service: &'static str,
        method: &str,
        frame: &Bytes,
    ) -> Result<Passed, Stopped> {
        let Some(row) = table::find(service, method) else {
            let status = Status::unimplemented("no such call");
            return Err(Stopped { row: None, words: String::new(), status });
        };
        let stop = |words: &str, status| Stopped { row: Some(row), words: words.to_owned(), status };
        let message = message(frame).map_err(|status| stop("", status))?;
        let ask = row.ask(message).map_err(|error| {
            stop("", Status::invalid_argument(format!("the request cannot be read: {error}")))
        })?;
        if !who.standing.may(&ask.need) {
            let text = format!("{} needs the role {}, you are {}", row.name, ask.need, who.standing);
            return Err(stop(&ask.words, Status::permission_denied(text)));
        }
        if !self.config.second_person.contains(row.name) {
            return Ok(Passed { row, words: ask.words, approved_by: None });
        }
        let digest = digest(row, message);
        let ticket =
            self.approvals.ask((&who.actor, who.name()), row, (&ask.need, &ask.words), digest, unix_now());
        match ticket {
            Ticket::Approved(by) => Ok(Passed { row, words: ask.words, approved_by: Some(by) }),
            Ticket::Waits(request) => {
                let text = format!(
                    "{} needs a second person: have another operator run `signet approvals approve {}`, then make the same call again within 15 minutes of the first",
                    row.name, request.id
                );
                let mut status = Status::failed_precondition(text);
                if let Ok(id) = request.id.parse() {
                    status.metadata_mut().insert(APPROVAL, id);
                }
                Err(stop(&ask.words, status))
            }
            Ticket::Full => Err(stop(
                &ask.words,
                Status::resource_exhausted("too many calls wait for a second person: approve or deny some"),
            )),
            Ticket::Failed => Err(stop(&ask.words, Status::unavailable("no randomness"))),
        }
    }

    /// The record of a refusal; a refusal stands whether or not it could be recorded.
    async fn refuse(&self, who: &Who, method: &str, stopped: Stopped) -> Status {
        let Stopped { row, words, status } = stopped;
        let code = format!("{:?}", status.code());
        // A method that does not exist is the caller's text, and no label.
        let label = row.map_or("unknown", |row| row.name);
        self.metrics.operator_calls_refused.with_label_values(&[label, &code]).inc();
        let waits = status.metadata().get(APPROVAL).and_then(|id| id.to_str().ok());
        let result = waits.map_or_else(|| "refused".to_owned(), |id| format!("waits as {id}"));
        let unknown = format!("{method:?}");
        let call = Call {
            who,
            name: row.map_or(unknown.as_str(), |row| row.name),
            row,
            words: &words,
            code: status.code(),
            result: &result,
            approved_by: None,
            refused: true,
        };
        if let Err(error) = audit::write(&self.authority, &call).await {
            tracing::error!(target: "signet::audit", %error, "a refusal could not be recorded");
        }
        status
    }
}

/// One byte of flags and four of length, before each message of gRPC.
const FRAME: usize = 5;

/// The one message of a request.
fn message(frame: &[u8]) -> Result<&[u8], Status> {
    let broken = || Status::invalid_argument("expected one gRPC message, uncompressed");
    let (head, message) = frame.split_first_chunk::<FRAME>().ok_or_else(broken)?;
    let [flag, length @ ..] = *head;
    let whole = usize::try_from(u32::from_be_bytes(length)).is_ok_and(|length| length == message.len());
    if flag == 0 && whole { Ok(message) } else { Err(broken()) }
}

/// What came of it: an error is in the headers, since nothing was sent before it; otherwise all is well, or a
/// stream has begun.
fn code_of(response: &Response<Body>) -> Code {
    let status: Option<&HeaderValue> = response.headers().get("grpc-status");
    status.map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_uncompressed_message_is_read() {
        assert_eq!(message(&[0, 0, 0, 0, 2, 7, 8]).unwrap(), [7, 8]);
        assert_eq!(message(&[0, 0, 0, 0, 0]).unwrap(), [0_u8; 0]);
        for bad in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 1, 7], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 1, 7, 8]] {
            assert_eq!(message(bad).unwrap_err().code(), Code::InvalidArgument, "{bad:?}");
        }
    }
}
