//! What can end an exchange before its answer is whole.

use std::io;

use signet_wire::h1::{BodyError, ResponseError};

use crate::answer::{Reason, Refusal};
use crate::io::refusal;
use crate::worker::End;

/// Whose fault it was, which says what may still be done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client went away: nobody waits for an answer.
    ClientGone,
    /// The client's body is not HTTP.
    ClientBody(BodyError),
    /// The other side failed while we wrote or read; `None` is a close before its answer was whole.
    Upstream(Option<io::Error>),
    /// The other side's answer is not HTTP.
    UpstreamInvalid(ResponseError),
    /// Its body is not.
    UpstreamBody(BodyError),
    /// A deadline, or the end of the connection.
    Ended(End),
    /// An answer that is thrown away for another try, which the budget has paid for.
    Again,
    /// An answer that is thrown away, since the request reached no app: it is tried elsewhere.
    Unreached,
}

impl From<End> for Failure {
    fn from(end: End) -> Self {
        Failure::Ended(end)
    }
}

impl From<ResponseError> for Failure {
    fn from(error: ResponseError) -> Self {
        Failure::UpstreamInvalid(error)
    }
}

impl Failure {
    /// The refusal that the client is told, as long as no answer has begun. `None`: it is not there.
    /// `uploaded`: its request was whole.
    pub(crate) fn refusal(&self, uploaded: bool) -> Option<Refusal> {
        Some(match self {
            Failure::ClientGone => return None,
            Failure::ClientBody(error) => Refusal::new(Reason::BadRequest(error.label())).detail(error),
            Failure::Upstream(None) => Reason::UpstreamReset.into(),
            Failure::Upstream(Some(error)) => match refusal(error) {
                Some(failure) => Refusal::new(Reason::PeerHandshake(failure.label())).detail(failure),
                None => Refusal::new(Reason::UpstreamReset).detail(error),
            },
            Failure::UpstreamInvalid(error) => Refusal::new(Reason::UpstreamInvalid).detail(error),
            Failure::UpstreamBody(error) => Refusal::new(Reason::UpstreamInvalid).detail(error),
            Failure::Ended(End::TimedOut) if !uploaded => Reason::RequestTimeout.into(),
            Failure::Ended(End::TimedOut) => Reason::UpstreamTimeout.into(),
            Failure::Ended(End::UpstreamRevoked) => Reason::PeerHandshake("revoked").into(),
            Failure::Ended(End::UpstreamExpired) => Reason::PeerHandshake("expired").into(),
            Failure::Ended(End::Revoked) => Reason::Revoked.into(),
            Failure::Ended(End::UserRevoked(by)) => Reason::ContextInvalid(by.label()).into(),
            Failure::Ended(End::Expired) => Reason::Expired.into(),
            Failure::Ended(End::Policy) => Reason::Policy.into(),
            Failure::Ended(End::Strict) => Reason::Plaintext.into(),
            Failure::Ended(End::Shutdown) => return None,
            Failure::Again | Failure::Unreached => Reason::UpstreamReset.into(),
        })
    }
}
