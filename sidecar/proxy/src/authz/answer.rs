//! What an answer means. Pure: bytes and a provider's lists in, a ruling out.
//!
//! A yes is a status of OK with its HTTP part, and nothing else is: whatever is missing, of another kind, too long or
//! contradicts itself is invalid, and the request is refused. What a provider may change is what its lists name; a header
//! of the mesh, of the connection or of the message is none of its business, listed or not. Such headers are left out and
//! counted, and the rest of the answer counts.

use http::{HeaderName, HeaderValue};
use prost::Message as _;
use signet_model::HeaderField;
use signet_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use signet_proto::envoy::config::core::v3::{HeaderValue as Given, HeaderValueOption};
use signet_proto::envoy::service::auth::v3::check_response::HttpResponse;
use signet_proto::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use signet_wire::protected::Protected;

use super::Provider;

/// Headers of one list that are looked at; a longer list is invalid.
const MOST_HEADERS: usize = 64;
/// Bytes of one value.
const MOST_VALUE: usize = 8 * 1024;
/// Bytes of a refusal's body.
const MOST_BODY: usize = 16 * 1024;

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// Yes.
    Allow(Changes),
    /// No.
    Deny(Denial),
}

/// What a yes changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In the request on its way to the app.
    pub request: Vec<Change>,
    /// In the app's answer.
    pub answer: Vec<Change>,
    /// What was left out.
    pub dropped: Dropped,
}

/// One change of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Instead of what there is, in whichever spelling.
    Set(HeaderName, HeaderValue),
    /// Beside it.
    Append(HeaderName, HeaderValue),
    /// Only where there is none.
    AddIfAbsent(HeaderName, HeaderValue),
    /// Only where there is one.
    SetIfPresent(HeaderName, HeaderValue),
    /// In whichever spelling.
    Remove(HeaderName),
}

/// How a no is told to the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denial {
    /// 400 to 599; none where the provider left it to us.
    pub status: Option<u16>,
    /// Names in lower case, values of visible ASCII and blanks.
    pub headers: Vec<(HeaderName, String)>,
    /// Empty where it said none, or too much.
    pub body: String,
    /// What was left out.
    pub dropped: Dropped,
}

/// Headers of an answer that do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Those that nobody but the mesh or the codec may set.
    pub protected: u32,
    /// Those that the provider's lists do not name.
    pub unlisted: u32,
    /// Those that are no header.
    pub malformed: u32,
}

/// Why an answer is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not the message.
    #[error("it is not a CheckResponse")]
    Message,
    /// No status, so that it says neither yes nor no.
    #[error("expected a status, got none")]
    NoStatus,
    /// A yes without its HTTP part.
    #[error("expected ok_response beside status OK, got none")]
    NoResponse,
    /// A yes with the HTTP part of a no, or a no with that of a yes.
    #[error("its status and its HTTP response contradict each other")]
    Contradiction,
    /// A no with the status of something else.
    #[error("expected an HTTP status from 400 to 599 for a refusal, got {0}")]
    Status(i32),
    /// A list of headers that is too long.
    #[error("expected at most {MOST_HEADERS} headers, got {0}")]
    TooMany(usize),
}

/// Reads an answer. `protected` are the names that only the mesh may set.
pub fn rule(message: &[u8], provider: &Provider, protected: &Protected) -> Result<Ruling, Invalid> {
    let answer = CheckResponse::decode(message).map_err(|_| Invalid::Message)?;
    // In protobuf a code of 0 and no code are the same; a status that is missing as a whole is no yes.
    let status = answer.status.ok_or(Invalid::NoStatus)?;
    match (status.code, answer.http_response) {
        (0, Some(HttpResponse::OkResponse(ok))) => allow(ok, provider, protected).map(Ruling::Allow),
        (0, None) => Err(Invalid::NoResponse),
        (0, Some(HttpResponse::DeniedResponse(_))) | (_, Some(HttpResponse::OkResponse(_))) => {
            Err(Invalid::Contradiction)
        }
        (_, Some(HttpResponse::DeniedResponse(denied))) => {
            deny(denied, provider, protected).map(Ruling::Deny)
        }
        (_, None) => Ok(Ruling::Deny(Denial::default())),
    }
}

