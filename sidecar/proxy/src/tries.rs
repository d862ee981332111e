//! What may still be tried for one request, and which endpoint is to blame.
//!
//! A request that fails is tried again where its route or its port says so, as long as the whole of it can be sent once
//! more, its method or the operator allows it, tries are left, and the budget of the port pays for one. Every answer is
//! judged for the endpoint that gave it; one that fails often in a row is left out for a while.
//!
//! Without any policy a request is tried again where nothing of it can have been processed: its app's own sidecar says that
//! it could not connect to the app ([`Tries::elsewhere`]). An idempotent one is sent again once when a connection that had
//! been used before ended before a byte of the answer: such a one may have been dead already.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use signet_wire::RequestView;

use crate::answer::Reason;
use crate::balance::random;
use crate::shared::Shared;
use crate::stage::{Forward, Target};
use crate::state::{Endpoint, Retry, ServicePort, monotonic};

/// What happened to a try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// An answer of this status.
    Status(u16),
    /// A gRPC answer of this code.
    Grpc(u8),
    /// The other side went away, or its answer is none.
    Reset,
    /// Its time was over.
    TimedOut,
}

impl Outcome {
    /// The word in the metric of tries.
    fn label(self) -> &'static str {
        match self {
            Outcome::Status(_) => "status",
            Outcome::Grpc(_) => "grpc",
            Outcome::Reset => "reset",
            Outcome::TimedOut => "timeout",
        }
    }

    /// Whether it speaks against the endpoint.
    fn is_failure(self) -> bool {
        match self {
            Outcome::Status(status) => status >= 500,
            // UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS.
            Outcome::Grpc(code) => matches!(code, 2 | 13 | 14 | 15),
            Outcome::Reset | Outcome::TimedOut => true,
        }
    }

    /// Whether the policy finds it worth another try.
    fn is_taken_by(self, retry: &Retry) -> bool {
        match self {
            Outcome::Status(status) => retry.takes_status(status),
            Outcome::Grpc(code) => retry.takes_grpc(code),
            Outcome::Reset => retry.on_reset,
            // What we would answer for it.
            Outcome::TimedOut => retry.on_reset || retry.takes_status(504) || retry.takes_grpc(4),
        }
    }
}

/// The tries of one request.
pub(crate) struct Tries {
    retry: Option<Arc<Retry>>,
    /// A repetition does no harm, by its method.
    is_idempotent: bool,
    /// Further tries so far.
    further: Cell<u32>,
    /// Endpoints that had one.
    tried: RefCell<Vec<u64>>,
    /// How often the request came back without having reached an app.
    unreached: Cell<usize>,
}

/// How often a request that reached no app is tried elsewhere.
const ELSEWHERE: usize = 2;
/// Bytes of a body that are kept for that.
const KEPT: usize = 16 * 1024;

impl Tries {
    pub(crate) fn new(forward: &Forward, request: RequestView<'_>) -> Self {
        Tries {
            retry: forward.calling.as_ref().and_then(|calling| calling.retry.clone()),
            is_idempotent: is_idempotent(request.method()),
            further: Cell::new(0),
            tried: RefCell::default(),
            unreached: Cell::new(0),
        }
    }

    /// Bytes of a body that are to be kept for another try.
    pub(crate) fn keeps(&self, target: &Target) -> usize {
        let elsewhere = match target {
            Target::Service(port) if port.endpoints.len() > 1 => KEPT,
            _ => 0,
        };
        self.retry.as_ref().map_or(0, |retry| retry.max_body).max(elsewhere)
    }

    /// Whether an answer means that the request reached no app and it is tried at another endpoint, which is then counted.
    /// Nothing of it was processed, so that neither its method nor a policy is asked. The caller can send all of it again.
    /// `says`: what the answer says of that.
    pub(crate) fn elsewhere(
        &self,
        says: Option<&[u8]>,
        target: &Target,
        endpoint: Option<&Arc<Endpoint>>,
        shared: &Shared,
    ) -> bool {
        let (Target::Service(port), Some(endpoint)) = (target, endpoint) else { return false };
        if says != Some(Reason::ConnectFailed.label().as_bytes()) {
            endpoint.reached();
            return false;
        }
        endpoint.connected(false);
        let mut tried = self.tried.borrow_mut();
        if !tried.contains(&endpoint.id) {
            tried.push(endpoint.id);
        }
        let is_another = port.endpoints.iter().any(|other| !tried.contains(&other.id));
        if !is_another || self.unreached.get() >= ELSEWHERE {
            return false;
        }
        self.unreached.set(self.unreached.get() + 1);
        shared.metrics.retried("unreached");
        true
    }

    /// Whether this outcome is worth a further try and one may be made, which is then counted. The caller can send all
    /// of the request again.
    pub(crate) fn again(&self, outcome: Outcome, shared: &Shared) -> bool {
        let Some(retry) = self.retry.as_ref().filter(|retry| outcome.is_taken_by(retry)) else {
            return false;
        };
        let may_repeat = self.is_idempotent || retry.non_idempotent || matches!(outcome, Outcome::Grpc(_));
        if !may_repeat || self.further.get() >= retry.attempts {
            return false;
        }
        if !retry.budget.take(monotonic()) {
            shared.metrics.retried("budget");
            return false;
        }
        shared.metrics.retried(outcome.label());
        self.further.set(self.further.get() + 1);
        true
    }

    /// How long to wait before the try that [`Tries::again`] allowed.
    pub(crate) fn pause(&self) -> Duration {
        self.retry.as_ref().map_or(Duration::ZERO, |retry| retry.pause(self.further.get(), random()))
    }

    /// An endpoint has a try now.
    pub(crate) fn note(&self, endpoint: u64) {
        if self.retry.is_some() {
            self.tried.borrow_mut().push(endpoint);
        }
    }

    /// Endpoints that had their try: another one is better.
    pub(crate) fn tried(&self) -> Vec<u64> {
        self.tried.borrow().clone()
    }
}

/// Judges an endpoint by what came of a try.
pub(crate) fn judge(endpoint: &Endpoint, port: &ServicePort, outcome: Outcome, shared: &Shared) {
    let Some(policy) = &port.traffic.outlier else { return };
    if endpoint.judged(!outcome.is_failure(), policy, port, monotonic()) {
        shared.metrics.ejections.inc();
        tracing::warn!(
            target: "signet::outlier",
            service = %port.service,
            endpoint = %endpoint.address,
            "an endpoint failed {} times in a row and is left out for a while",
            policy.consecutive_failures,
        );
    }
}

/// RFC 9110, 9.2.2.
pub(crate) fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}
