//! What changes in a request's head on its way into the mesh. Names that only the mesh may set are dropped by
//! the codec in any case; here stands what the edge adds to that.

use http::header::{AUTHORIZATION, FORWARDED, HeaderName, HeaderValue};
use ring::rand::{SecureRandom as _, SystemRandom};
use signet_proxy::stage::ConnContext;
use signet_token::Minted;
use signet_wire::{Edits, RequestView, carrier};

use crate::events::hex;

const DPOP: HeaderName = HeaderName::from_static("dpop");
const TXN_TOKEN: HeaderName = HeaderName::from_static("txn-token");
const SIGNET_CONTEXT: HeaderName = HeaderName::from_static("signet-context");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The same names to frameworks that turn headers into variables (CGI, WSGI, PHP): `-` and `_` are one to them.
const FORWARDED_ALIASES: [&str; 9] = [
    "x_forwarded_for",
    "x_forwarded-for",
    "x-forwarded_for",
    "x_forwarded_host",
    "x_forwarded-host",
    "x-forwarded_host",
    "x_forwarded_proto",
    "x_forwarded-proto",
    "x-forwarded_proto",
];

/// Adds the changes for one admitted request to those of its routes. `consumed` tells that `Authorization` was ours to read and goes no
/// further.
pub(crate) fn edit(
    edits: &mut Edits,
    request: RequestView<'_>,
    conn: &ConnContext,
    minted: Option<&Minted>,
    consumed: bool,
) {
    if let Some(minted) = minted
        && let Ok(mut token) = HeaderValue::from_str(&minted.token)
    {
        // HPACK must never index it.
        token.set_sensitive(true);
        edits.set(TXN_TOKEN, token);
        edits.set(SIGNET_CONTEXT, HeaderValue::from_static("forwarded"));
    }
    if consumed {
        edits.remove(AUTHORIZATION);
        // Worth nothing without the token, and nothing to whoever is behind us.
        edits.remove(DPOP);
    }
    restart_trace(request, edits);
    name_request(request, edits);
    tell_of_caller(request, conn, edits);
}

/// Outside traces end here (Trace Context, "restart trace"): a caller's ids would join strangers' traces, and
/// carry handles that are ours to make. Baggage of others passes.
fn restart_trace(request: RequestView<'_>, edits: &mut Edits) {
    edits.remove(TRACEPARENT);
    edits.remove(TRACESTATE);
    carrier::strip(request, edits);
}

/// Keeps one plain `x-request-id`; anything else gets one of ours.
fn name_request(request: RequestView<'_>, edits: &mut Edits) {
    let mut values = request.get_all("x-request-id");
    if let (Some(value), None) = (values.next(), values.next())
        && (1..=128).contains(&value.len())
        && value.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    {
        return;
    }
    let mut id = [0; 16];
    // Fails on no platform that we run on, and then the id names nothing and nothing depends on it.
    let _ = SystemRandom::new().fill(&mut id);
    if let Ok(value) = HeaderValue::from_str(&hex(&id)) {
        edits.set(REQUEST_ID, value);
    }
}

/// What the caller says of itself is replaced by what its connection shows: nobody before us is trusted yet.
fn tell_of_caller(request: RequestView<'_>, conn: &ConnContext, edits: &mut Edits) {
    for alias in FORWARDED_ALIASES {
        if request.get_all(alias).next().is_some() {
            edits.remove(HeaderName::from_static(alias));
        }
    }
    edits.remove(FORWARDED);
    edits.remove(FORWARDED_HOST);
    let address = conn.remote.map(|remote| remote.ip().to_canonical().to_string());
    match address.and_then(|address| HeaderValue::from_str(&address).ok()) {
        Some(address) => edits.set(FORWARDED_FOR, address),
        None => edits.remove(FORWARDED_FOR),
    }
    edits.set(FORWARDED_PROTO, HeaderValue::from_static(if conn.tls { "https" } else { "http" }));
}
