//! What is told of a request. The only file here that knows both our types and Envoy's messages on the way out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::COOKIE;
use prost::Message as _;
use serde_json::Value;
use signet_policy::User;
use signet_proto::envoy::config::core::v3::{
    Address, Metadata, SocketAddress, address, socket_address::PortSpecifier,
};
use signet_proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use signet_proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use signet_wire::RequestView;

use super::Provider;
use crate::decision::DecisionId;

/// Where the verified user stands among the metadata.
const USER: &str = "signet.user";

/// What is known of a request beside its head.
pub(super) struct About<'a> {
    pub(super) id: DecisionId,
    /// SPIFFE IDs of who calls and who is called.
    pub(super) peer: &'a str,
    pub(super) own: &'a str,
    pub(super) remote: Option<SocketAddr>,
    pub(super) local: Option<SocketAddr>,
    pub(super) service: &'a str,
    pub(super) port: &'a str,
    pub(super) user: Option<&'a User>,
}

/// The message with its prefix (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(super) fn question(provider: &Provider, about: &About<'_>, head: RequestView<'_>) -> Bytes {
    let check = CheckRequest { attributes: Some(attributes(provider, about, head)) };
    let length = check.encoded_len();
    let mut out = BytesMut::with_capacity(length.saturating_add(5));
    out.put_u8(0);
    // A head is under 64 KiB, and what stands beside it is no longer than a token.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.extend_from_slice(&check.encode_to_vec());
    out.freeze()
}

fn attributes(provider: &Provider, about: &About<'_>, head: RequestView<'_>) -> AttributeContext {
    let mut context: BTreeMap<_, _> = provider.context.clone();
    context.insert("signet.service".into(), about.service.into());
    context.insert("signet.port".into(), about.port.into());
    AttributeContext {
        source: Some(Peer {
            address: about.remote.map(address),
            service: String::new(),
            principal: about.peer.into(),
        }),
        destination: Some(Peer {
            address: about.local.map(address),
            service: about.service.into(),
            principal: about.own.into(),
        }),
        request: Some(Request { time: Some(now()), http: Some(http(provider, about.id, head)) }),
        context_extensions: context,
        metadata_context: about
            .user
            .map(|user| Metadata { filter_metadata: BTreeMap::from([(USER.to_owned(), metadata(user))]) }),
    }
}

fn http(provider: &Provider, id: DecisionId, head: RequestView<'_>) -> HttpRequest {
    let mut headers = BTreeMap::new();
    for name in &provider.include {
        let separator = if *name == COOKIE { "; " } else { "," };
        // Of bytes that are no text nothing is told that could be taken for another value.
        let lines: Vec<_> = head.get_all(name.as_str()).map(String::from_utf8_lossy).collect();
        if !lines.is_empty() {
            headers.insert(name.as_str().to_owned(), lines.join(separator));
        }
    }
    let version = match head {
        RequestView::H1(_) => "HTTP/1.1",
        RequestView::H2(_) => "HTTP/2",
    };
    HttpRequest {
        id: id.to_string(),
        method: head.method().into(),
        headers,
        path: String::from_utf8_lossy(head.target().as_bytes()).into_owned(),
        host: head.authority().map(ToString::to_string).unwrap_or_default(),
        scheme: if head.is_https() { "https" } else { "http" }.into(),
        size: -1,
        protocol: version.into(),
        body: String::new(),
    }
}

fn address(of: SocketAddr) -> Address {
    let socket = SocketAddress {
        address: of.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(of.port().into())),
    };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

fn now() -> prost_types::Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

fn metadata(user: &User) -> prost_types::Struct {
    let text = |text: &str| value(&Value::String(text.to_owned()));
    let scopes = user.scopes.iter().map(|scope| text(scope)).collect();
    let actor = user.actor.as_ref().map(|actor| ("actor", text(actor)));
    let fields = [
        ("sub", text(&user.sub)),
        ("scopes", kind(prost_types::value::Kind::ListValue(prost_types::ListValue { values: scopes }))),
        ("cred", text(&user.cred)),
        ("context", text(user.context.as_str())),
        ("claims", kind(prost_types::value::Kind::StructValue(map(&user.claims)))),
    ];
    let fields = fields.into_iter().chain(actor);
    prost_types::Struct { fields: fields.map(|(name, value)| (name.to_owned(), value)).collect() }
}

fn map(object: &serde_json::Map<String, Value>) -> prost_types::Struct {
    prost_types::Struct {
        fields: object.iter().map(|(name, member)| (name.clone(), value(member))).collect(),
    }
}

fn kind(kind: prost_types::value::Kind) -> prost_types::Value {
    prost_types::Value { kind: Some(kind) }
}

/// As deep as tokens may be nested, which is bounded where they are read.
fn value(json: &Value) -> prost_types::Value {
    use prost_types::value::Kind;
    kind(match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(yes) => Kind::BoolValue(*yes),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.iter().map(value).collect() })
        }
        Value::Object(object) => Kind::StructValue(map(object)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_acts_for_the_user_is_told_and_only_where_somebody_does() {
        let own = User {
            sub: "idp|alice".into(),
            scopes: Vec::new(),
            claims: serde_json::Map::new(),
            cred: "workload".into(),
            context: signet_policy::Context::Forwarded,
            actor: None,
        };
        assert!(!metadata(&own).fields.contains_key("actor"));
        let acted = User { actor: Some("staff|sam".into()), ..own };
        let said = &metadata(&acted).fields["actor"];
        assert_eq!(said.kind, Some(prost_types::value::Kind::StringValue("staff|sam".into())));
    }
}
