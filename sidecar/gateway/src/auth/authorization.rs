//! `Authorization` (RFC 6750 §2.1, RFC 9449 §7.1, RFC 9110 §11): exactly one credential, read in exactly one way.

use signet_wire::RequestView;

use super::Failure;

const AUTHORIZATION: &str = "authorization";

/// Whether anything at all is presented as a credential.
pub(super) fn is_presented(request: RequestView<'_>) -> bool {
    request.get_all(AUTHORIZATION).next().is_some() || in_query(request)
}

/// How an access token is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Bearer,
    Dpop,
}

/// The scheme of what is presented, as far as it is one of an access token.
pub(crate) fn scheme(request: RequestView<'_>) -> Scheme {
    let value = request.get_all(AUTHORIZATION).next().unwrap_or_default();
    let is_dpop = value.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"dpop"));
    if is_dpop && value.get(4).is_none_or(u8::is_ascii_whitespace) { Scheme::Dpop } else { Scheme::Bearer }
}

/// The access token, when the request presents one and presents nothing else beside it.
pub(super) fn token<'a>(request: RequestView<'a>) -> Result<(Scheme, &'a str), Failure> {
    let mut values = request.get_all(AUTHORIZATION);
    let value = match (values.next(), values.next()) {
        (None, _) => return Err(Failure::Missing),
        (Some(_), Some(_)) => return Err(Failure::Malformed("two_credentials")),
        (Some(value), None) => value,
    };
    // The scheme's name has no case (RFC 9110 §11.1); one that the route does not take is no credential here.
    let blank = value.iter().position(|byte| matches!(byte, b' ' | b'\t'));
    let (scheme, rest) = value.split_at_checked(blank.unwrap_or(value.len())).unwrap_or((value, &[]));
    let known = [(Scheme::Bearer, "bearer"), (Scheme::Dpop, "dpop")];
    let known = known.into_iter().find(|(_, name)| scheme.eq_ignore_ascii_case(name.as_bytes()));
    let Some((known, _)) = known else {
        return match scheme.iter().all(u8::is_ascii_graphic) && !scheme.is_empty() && !scheme.contains(&b',')
        {
            true => Err(Failure::Missing),
            false => Err(Failure::Malformed("malformed_authorization")),
        };
    };
    // RFC 6750 §2: one way of presenting a token per request.
    if in_query(request) {
        return Err(Failure::Malformed("two_credentials"));
    }
    let token = rest.trim_ascii();
    match std::str::from_utf8(token) {
        Ok(text) if is_b64token(token) => Ok((known, text)),
        _ => Err(Failure::Malformed("malformed_authorization")),
    }
}

/// RFC 6750 §2.1: `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
fn is_b64token(token: &[u8]) -> bool {
    let ends = token.iter().rposition(|byte| *byte != b'=').map_or(0, |at| at.saturating_add(1));
    let body = token.get(..ends).unwrap_or_default();
    let symbol =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
    !body.is_empty() && body.iter().all(symbol)
}

/// Tokens in the query (RFC 6750 §2.3) are never taken: they end in logs. Beside a header they are a second
/// credential.
fn in_query(request: RequestView<'_>) -> bool {
    let query = request.target().query().unwrap_or_default();
    query.split('&').any(|pair| pair.split('=').next() == Some("access_token"))
}
