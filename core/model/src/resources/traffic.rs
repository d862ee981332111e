//! How a service is called, beside where its requests go: tries, ejection of endpoints that fail, limits, faults.
//!
//! What the Gateway API has no words for. A policy is for a whole service or for one port of it; that of the port is
//! taken instead of the service's, not merged with it. Retries, ejection and faults happen where the service is called;
//! limits where it is served.

use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::object::{Kind, Name, Namespaced};
use crate::resources::policy::ToMatch;
use crate::resources::{is_default, twice};
use crate::{Label, Period};

pub type TrafficPolicy = Namespaced<TrafficPolicySpec>;

/// Most tries beyond the first.
pub const MAX_RETRIES: u32 = 10;
/// Most bytes of a request's body that are kept for another try.
pub const MAX_REPLAY: u32 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    pub target: TrafficTarget,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TrafficTimeouts>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<RateLimit>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// A service of the policy's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrafficTarget {
    pub service: Label,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Label>,
}

/// When a request is tried again, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RetryPolicy {
    /// Tries beyond the first.
    #[serde(default = "two")]
    pub attempts: u32,
    /// Statuses that are worth another try, 400 to 599.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<u16>,
    /// gRPC codes that are, in an answer without content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grpc_codes: Vec<GrpcCode>,
    /// Whether a connection that breaks before the answer's head is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_reset: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Period>,
    /// The least pause before a further try; it doubles, with jitter.
    #[serde(default = "backoff")]
    pub backoff: Period,
    /// Bytes of the request's body that are kept; a larger one is tried once.
    #[serde(default = "replay")]
    pub max_body_bytes: u32,
    /// Also methods that may not be repeated without the app's word (POST, PATCH). gRPC calls whose codes are
    /// listed need no such word.
    #[serde(default, skip_serializing_if = "is_default")]
    pub non_idempotent: bool,
    #[serde(default)]
    pub budget: RetryBudget,
}

/// Further tries are at most this share of the first ones, and at least so many are allowed each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RetryBudget {
    #[serde(default = "twenty")]
    pub percent: u8,
    #[serde(default = "ten")]
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget { percent: twenty(), min_per_second: ten() }
    }
}

/// When an endpoint is left out for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OutlierPolicy {
    /// Failures in a row: statuses 500 to 599, gRPC UNAVAILABLE, INTERNAL, UNKNOWN and DATA_LOSS, broken connections,
    /// deadlines.
    #[serde(default = "five")]
    pub consecutive_failures: u32,
    /// How long it is left out the first time; each time in a row as long again.
    #[serde(default = "ejection")]
    pub base_ejection: Period,
    #[serde(default = "longest_ejection")]
    pub max_ejection: Period,
    /// Of a service's endpoints at most so many are left out at once; of two, one.
    #[serde(default = "fifty")]
    pub max_ejected_percent: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrafficTimeouts {
    /// From a request's head to the last byte of its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Period>,
}

/// So many requests in so long, for each value of the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateLimit {
    pub name: Label,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<ToMatch>,
    /// Who shares one count; absent is everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<LimitKey>,
    pub requests: u32,
    pub per: Period,
    /// How many may come at once; as many as `requests` unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// What tells counts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum LimitKey {
    /// The calling workload's identity.
    Workload,
    /// The verified user; requests without one share a count.
    User,
}

/// Trouble on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fault {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<ToMatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FaultDelay {
    pub percent: u8,
    pub time: Period,
}

/// The request is answered with this and goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FaultAbort {
    pub percent: u8,
    /// 400 to 599.
    pub status: u16,
    /// Of a gRPC call instead of the status.
    #[serde(default = "unavailable", skip_serializing_if = "is_unavailable")]
    pub grpc_code: GrpcCode,
}

fn unavailable() -> GrpcCode {
    GrpcCode::Unavailable
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's own signature
fn is_unavailable(code: &GrpcCode) -> bool {
    *code == GrpcCode::Unavailable
}

/// A gRPC status code, by its name; the number is the discriminant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum GrpcCode {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl GrpcCode {
    /// The number on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }
}

fn two() -> u32 {
    2
}
fn five() -> u32 {
    5
}
fn ten() -> u32 {
    10
}
fn twenty() -> u8 {
    20
}
fn fifty() -> u8 {
    50
}
fn backoff() -> Period {
    Period::from_millis(25)
}
fn replay() -> u32 {
    64 * 1024
}
fn ejection() -> Period {
    Period::from_secs(10)
}
fn longest_ejection() -> Period {
    Period::from_secs(300)
}

