//! Users, sessions and tokens that are not to be believed any more although their credentials have not ended.
//!
//! They are named as the mesh names users: by the alias of their issuer and what that issuer calls them. One issuer can
//! therefore never speak for the users of another.

use std::collections::{HashMap, HashSet};

/// Whom a request is made for, as far as a revocation may speak of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// `<alias>|<sub>`
    pub user: String,
    /// The issuer's `sid`.
    pub session: Option<String>,
    /// The credential's `jti`.
    pub token: Option<String>,
    /// When the credential was issued, seconds since the epoch. 0 where it does not say: it is older than any logout.
    pub issued_at: u64,
}

impl Subject {
    /// The part of the user's name before the bar.
    pub fn alias(&self) -> &str {
        self.user.split_once('|').map_or("", |(alias, _)| alias)
    }
}

/// What it was that revoked somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserRevokedBy {
    /// The user is shut out.
    User,
    /// The user signed out, or was signed out, after the credential was issued.
    Logout,
    /// Its session.
    Session,
    /// Itself.
    Token,
}

impl UserRevokedBy {
    /// A short name for counters and logs.
    pub const fn label(self) -> &'static str {
        match self {
            UserRevokedBy::User => "user_revoked",
            UserRevokedBy::Logout => "signed_out",
            UserRevokedBy::Session => "session_revoked",
            UserRevokedBy::Token => "token_revoked",
        }
    }
}

/// All that is revoked of this. Names are `<alias>|<sub>`, `<alias>|<sid>`, `<alias>|<jti>`. Empty, it costs nothing to
/// ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedUsers {
    /// Users who are shut out whatever they sign in with.
    pub users: HashSet<Box<str>>,
    /// Users with the last second of which nothing that was issued to them counts any more.
    pub logouts: HashMap<Box<str>, u64>,
    /// Sessions.
    pub sessions: HashSet<Box<str>>,
    /// Tokens.
    pub tokens: HashSet<Box<str>>,
}

impl RevokedUsers {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.logouts.is_empty() && self.sessions.is_empty() && self.tokens.is_empty()
    }

    /// What revokes this one, if anything does.
    pub fn revokes(&self, subject: &Subject) -> Option<UserRevokedBy> {
        if self.is_empty() {
            return None;
        }
        if self.users.contains(subject.user.as_str()) {
            return Some(UserRevokedBy::User);
        }
        if self.logouts.get(subject.user.as_str()).is_some_and(|until| subject.issued_at <= *until) {
            return Some(UserRevokedBy::Logout);
        }
        let named = |set: &HashSet<Box<str>>, name: &Option<String>| {
            let name = name.as_ref().filter(|_| !set.is_empty());
            name.is_some_and(|name| set.contains(format!("{}|{name}", subject.alias()).as_str()))
        };
        if named(&self.sessions, &subject.session) {
            return Some(UserRevokedBy::Session);
        }
        named(&self.tokens, &subject.token).then_some(UserRevokedBy::Token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Subject {
        Subject {
            user: "idp|alice".into(),
            session: Some("s1".into()),
            token: Some("t1".into()),
            issued_at: 100,
        }
    }

    fn one(fill: impl FnOnce(&mut RevokedUsers)) -> RevokedUsers {
        let mut revoked = RevokedUsers::default();
        fill(&mut revoked);
        revoked
    }

    #[test]
    fn each_kind_revokes_whom_it_names_and_nobody_of_another_issuer() {
        assert_eq!(RevokedUsers::default().revokes(&alice()), None);
        type Fill = fn(&mut RevokedUsers, &str);
        let kinds: [(Fill, &str, UserRevokedBy); 4] = [
            (|all, name| _ = all.users.insert(name.into()), "alice", UserRevokedBy::User),
            (|all, name| _ = all.logouts.insert(name.into(), 100), "alice", UserRevokedBy::Logout),
            (|all, name| _ = all.sessions.insert(name.into()), "s1", UserRevokedBy::Session),
            (|all, name| _ = all.tokens.insert(name.into()), "t1", UserRevokedBy::Token),
        ];
        for (fill, name, by) in kinds {
            let revoked = one(|all| fill(all, &format!("idp|{name}")));
            assert_eq!(revoked.revokes(&alice()), Some(by));
            for other in [format!("other|{name}"), format!("idp|{name}x"), name.to_owned(), "idp|".to_owned()]
            {
                assert_eq!(one(|all| fill(all, &other)).revokes(&alice()), None, "{other}");
            }
            let stranger = Subject { user: "other|bob".into(), ..alice() };
            assert_eq!(revoked.revokes(&stranger), None);
        }
    }

    #[test]
    fn who_signs_in_after_a_logout_is_believed_again() {
        let revoked = one(|all| _ = all.logouts.insert("idp|alice".into(), 100));
        assert_eq!(revoked.revokes(&Subject { issued_at: 101, ..alice() }), None);
        assert_eq!(revoked.revokes(&Subject { issued_at: 99, ..alice() }), Some(UserRevokedBy::Logout));
    }

    #[test]
    fn who_has_no_session_or_token_id_is_not_meant_by_one() {
        let revoked = one(|all| {
            all.sessions.insert("idp|".into());
            all.tokens.insert("idp|".into());
        });
        assert_eq!(revoked.revokes(&Subject { session: None, token: None, ..alice() }), None);
    }
}
