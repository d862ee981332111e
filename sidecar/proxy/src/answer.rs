//! The one table in which a refusal becomes an answer.
//!
//! A [`Reason`] says what was refused and is a metric label; a [`Refusal`] is one occurrence, with its
//! decision id and, for the log alone, the detail. [`Answer`] is what the caller gets: a status, few
//! headers and a short problem document for HTTP, trailers only for gRPC; a TCP stream is closed.
//! Callers inside the mesh learn the typed reason, callers outside only the decision id, nobody the
//! detail.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;

use bytes::Bytes;

use crate::decision::DecisionId;

/// Why something was refused or failed. Every value is a row of the table below.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// Plaintext came where mutual TLS is required.
    Plaintext,
    /// A policy forbids it, or none permits it.
    Policy,
    /// Policies permit it, and a provider that was asked does not.
    External,
    /// A provider that was to be asked gave no answer that counts; the label says why.
    ExternalUnavailable(&'static str),
    /// The policy of this service has not arrived or cannot be read.
    PolicyUnavailable,
    /// The transaction token does not verify; the label says how.
    ContextInvalid(&'static str),
    /// This service asks for a hop proof, and none that is good came with the token; the label says how.
    HopInvalid(&'static str),
    /// The keys that the token needs are not here yet.
    ContextUnavailable,
    /// Our app chose a token, with the handle of a request of another transaction.
    ContextMismatch,
    /// This service takes the original JWT and none came.
    OriginalMissing,
    /// The original JWT does not verify; the label says how.
    OriginalInvalid(&'static str),
    /// No service of the mesh is known under this address, and unknown ones are not dialled.
    DestinationUnknown,
    /// No ExternalService lists this place outside the mesh for us, and unlisted ones are not called.
    EgressDenied,
    /// The name of a place outside the mesh does not resolve.
    NameUnresolved,
    /// The name of a place outside resolves only to addresses that no entry opens.
    AddressRefused,
    /// TLS that we began with a place outside failed; the label says how.
    OutsideHandshake(&'static str),
    /// The control plane did not tell of this service in time, or refused to.
    ServiceUnknown,
    /// The service is known but has no such port.
    PortUnknown,
    /// The mesh knows the address but nobody's identity there: never dialled in plaintext.
    NoIdentity,
    /// The service has no endpoint now.
    NoEndpoint,
    /// No endpoint (or the app) took the connection.
    ConnectFailed,
    /// The peer's TLS handshake or identity was not what we expect; the label says how.
    PeerHandshake(&'static str),
    /// The other side went away before its answer.
    UpstreamReset,
    /// The other side's answer is not HTTP.
    UpstreamInvalid,
    /// The answer did not come in time.
    UpstreamTimeout,
    /// The request did not come in time.
    RequestTimeout,
    /// Not an acceptable request; the label says how.
    BadRequest(&'static str),
    /// The request's head is larger than we take.
    HeadTooLarge,
    /// Bytes that are no request, where policy can judge requests only.
    Undetected,
    /// A transfer coding or feature that we do not do.
    NotImplemented,
    /// CONNECT, which is off.
    MethodNotAllowed,
    /// A version of HTTP in text that is neither 1.0 nor 1.1.
    VersionNotSupported,
    /// An expectation other than 100-continue.
    ExpectationFailed,
    /// A limit of this process: connections, handshakes, buffers.
    Overloaded,
    /// The connection's governance ended it: the peer is revoked.
    Revoked,
    /// The caller's SVID has ended under its connection.
    Expired,
    /// At the edge: no acceptable credential.
    Unauthenticated,
    /// At the edge: the credential does not allow it.
    Forbidden,
    /// No route takes the request, or the connection.
    NoRoute,
    /// A hello without a server name, where the name decides.
    NoServerName,
    /// A request for a host that another listener is for than the one that its connection came in by.
    Misdirected,
    /// A route takes it and leads nowhere.
    NoBackend,
    /// Not a refusal: a route says where to ask instead, with this status.
    Redirected(u16),
    /// Trouble on purpose.
    Fault {
        /// For HTTP.
        status: u16,
        /// For gRPC.
        grpc: u8,
    },
    /// At the edge: too many requests.
    TooManyRequests,
    /// At the edge: what authentication needs is not here (keys, delegation).
    AuthUnavailable,
    /// A bug or an exhausted resource of ours.
    Internal,
}

/// Who reads the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// A peer or app of the mesh: learns the typed reason.
    Mesh,
    /// Anyone else: learns the decision id.
    Outside,
}

/// In what protocol the answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// A status and a problem document (RFC 9457).
    Http,
    /// HTTP 200 with `grpc-status` in a trailers-only response.
    Grpc,
}

/// gRPC status codes that we answer with.
mod grpc {
    pub(super) const INVALID_ARGUMENT: u8 = 3;
    pub(super) const DEADLINE_EXCEEDED: u8 = 4;
    pub(super) const PERMISSION_DENIED: u8 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
    pub(super) const UNIMPLEMENTED: u8 = 12;
    pub(super) const INTERNAL: u8 = 13;
    pub(super) const UNAVAILABLE: u8 = 14;
    pub(super) const UNAUTHENTICATED: u8 = 16;
}

impl Reason {
    /// Label, HTTP status, gRPC status, title. The label is stable: metrics and logs are read by it.
    fn row(self) -> (&'static str, u16, u8, &'static str) {
        use Reason::*;
        match self {
            Plaintext => ("plaintext", 403, grpc::PERMISSION_DENIED, "Mutual TLS required"),
            Policy => ("policy", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            External => ("external", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            ExternalUnavailable(_) => ("external-unavailable", 503, grpc::UNAVAILABLE, "Service Unavailable"),
            PolicyUnavailable => ("policy-unavailable", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            // Inside the mesh never 401: it would reach the caller outside as a challenge to log in.
            ContextInvalid(_) => ("context-invalid", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            HopInvalid(_) => ("hop-invalid", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            ContextUnavailable => ("context-unavailable", 503, grpc::UNAVAILABLE, "Service Unavailable"),
            ContextMismatch => ("context-mismatch", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            OriginalMissing => ("original-missing", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            OriginalInvalid(_) => ("original-invalid", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            DestinationUnknown => {
                ("destination-unknown", 403, grpc::PERMISSION_DENIED, "Unknown destination")
            }
            EgressDenied => ("egress-denied", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            NameUnresolved => ("name-unresolved", 503, grpc::UNAVAILABLE, "Service Unavailable"),
            AddressRefused => ("address-refused", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            OutsideHandshake(_) => ("outside-handshake", 502, grpc::UNAVAILABLE, "Bad Gateway"),
            ServiceUnknown => ("service-unknown", 503, grpc::UNAVAILABLE, "Service Unavailable"),
            PortUnknown => ("port-unknown", 503, grpc::UNAVAILABLE, "Service Unavailable"),
            NoIdentity => ("no-identity", 503, grpc::UNAVAILABLE, "Service Unavailable"),
            NoEndpoint => ("no-endpoint", 503, grpc::UNAVAILABLE, "Service Unavailable"),
            ConnectFailed => ("connect-failed", 503, grpc::UNAVAILABLE, "Service Unavailable"),
            PeerHandshake(_) => ("peer-handshake", 503, grpc::UNAVAILABLE, "Service Unavailable"),
            UpstreamReset => ("upstream-reset", 502, grpc::UNAVAILABLE, "Bad Gateway"),
            UpstreamInvalid => ("upstream-invalid", 502, grpc::INTERNAL, "Bad Gateway"),
            UpstreamTimeout => ("upstream-timeout", 504, grpc::DEADLINE_EXCEEDED, "Gateway Timeout"),
            RequestTimeout => ("request-timeout", 408, grpc::DEADLINE_EXCEEDED, "Request Timeout"),
            BadRequest(_) => ("bad-request", 400, grpc::INVALID_ARGUMENT, "Bad Request"),
            HeadTooLarge => {
                ("head-too-large", 431, grpc::RESOURCE_EXHAUSTED, "Request Header Fields Too Large")
            }
            Undetected => ("undetected", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            NotImplemented => ("not-implemented", 501, grpc::UNIMPLEMENTED, "Not Implemented"),
            MethodNotAllowed => ("method-not-allowed", 405, grpc::UNIMPLEMENTED, "Method Not Allowed"),
            VersionNotSupported => {
                ("version-not-supported", 505, grpc::UNIMPLEMENTED, "HTTP Version Not Supported")
            }
            ExpectationFailed => ("expectation-failed", 417, grpc::INVALID_ARGUMENT, "Expectation Failed"),
            Overloaded => ("overloaded", 503, grpc::RESOURCE_EXHAUSTED, "Service Unavailable"),
            Revoked => ("revoked", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            Expired => ("expired", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            Unauthenticated => ("unauthenticated", 401, grpc::UNAUTHENTICATED, "Unauthorized"),
            Forbidden => ("forbidden", 403, grpc::PERMISSION_DENIED, "Forbidden"),
            NoRoute => ("no-route", 404, grpc::UNIMPLEMENTED, "Not Found"),
            NoServerName => ("no-server-name", 421, grpc::UNAVAILABLE, "Misdirected Request"),
            Misdirected => ("misdirected", 421, grpc::UNAVAILABLE, "Misdirected Request"),
            NoBackend => ("no-backend", 500, grpc::INTERNAL, "Internal Server Error"),
            Redirected(status) => ("redirected", status, grpc::UNIMPLEMENTED, title_of(status)),
            Fault { status, grpc } => ("fault", status, grpc, title_of(status)),
            TooManyRequests => ("too-many-requests", 429, grpc::RESOURCE_EXHAUSTED, "Too Many Requests"),
            AuthUnavailable => ("auth-unavailable", 503, grpc::UNAVAILABLE, "Service Unavailable"),
            Internal => ("internal", 500, grpc::INTERNAL, "Internal Server Error"),
        }
    }

    /// The metric label.
    pub fn label(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.row().1
    }

    /// The gRPC status code.
    pub fn grpc_status(self) -> u8 {
        self.row().2
    }

    /// The value of `signet-deny-reason`: the label, or for user context the finer one, by which the gateway
    /// tells an expired token from a bad one.
    pub fn deny_reason(self) -> &'static str {
        match self {
            Reason::ContextInvalid(fine) | Reason::OriginalInvalid(fine) | Reason::HopInvalid(fine) => fine,
            other => other.label(),
        }
    }

    /// The finer label that some reasons carry, for the log.
    pub fn fine(self) -> Option<&'static str> {
        match self {
            Reason::ContextInvalid(fine)
            | Reason::OriginalInvalid(fine)
            | Reason::HopInvalid(fine)
            | Reason::ExternalUnavailable(fine)
            | Reason::PeerHandshake(fine)
            | Reason::OutsideHandshake(fine)
            | Reason::BadRequest(fine) => Some(fine),
            _ => None,
        }
    }
}

/// What stands in gRPC for a status that somebody else chose (from 400 to 599).
fn grpc_of(status: u16) -> u8 {
    match status {
        400 => grpc::INVALID_ARGUMENT,
        401 => grpc::UNAUTHENTICATED,
        404 | 405 | 501 => grpc::UNIMPLEMENTED,
        429 => grpc::RESOURCE_EXHAUSTED,
        504 => grpc::DEADLINE_EXCEEDED,
        502 | 503 => grpc::UNAVAILABLE,
        500..=599 => grpc::INTERNAL,
        _ => grpc::PERMISSION_DENIED,
    }
}

fn title_of(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Answer")
}

/// One refusal.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The row of the table.
    pub reason: Reason,
    /// What the caller may quote.
    pub decision: DecisionId,
    /// What was expected and what came, for our log and never for the caller.
    pub detail: Option<Box<str>>,
    /// `WWW-Authenticate`, at the edge: one for each scheme that would do.
    pub challenges: Box<[Box<str>]>,
    /// `Location`, where a route redirects.
    pub location: Option<Box<str>>,
    /// Seconds, for `Retry-After`.
    pub retry_after: Option<NonZeroU32>,
    /// `RateLimit` and `RateLimit-Policy`, where a limit was met.
    pub limit: Option<Box<(String, String)>>,
    /// The answer in somebody else's words, where a provider has some.
    pub given: Option<Box<Given>>,
    /// Already recorded with a fuller explanation than ours.
    pub recorded: bool,
}

/// An answer in the words of a provider, which was checked where it came in.
#[derive(Clone, Debug)]
pub struct Given {
    /// 400 to 599.
    pub status: u16,
    /// Lower-case names, values without line breaks; none that the mesh sets.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// Not for gRPC.
    pub body: Bytes,
}

impl Refusal {
    /// A refusal with a fresh decision id.
    pub fn new(reason: Reason) -> Self {
        Refusal {
            reason,
            decision: DecisionId::random(),
            detail: None,
            challenges: Box::default(),
            location: None,
            retry_after: None,
            limit: None,
            given: None,
            recorded: false,
        }
    }

    /// Adds what the log should say.
    #[must_use]
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string().into());
        self
    }

    /// Adds a `WWW-Authenticate` challenge, after those that it has.
    #[must_use]
    pub fn challenge(mut self, challenge: impl Into<Box<str>>) -> Self {
        let mut all = self.challenges.into_vec();
        all.push(challenge.into());
        self.challenges = all.into();
        self
    }

    /// Adds the place where to ask instead.
    #[must_use]
    pub fn location(mut self, location: impl Into<Box<str>>) -> Self {
        self.location = Some(location.into());
        self
    }

    /// Adds a `Retry-After` of so many seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = NonZeroU32::new(seconds);
        self
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> u16 {
        self.given.as_ref().map_or(self.reason.status(), |given| given.status)
    }

    /// What the caller gets.
    pub fn answer(&self, audience: Audience, dialect: Dialect) -> Answer {
        let (_, mut status, mut grpc_status, mut title) = self.reason.row();
        if let (Some(location), Dialect::Http) = (&self.location, dialect) {
            return Answer {
                status,
                headers: vec![("location".into(), location.to_string())],
                body: Bytes::new(),
            };
        }
        let mut headers: Vec<(Cow<'static, str>, String)> = Vec::with_capacity(6);
        let mut push = |name: &'static str, value: String| headers.push((Cow::Borrowed(name), value));
        if let Some(given) = &self.given {
            (status, grpc_status, title) = (given.status, grpc_of(given.status), title_of(given.status));
        }
        let body = match (dialect, &self.given) {
            (Dialect::Grpc, _) => {
                push("content-type", "application/grpc".into());
                push("grpc-status", grpc_status.to_string());
                push("grpc-message", title.into());
                Bytes::new()
            }
            (Dialect::Http, Some(given)) if !given.body.is_empty() => given.body.clone(),
            (Dialect::Http, _) => {
                push("content-type", "application/problem+json".into());
                let id = self.decision;
                format!("{{\"title\":\"{title}\",\"status\":{status},\"id\":\"{id}\"}}\n").into()
            }
        };
        push("signet-decision-id", self.decision.to_string());
        if audience == Audience::Mesh {
            push("signet-deny-reason", self.reason.deny_reason().into());
        }
        for challenge in &self.challenges {
            push("www-authenticate", challenge.to_string());
        }
        if let Some(seconds) = self.retry_after {
            push("retry-after", seconds.to_string());
        }
        if let Some(limit) = &self.limit {
            push("ratelimit", limit.0.clone());
            push("ratelimit-policy", limit.1.clone());
        }
        if self.reason == Reason::MethodNotAllowed {
            // RFC 9110, 15.5.6 asks for the list; which methods the target has is not ours to say.
            push("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".into());
        }
        if let Some(given) = &self.given {
            // What we said of the content already stands; of a gRPC answer, too.
            let is_said = |name: &str| headers.iter().any(|(said, _)| said == name);
            let more: Vec<_> = given.headers.iter().filter(|(name, _)| !is_said(name)).cloned().collect();
            headers.extend(more);
        }
        Answer { status: if dialect == Dialect::Grpc { 200 } else { status }, headers, body }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Refusal::new(reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.label())?;
        if let Some(fine) = self.reason.fine() {
            write!(f, " ({fine})")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

/// What the caller gets.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Lower-case names, values without line breaks.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// Empty for gRPC, where the headers are the trailers.
    pub body: Bytes,
}

impl Answer {
    /// The whole answer as an HTTP/1.1 message. To a HEAD request the body is left out.
    pub fn to_http1(&self, close: bool, head: bool) -> Vec<u8> {
        use std::io::Write as _;
        let mut out = Vec::with_capacity(512);
        // Writing to a Vec does not fail.
        let reason = http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("");
        let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", self.status);
        for (name, value) in &self.headers {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        let _ = write!(out, "content-length: {}\r\n", self.body.len());
        if close {
            out.extend_from_slice(b"connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !head {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
        answer.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    #[test]
    fn a_caller_in_the_mesh_learns_the_reason_and_never_the_detail() {
        let refusal = Refusal::new(Reason::Policy).detail("no permit names ns/shop/sa/intruder");
        let answer = refusal.answer(Audience::Mesh, Dialect::Http);
        assert_eq!(answer.status, 403);
        assert_eq!(header(&answer, "signet-deny-reason"), Some("policy"));
        assert_eq!(header(&answer, "signet-decision-id"), Some(&*refusal.decision.to_string()));
        let text = String::from_utf8(answer.to_http1(true, false)).unwrap();
        assert!(text.starts_with("HTTP/1.1 403 Forbidden\r\n"));
        assert!(text.contains("connection: close\r\n"));
        assert!(!text.contains("intruder"));
    }

    #[test]
    fn a_caller_outside_learns_the_decision_id_alone() {
        let refusal = Refusal::new(Reason::Unauthenticated).challenge("Bearer realm=\"shop\"");
        let answer = refusal.answer(Audience::Outside, Dialect::Http);
        assert_eq!(answer.status, 401);
        assert_eq!(header(&answer, "signet-deny-reason"), None);
        assert_eq!(header(&answer, "www-authenticate"), Some("Bearer realm=\"shop\""));
    }

    #[test]
    fn grpc_gets_trailers_only() {
        let answer =
            Refusal::new(Reason::ContextInvalid("txn_expired")).answer(Audience::Mesh, Dialect::Grpc);
        assert_eq!(answer.status, 200);
        assert_eq!(header(&answer, "grpc-status"), Some("7"));
        assert_eq!(header(&answer, "signet-deny-reason"), Some("txn_expired"));
        assert!(answer.body.is_empty());
    }

    #[test]
    fn the_answer_to_head_says_the_length_and_sends_nothing() {
        let answer = Refusal::new(Reason::NoEndpoint).answer(Audience::Mesh, Dialect::Http);
        let text = String::from_utf8(answer.to_http1(false, true)).unwrap();
        assert!(text.ends_with("\r\n\r\n"));
        assert!(text.contains(&format!("content-length: {}\r\n", answer.body.len())));
        assert!(!text.contains("connection: close"));
    }
}
