//! What each call came to, with the person's name.
//!
//! Every call is a line in the log under the target `signet::audit`. Those that change something, or were
//! refused, or concern a second person, are also one record of the hash-chained issuance log (`operator-call`,
//! refusals at a bounded rate); reads that were allowed are not, since they would bury the acts of the authority.
//! Arguments are those that [`super::table`] spells out; tokens and keys are in neither.

use signet_ca::{Authority, AuthorityError, OperatorCall};
use tonic::Code;

use super::table::{Kind, Row};
use super::who::Who;

/// One call that has ended.
pub(crate) struct Call<'a> {
    pub(crate) who: &'a Who,
    /// The row's name, or the method's where there is no row.
    pub(crate) name: &'a str,
    pub(crate) row: Option<&'a Row>,
    pub(crate) words: &'a str,
    pub(crate) code: Code,
    /// More about the result: the reason of a refusal, the request that waits.
    pub(crate) result: &'a str,
    pub(crate) approved_by: Option<&'a str>,
    /// Refused by role or rule, before the service saw it.
    pub(crate) refused: bool,
}

/// Writes it down.
///
/// # Errors
/// When the issuance log cannot be written.
pub(crate) async fn write(authority: &Authority, call: &Call<'_>) -> Result<(), AuthorityError> {
    let Call { who, name, words, result, .. } = call;
    let code = format!("{:?}", call.code);
    let (role, source) = (who.standing.to_string(), who.source());
    let approved_by = call.approved_by.unwrap_or_default();
    let session = who.session.as_ref();
    let issuer = session.map_or("", |it| it.person.issuer.as_str());
    let subject = session.map_or("", |it| it.person.subject.as_str());
    let serial = session.map(|it| it.serial.to_string()).unwrap_or_default();
    tracing::info!(
        target: "signet::audit", actor = who.actor, issuer, subject, name = who.name(), role, call = name, arguments = words,
        code, result, source, approved_by, serial, "operator call"
    );
    let read = call.row.is_some_and(|row| matches!(row.kind, Kind::Read | Kind::Look));
    if read && !call.refused && approved_by.is_empty() && result.is_empty() {
        return Ok(());
    }
    let mut text = (*name).to_owned();
    for (before, part) in [(" ", *words), (": ", code.as_str()), (", ", *result), (", as ", role.as_str())] {
        if !part.is_empty() {
            text += before;
            text += part;
        }
    }
    text += &format!(", from {source}");
    if !approved_by.is_empty() {
        text += &format!(", approved by {approved_by}");
    }
    if !who.name().is_empty() {
        text += &format!(", {:?}", who.name());
    }
    authority
        .record_operator_call(OperatorCall {
            actor: who.actor.clone(),
            certificate: session.map(|it| (it.spiffe_id.clone(), it.serial)),
            words: text,
            refused: call.refused,
        })
        .await
}
