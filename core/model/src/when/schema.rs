//! What a condition may speak of, and of which type it is.

use std::fmt;

use crate::HeaderField;

/// Something that is known of a request, or of its being known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    PrincipalId,
    TrustDomain,
    Namespace,
    Account,
    Class,
    Action,
    Service,
    ServiceNamespace,
    Port,
    Now,
    /// As a whole, for `has` alone.
    Request,
    Method,
    /// A segment that a template of the policy's `to.paths` names.
    Param(Box<str>),
    /// In lower case.
    Header(Box<str>),
    /// As a whole, for `has` alone.
    User,
    Sub,
    Cred,
    UserContext,
    /// Who acts for the user.
    Actor,
    Scopes,
    Claim(Box<str>, ClaimType),
}

/// What a condition takes a claim to be, by how it uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimType {
    /// Only whether it is there.
    Any,
    Bool,
    Long,
    Text,
    /// A text counts as a set of one.
    Texts,
}

impl ClaimType {
    pub fn as_str(self) -> &'static str {
        match self {
            ClaimType::Any => "anything",
            ClaimType::Bool => "true or false",
            ClaimType::Long => "a whole number",
            ClaimType::Text => "a text",
            ClaimType::Texts => "a text or a list of texts",
        }
    }
}

impl fmt::Display for Attribute {
    /// As a condition writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Attribute::PrincipalId => "principal.id",
            Attribute::TrustDomain => "principal.trustDomain",
            Attribute::Namespace => "principal.namespace",
            Attribute::Account => "principal.account",
            Attribute::Class => "principal.class",
            Attribute::Action => "action",
            Attribute::Service => "resource.service",
            Attribute::ServiceNamespace => "resource.namespace",
            Attribute::Port => "resource.port",
            Attribute::Now => "context.now",
            Attribute::Request => "context.request",
            Attribute::Method => "context.request.method",
            Attribute::Param(name) => return write!(f, "context.request.params.{name}"),
            Attribute::Header(name) => return write!(f, "context.request.headers[\"{name}\"]"),
            Attribute::User => "context.user",
            Attribute::Sub => "context.user.sub",
            Attribute::Cred => "context.user.cred",
            Attribute::UserContext => "context.user.context",
            Attribute::Actor => "context.user.actor",
            Attribute::Scopes => "context.user.scopes",
            Attribute::Claim(name, _) => return write!(f, "context.user.claims[\"{name}\"]"),
        };
        f.write_str(text)
    }
}

/// Something with attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    Principal,
    Resource,
    Context,
    Request,
    Params,
    Headers,
    User,
    Claims,
}

/// The type of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Long,
    Text,
    Texts,
    Longs,
    Moment,
    Span,
    Action,
    Record(Record),
    /// Of the type that its use gives it.
    Claim,
}

impl Type {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Type::Bool => "true or false",
            Type::Long => "a whole number",
            Type::Text => "a text",
            Type::Texts => "a set of texts",
            Type::Longs => "a set of numbers",
            Type::Moment => "a moment",
            Type::Span => "a span of time",
            Type::Action => "an action",
            Type::Record(record) => record.as_str(),
            Type::Claim => "a claim",
        }
    }
}

/// What a name in a record is.
pub(super) enum Member {
    Value(Attribute, Type),
    /// A record in the record. With the attribute that says whether it is there, where it need not be.
    Record(Record, Option<Attribute>),
}

impl Record {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Record::Principal => "`principal`",
            Record::Resource => "`resource`",
            Record::Context => "`context`",
            Record::Request => "`context.request`",
            Record::Params => "`context.request.params`",
            Record::Headers => "`context.request.headers`",
            Record::User => "`context.user`",
            Record::Claims => "`context.user.claims`",
        }
    }

    fn names(self) -> &'static str {
        match self {
            Record::Principal => "id, trustDomain, namespace, account or class of `principal`",
            Record::Resource => "service, namespace or port of `resource`",
            Record::Context => "now, request or user of `context`",
            Record::Request => {
                "method, params or headers of `context.request` (paths and gRPC methods are asked for in `to`)"
            }
            Record::Params => "a name that `to.paths` gives to one segment",
            Record::Headers => {
                "a header's name in lower case that carries no credential, no identity and nothing that the mesh sets"
            }
            Record::User => "sub, actor, cred, context, scopes or claims of `context.user`",
            Record::Claims => "the name of a claim, at most 256 bytes",
        }
    }

    /// What `name` is here; otherwise what was expected.
    pub(super) fn member(self, name: &str) -> Result<Member, &'static str> {
        use Attribute as A;
        let (attribute, of_type) = match (self, name) {
            (Record::Principal, "id") => (A::PrincipalId, Type::Text),
            (Record::Principal, "trustDomain") => (A::TrustDomain, Type::Text),
            (Record::Principal, "namespace") => (A::Namespace, Type::Text),
            (Record::Principal, "account") => (A::Account, Type::Text),
            (Record::Principal, "class") => (A::Class, Type::Text),
            (Record::Resource, "service") => (A::Service, Type::Text),
            (Record::Resource, "namespace") => (A::ServiceNamespace, Type::Text),
            (Record::Resource, "port") => (A::Port, Type::Text),
            (Record::Context, "now") => (A::Now, Type::Moment),
            (Record::Context, "request") => return Ok(Member::Record(Record::Request, Some(A::Request))),
            (Record::Context, "user") => return Ok(Member::Record(Record::User, Some(A::User))),
            (Record::Request, "method") => (A::Method, Type::Text),
            (Record::Request, "params") => return Ok(Member::Record(Record::Params, None)),
            (Record::Request, "headers") => return Ok(Member::Record(Record::Headers, None)),
            (Record::User, "sub") => (A::Sub, Type::Text),
            (Record::User, "cred") => (A::Cred, Type::Text),
            (Record::User, "context") => (A::UserContext, Type::Text),
            (Record::User, "actor") => (A::Actor, Type::Text),
            (Record::User, "scopes") => (A::Scopes, Type::Texts),
            (Record::User, "claims") => return Ok(Member::Record(Record::Claims, None)),
            (Record::Params, name) if is_capture(name) => (A::Param(name.into()), Type::Text),
            (Record::Headers, name) if is_open_header(name) => (A::Header(name.into()), Type::Texts),
            (Record::Claims, name) if (1..=256).contains(&name.len()) => {
                (A::Claim(name.into(), ClaimType::Any), Type::Claim)
            }
            _ => return Err(self.names()),
        };
        Ok(Member::Value(attribute, of_type))
    }
}

fn is_capture(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Fields that carry credentials, what the mesh says itself, or what the proxy reads and changes: a condition on one of
/// them would be decided by somebody's forgery, or would show a secret in an explanation.
const CLOSED: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "cookie2",
    "set-cookie",
    "dpop",
    "txn-token",
    "x-api-key",
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "baggage",
    "tracestate",
    "traceparent",
];
const CLOSED_PREFIXES: &[&str] = &["signet-", "x-signet-", "x-forwarded-", "x-envoy-", "x-auth-", "x-amz-"];

fn is_open_header(name: &str) -> bool {
    // One spelling: servers read `x_a` as `x-a`.
    let plain = name.replace('_', "-");
    name.parse::<HeaderField>().is_ok_and(|field| field.as_str() == name)
        && !CLOSED.contains(&plain.as_str())
        && !CLOSED_PREFIXES.iter().any(|prefix| plain.starts_with(prefix))
}