fn allow(ok: OkHttpResponse, provider: &Provider, protected: &Protected) -> Result<Changes, Invalid> {
    let mut changes = Changes::default();
    let dropped = &mut changes.dropped;
    bounded(&ok.headers)?;
    bounded(&ok.headers_to_remove)?;
    bounded(&ok.response_headers_to_add)?;
    // Taken away first, so that what is set stays set.
    for name in ok.headers_to_remove {
        if let Some(name) = admitted(&name, &provider.upstream, protected, dropped) {
            changes.request.push(Change::Remove(name));
        }
    }
    for option in ok.headers {
        changes.request.extend(change(option, &provider.upstream, protected, dropped));
    }
    for option in ok.response_headers_to_add {
        changes.answer.extend(change(option, &provider.downstream, protected, dropped));
    }
    Ok(changes)
}

fn deny(denied: DeniedHttpResponse, provider: &Provider, protected: &Protected) -> Result<Denial, Invalid> {
    let mut denial = Denial::default();
    bounded(&denied.headers)?;
    denial.status = match denied.status.map(|status| status.code) {
        // Envoy, too, takes none for 403.
        None | Some(0) => None,
        Some(code) => match u16::try_from(code) {
            Ok(status @ 400..=599) => Some(status),
            _ => return Err(Invalid::Status(code)),
        },
    };
    for option in denied.headers {
        let Some(given) = option.header else {
            denial.dropped.malformed = denial.dropped.malformed.saturating_add(1);
            continue;
        };
        let Some(name) = admitted(&given.key, &provider.downstream, protected, &mut denial.dropped) else {
            continue;
        };
        match value(&given).as_ref().and_then(|value| value.to_str().ok()) {
            Some(text) => denial.headers.push((name, text.to_owned())),
            None => denial.dropped.malformed = denial.dropped.malformed.saturating_add(1),
        }
    }
    if denied.body.len() <= MOST_BODY {
        denial.body = denied.body;
    }
    Ok(denial)
}

fn bounded<T>(list: &[T]) -> Result<(), Invalid> {
    if list.len() > MOST_HEADERS { Err(Invalid::TooMany(list.len())) } else { Ok(()) }
}

fn change(
    option: HeaderValueOption,
    listed: &[HeaderName],
    protected: &Protected,
    dropped: &mut Dropped,
) -> Option<Change> {
    let action = option.append_action();
    let Some(given) = option.header else {
        dropped.malformed = dropped.malformed.saturating_add(1);
        return None;
    };
    let name = admitted(&given.key, listed, protected, dropped)?;
    let Some(value) = value(&given) else {
        dropped.malformed = dropped.malformed.saturating_add(1);
        return None;
    };
    Some(match (option.append, action) {
        (Some(true), _) => Change::Append(name, value),
        // The contract of these lists: what says nothing is set, although the enumeration's zero says otherwise.
        (Some(false), _) | (None, HeaderAppendAction::AppendIfExistsOrAdd) => Change::Set(name, value),
        (None, HeaderAppendAction::AddIfAbsent) => Change::AddIfAbsent(name, value),
        (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => Change::Set(name, value),
        (None, HeaderAppendAction::OverwriteIfExists) => Change::SetIfPresent(name, value),
    })
}

/// The name, if the provider may speak of it.
fn admitted(
    name: &str,
    listed: &[HeaderName],
    protected: &Protected,
    dropped: &mut Dropped,
) -> Option<HeaderName> {
    // Pseudo headers are no names.
    let Ok(field) = name.parse::<HeaderField>() else {
        let count = if name.starts_with(':') { &mut dropped.protected } else { &mut dropped.malformed };
        *count = count.saturating_add(1);
        return None;
    };
    if field.is_of_the_connection() || protected.contains(field.as_str().as_bytes()) {
        dropped.protected = dropped.protected.saturating_add(1);
        return None;
    }
    let found = listed.iter().find(|known| known.as_str() == field.as_str());
    if found.is_none() {
        dropped.unlisted = dropped.unlisted.saturating_add(1);
    }
    found.cloned()
}

/// Visible ASCII and blanks between: what all that read it read in one way.
fn value(given: &Given) -> Option<HeaderValue> {
    let bytes = if given.raw_value.is_empty() { given.value.as_bytes() } else { &given.raw_value };
    let fits = bytes.len() <= MOST_VALUE
        && bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | 0x21..=0x7e))
        && bytes.trim_ascii().len() == bytes.len();
    if fits { HeaderValue::from_bytes(bytes).ok() } else { None }
}
