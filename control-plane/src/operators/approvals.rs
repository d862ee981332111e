//! Calls that need a second person.
//!
//! Such a call is not made when it is asked for: it becomes a request that waits, with the digest of its method
//! and arguments. Another person who may make the same call approves it by that digest, and then whoever asked makes
//! the call again: exactly these arguments, exactly once, within fifteen minutes of asking. So the answer (which
//! may be a secret) goes to who asked, and the caller's role and session are looked at again when it runs.
//!
//! Requests live in memory and are few: a restart drops them, and with several control planes each has its own.
//! Everything here is a function of its arguments and the time that is passed in.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};
use signet_proto::v1;

use super::roles::{Need, Standing};
use super::table::Row;

/// How long a request is good, from the first asking to the call, in seconds.
pub const LIFE: i64 = 15 * 60;
/// Requests at once, of everybody and of one person: people read them.
const MOST: usize = 64;
const MOST_OF_ONE: usize = 8;

/// SHA-256 over service, method and the arguments as they came.
pub type Digest = [u8; 32];

/// A request that waits, or was approved and not yet used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub id: String,
    pub actor: String,
    pub name: String,
    pub method: &'static str,
    /// The arguments in words.
    pub words: String,
    pub digest: Digest,
    pub need: Need,
    pub asked_at: i64,
    pub expires_at: i64,
    pub approved_by: Option<String>,
}

/// What becomes of a call that needs a second person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ticket {
    /// It was approved by this person, and may be made now; the approval is used up.
    Approved(String),
    /// It waits.
    Waits(Request),
    /// Too many wait already.
    Full,
    /// No randomness for an id.
    Failed,
}

/// Why a request was not approved or denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("no such request: unknown, made, denied, or older than 15 minutes")]
    Unknown,
    #[error("who asked for it cannot approve it: another person must")]
    Own,
    #[error("approving it needs what making it needs: {0}")]
    Role(Need),
    #[error("the digest is not that of the request: list it again and read what you approve")]
    Digest,
    #[error("{0} approved it already")]
    Again(String),
}

/// Everything that waits.
#[derive(Debug, Default)]
pub struct Approvals(Mutex<Vec<Request>>);

/// Names a call with its arguments.
#[must_use]
pub fn digest(row: &Row, message: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in [row.service.as_bytes(), row.method.as_bytes(), message] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

impl Approvals {
    /// A call comes: it is let through if it was approved, otherwise it waits. Asking again changes nothing.
    pub fn ask(
        &self,
        (actor, name): (&str, &str),
        row: &Row,
        (need, words): (&Need, &str),
        digest: Digest,
        now: i64,
    ) -> Ticket {
        let mut requests = self.current(now);
        let same = |it: &Request| it.actor == actor && it.digest == digest;
        if let Some(at) = requests.iter().position(same) {
            let Some(by) = requests[at].approved_by.clone() else {
                return Ticket::Waits(requests[at].clone());
            };
            requests.swap_remove(at);
            return Ticket::Approved(by);
        }
        if requests.len() >= MOST || requests.iter().filter(|it| it.actor == actor).count() >= MOST_OF_ONE {
            return Ticket::Full;
        }
        let mut id = [0_u8; 6];
        if SystemRandom::new().fill(&mut id).is_err() {
            return Ticket::Failed;
        }
        let request = Request {
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            actor: actor.to_owned(),
            name: name.to_owned(),
            method: row.name,
            words: words.to_owned(),
            digest,
            need: need.clone(),
            asked_at: now,
            expires_at: now.saturating_add(LIFE),
            approved_by: None,
        };
        requests.push(request.clone());
        Ticket::Waits(request)
    }

    /// Another person lets it be made.
    ///
    /// # Errors
    /// [`Refused`]; the request stays as it was.
    pub fn approve(
        &self,
        id: &str,
        digest: &str,
        (actor, standing): (&str, &Standing),
        now: i64,
    ) -> Result<Request, Refused> {
        let mut requests = self.current(now);
        let request = requests.iter_mut().find(|it| it.id == id).ok_or(Refused::Unknown)?;
        if request.actor == actor {
            return Err(Refused::Own);
        }
        if !standing.may(&request.need) {
            return Err(Refused::Role(request.need.clone()));
        }
        if hex(&request.digest) != digest {
            return Err(Refused::Digest);
        }
        if let Some(by) = &request.approved_by {
            return Err(Refused::Again(by.clone()));
        }
        request.approved_by = Some(actor.to_owned());
        Ok(request.clone())
    }

    /// Takes it away: who asked may, and whoever could approve it.
    ///
    /// # Errors
    /// [`Refused`]; the request stays as it was.
    pub fn deny(&self, id: &str, (actor, standing): (&str, &Standing), now: i64) -> Result<Request, Refused> {
        let mut requests = self.current(now);
        let at = requests.iter().position(|it| it.id == id).ok_or(Refused::Unknown)?;
        if requests[at].actor != actor && !standing.may(&requests[at].need) {
            return Err(Refused::Role(requests[at].need.clone()));
        }
        Ok(requests.swap_remove(at))
    }

    /// What waits, oldest first.
    #[must_use]
    pub fn list(&self, now: i64) -> Vec<Request> {
        let mut listed = self.current(now).clone();
        listed.sort_by(|a, b| (a.asked_at, &a.id).cmp(&(b.asked_at, &b.id)));
        listed
    }

    /// What has expired is gone before anything else is looked at.
    fn current(&self, now: i64) -> MutexGuard<'_, Vec<Request>> {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        requests.retain(|it| now < it.expires_at);
        requests
    }
}