impl Kind for TrafficPolicySpec {
    const KIND: &'static str = "TrafficPolicy";

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        if let Some(retry) = &self.retry {
            retry.check(problems);
        }
        if let Some(outlier) = &self.outlier_detection {
            outlier.check(problems);
        }
        let names: Vec<_> = self.rate_limits.iter().map(|limit| &limit.name).collect();
        for (index, name) in twice(&names) {
            problems.push(Problem::new(
                format!("spec.rateLimits[{index}].name"),
                format!("expected a name of its own for each limit, got `{name}` twice"),
            ));
        }
        for (index, limit) in self.rate_limits.iter().enumerate() {
            limit.check(&format!("spec.rateLimits[{index}]"), problems);
        }
        for (index, fault) in self.faults.iter().enumerate() {
            fault.check(&format!("spec.faults[{index}]"), problems);
        }
    }
}

impl RetryPolicy {
    fn check(&self, problems: &mut Vec<Problem>) {
        let mut problem =
            |field: &str, reason: String| problems.push(Problem::new(format!("spec.retry.{field}"), reason));
        if !(1..=MAX_RETRIES).contains(&self.attempts) {
            problem("attempts", format!("expected 1 to {MAX_RETRIES}, got {}", self.attempts));
        }
        for (index, status) in self.statuses.iter().enumerate() {
            if !(400..=599).contains(status) {
                problem(
                    &format!("statuses[{index}]"),
                    format!("expected a status from 400 to 599, got {status}"),
                );
            }
        }
        if self.max_body_bytes > MAX_REPLAY {
            problem("maxBodyBytes", format!("expected at most {MAX_REPLAY}, got {}", self.max_body_bytes));
        }
        if self.budget.percent > 100 {
            problem("budget.percent", format!("expected 0 to 100, got {}", self.budget.percent));
        }
        if self.statuses.is_empty() && self.grpc_codes.is_empty() && !self.on_reset {
            problem(
                "",
                "expected `statuses`, `grpcCodes` or `onReset: true`, got none: nothing would ever be tried again"
                    .into(),
            );
        }
    }
}

impl OutlierPolicy {
    fn check(&self, problems: &mut Vec<Problem>) {
        let mut problem = |field: &str, reason: String| {
            problems.push(Problem::new(format!("spec.outlierDetection.{field}"), reason));
        };
        if !(1..=1000).contains(&self.consecutive_failures) {
            problem("consecutiveFailures", format!("expected 1 to 1000, got {}", self.consecutive_failures));
        }
        if self.max_ejected_percent > 100 {
            problem("maxEjectedPercent", format!("expected 0 to 100, got {}", self.max_ejected_percent));
        }
        if self.max_ejection < self.base_ejection {
            problem(
                "maxEjection",
                format!("expected at least baseEjection ({}), got {}", self.base_ejection, self.max_ejection),
            );
        }
    }
}

impl RateLimit {
    fn check(&self, field: &str, problems: &mut Vec<Problem>) {
        if !(1..=1_000_000_000).contains(&self.requests) {
            problems.push(Problem::new(
                format!("{field}.requests"),
                format!("expected 1 to 1000000000, got {}", self.requests),
            ));
        }
        if self.burst.is_some_and(|burst| !(1..=1_000_000_000).contains(&burst)) {
            problems.push(Problem::new(format!("{field}.burst"), "expected 1 to 1000000000"));
        }
        for (index, _) in twice(&self.key) {
            problems
                .push(Problem::new(format!("{field}.key[{index}]"), "expected each part of the key once"));
        }
    }
}

impl Fault {
    fn check(&self, field: &str, problems: &mut Vec<Problem>) {
        if self.delay.is_none() && self.abort.is_none() {
            problems.push(Problem::new(field, "expected a delay or an abort, got neither"));
        }
        let percents = [
            ("delay.percent", self.delay.map(|delay| delay.percent)),
            ("abort.percent", self.abort.map(|abort| abort.percent)),
        ];
        for (name, percent) in percents {
            if let Some(percent) = percent.filter(|percent| *percent > 100) {
                problems.push(Problem::new(
                    format!("{field}.{name}"),
                    format!("expected 0 to 100, got {percent}"),
                ));
            }
        }
        if let Some(abort) = self.abort
            && !(400..=599).contains(&abort.status)
        {
            problems.push(Problem::new(
                format!("{field}.abort.status"),
                format!("expected a status from 400 to 599, got {}", abort.status),
            ));
        }
    }
}