impl Request {
    /// As the protocol says it.
    #[must_use]
    pub fn to_proto(&self) -> v1::Approval {
        v1::Approval {
            id: self.id.clone(),
            actor: self.actor.clone(),
            name: self.name.clone(),
            method: self.method.to_owned(),
            arguments: self.words.clone(),
            digest: hex(&self.digest),
            asked_at: self.asked_at,
            expires_at: self.expires_at,
            approved_by: self.approved_by.clone().unwrap_or_default(),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::roles::Role;
    use crate::operators::table::find;

    const NOW: i64 = 1_800_000_000;

    fn row() -> &'static Row {
        find("signet.v1.Operator", "Revoke").unwrap()
    }

    fn with(role: Role) -> Standing {
        Standing { role: Some(role), ..Standing::default() }
    }

    fn ask(approvals: &Approvals, who: &str, message: &[u8], now: i64) -> Ticket {
        approvals.ask((who, ""), row(), (&Need::of(Role::Operator), "x"), digest(row(), message), now)
    }

    fn waits(ticket: Ticket) -> Request {
        match ticket {
            Ticket::Waits(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn another_person_approves_and_the_call_is_made_once_with_the_arguments_that_were_shown() {
        let approvals = Approvals::default();
        let request = waits(ask(&approvals, "ada", b"one", NOW));
        assert_eq!(waits(ask(&approvals, "ada", b"one", NOW + 1)), request, "asking again changes nothing");
        let seen = hex(&request.digest);
        let bob = with(Role::Operator);
        approvals.approve(&request.id, &seen, ("bob", &bob), NOW + 2).unwrap();
        // Other arguments are another request; another person's same call is one too.
        assert_ne!(waits(ask(&approvals, "ada", b"two", NOW + 3)).id, request.id);
        assert_ne!(waits(ask(&approvals, "eve", b"one", NOW + 3)).id, request.id);
        assert_eq!(ask(&approvals, "ada", b"one", NOW + 4), Ticket::Approved("bob".into()));
        assert_ne!(waits(ask(&approvals, "ada", b"one", NOW + 5)).id, request.id, "an approval is used up");
    }

    #[test]
    fn nobody_approves_their_own_call_nor_one_that_they_could_not_make_nor_one_that_they_did_not_read() {
        let approvals = Approvals::default();
        let request = waits(ask(&approvals, "ada", b"one", NOW));
        let digest = hex(&request.digest);
        let (admin, viewer) = (with(Role::SecurityAdmin), with(Role::Viewer));
        let approve = |digest: &str, who| approvals.approve(&request.id, digest, who, NOW);
        assert_eq!(approve(&digest, ("ada", &admin)), Err(Refused::Own));
        assert!(matches!(approve(&digest, ("bob", &viewer)), Err(Refused::Role(_))));
        assert_eq!(approve("00", ("bob", &admin)), Err(Refused::Digest));
        approve(&digest, ("bob", &admin)).unwrap();
        assert_eq!(approve(&digest, ("eve", &admin)), Err(Refused::Again("bob".into())));
        assert_eq!(approvals.approve("none", &digest, ("bob", &admin), NOW), Err(Refused::Unknown));
    }

    #[test]
    fn a_request_ends_after_fifteen_minutes_approved_or_not() {
        let approvals = Approvals::default();
        let request = waits(ask(&approvals, "ada", b"one", NOW));
        let (digest, admin) = (hex(&request.digest), with(Role::SecurityAdmin));
        approvals.approve(&request.id, &digest, ("bob", &admin), NOW + LIFE - 1).unwrap();
        let later = waits(ask(&approvals, "ada", b"one", NOW + LIFE));
        assert_ne!(later.id, request.id);
        let late = approvals.approve(&later.id, &digest, ("bob", &admin), NOW + 2 * LIFE);
        assert_eq!(late, Err(Refused::Unknown));
        assert!(approvals.list(NOW + 2 * LIFE).is_empty());
    }

    #[test]
    fn who_asked_and_whoever_could_approve_may_take_a_request_away() {
        let approvals = Approvals::default();
        let (viewer, admin) = (with(Role::Viewer), with(Role::SecurityAdmin));
        let request = waits(ask(&approvals, "ada", b"one", NOW));
        assert!(matches!(approvals.deny(&request.id, ("eve", &viewer), NOW), Err(Refused::Role(_))));
        approvals.deny(&request.id, ("ada", &viewer), NOW).unwrap();
        let request = waits(ask(&approvals, "ada", b"one", NOW));
        approvals.deny(&request.id, ("bob", &admin), NOW).unwrap();
        assert_eq!(approvals.deny(&request.id, ("bob", &admin), NOW), Err(Refused::Unknown));
    }

    #[test]
    fn requests_are_bounded_for_each_person_and_for_all() {
        let approvals = Approvals::default();
        for number in 0..100_u8 {
            let person = format!("person {}", number / 10);
            let ticket = ask(&approvals, &person, &[number], NOW);
            assert_eq!(matches!(ticket, Ticket::Full), number % 10 >= 8 || number >= 80, "{number}");
        }
        assert_eq!(approvals.list(NOW).len(), MOST);
    }
}
