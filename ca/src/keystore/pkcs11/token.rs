//! A token and a few sessions with it.
//!
//! Sessions are bounded, kept open (a login lasts as long as one is open) and lent to one call at a time.
//! One that failed is closed and never used again; where the failure means that the session or the token
//! went away, all idle ones are closed, the token is looked up and logged into anew, and the call is made
//! once more. A PIN that the token refused is not tried twice.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Limit, Slot};

use super::module;
use super::pin::{PinError, PinFile};
use crate::keystore::config::Pkcs11Config;

/// More would only queue inside the token: small ones sign one at a time.
const MOST_SESSIONS: usize = 4;
/// How long a call waits for a session; longer than any healthy token takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can go wrong with a token. The PIN is in none of these.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the module {path} cannot be used: {reason}")]
    Module { path: PathBuf, reason: String },
    #[error("the module knows no token labelled {wanted:?}; it knows: {}", listed(.found))]
    NoToken { wanted: String, found: Vec<String> },
    #[error("the module knows {count} tokens labelled {wanted:?}: give the right one a label of its own")]
    TokenTwice { wanted: String, count: usize },
    #[error("the token cannot {0}, which Signet needs")]
    Mechanism(&'static str),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(
        "all {MOST_SESSIONS} sessions have been busy for {} s: the token is stuck or overloaded",
        PATIENCE.as_secs()
    )]
    Busy,
    #[error("the token has no key for {label:?}: it was destroyed, or this is another token")]
    KeyMissing { label: String },
    #[error("the token has more than one key with the id of {label:?}: remove the copy")]
    KeyTwice { label: String },
    #[error("the key {label:?} can be read out of the token, or could once: it is not used")]
    Exposed { label: String },
    #[error("the token does not say the public half of a key that it has just made")]
    Point,
    #[error("the token's signature has {length} bytes, which no signature of such a key has")]
    Signature { length: usize },
    #[error("the system's random number generator failed")]
    Random,
    #[error("{0}")]
    Call(#[from] Error),
}

fn listed(labels: &[String]) -> String {
    if labels.is_empty() { "none".into() } else { labels.join(", ") }
}

impl TokenError {
    /// The session or the token went away; another session may do.
    fn is_loss(&self) -> bool {
        use RvError as E;
        matches!(
            self,
            TokenError::Call(Error::Pkcs11(
                E::SessionClosed
                    | E::SessionHandleInvalid
                    | E::DeviceRemoved
                    | E::DeviceError
                    | E::TokenNotPresent
                    | E::TokenNotRecognized
                    | E::SlotIdInvalid
                    | E::UserNotLoggedIn
                    | E::KeyHandleInvalid
                    | E::ObjectHandleInvalid
                    | E::GeneralError
                    | E::FunctionFailed
                    | E::OperationActive,
                _
            ))
        )
    }
}

pub(crate) struct Token {
    module: Pkcs11,
    label: String,
    pin: PinFile,
    most: usize,
    sessions: Mutex<Sessions>,
    free: Condvar,
    /// One login at a time: two with a wrong PIN would count twice.
    login: Mutex<()>,
}

#[derive(Default)]
struct Sessions {
    idle: Vec<Session>,
    /// Idle and lent.
    open: usize,
    /// Counts losses: a session from before the last one is not used again.
    generation: u64,
}

/// A session in use. It goes back when the call went well.
struct Lent<'a> {
    token: &'a Token,
    session: Option<Session>,
    generation: u64,
}

impl Token {
    /// Finds the token, checks what it can do, and logs in.
    pub(super) fn connect(config: &Pkcs11Config, data_dir: &Path) -> Result<Token, TokenError> {
        let module = module::load(&config.module)?;
        let slot = find(&module, &config.token_label)?;
        let can = module.get_mechanism_list(slot)?;
        if !can.contains(&MechanismType::ECDSA) {
            return Err(TokenError::Mechanism("sign digests with ECDSA (CKM_ECDSA)"));
        }
        if !can.contains(&MechanismType::ECC_KEY_PAIR_GEN) {
            return Err(TokenError::Mechanism("make EC keys (CKM_EC_KEY_PAIR_GEN)"));
        }
        let most = match module.get_token_info(slot)?.max_rw_session_count() {
            Limit::Max(most) => usize::try_from(most).unwrap_or(MOST_SESSIONS).clamp(1, MOST_SESSIONS),
            Limit::Unavailable | Limit::Infinite => MOST_SESSIONS,
        };
        let token = Token {
            module,
            label: config.token_label.clone(),
            pin: PinFile::new(&config.pin_file, data_dir),
            most,
            sessions: Mutex::default(),
            free: Condvar::new(),
            login: Mutex::new(()),
        };
        token.with_session(|_| Ok(()))?;
        Ok(token)
    }

    /// Makes a call with a session of its own; once more if the first one was lost.
    pub(super) fn with_session<T>(
        &self,
        call: impl Fn(&Session) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        match self.once(&call) {
            Err(error) if error.is_loss() => {
                tracing::warn!(target: "signet::ca", %error, token = self.label, "lost the token; trying with a new session");
                self.lose();
                self.once(&call)
            }
            other => other,
        }
    }

    fn once<T>(&self, call: impl Fn(&Session) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let mut lent = self.lend()?;
        let result = lent.session.as_ref().ok_or(TokenError::Busy).and_then(call);
        if result.is_err() {
            lent.session = None;
        }
        result
    }

    fn lend(&self) -> Result<Lent<'_>, TokenError> {
        let deadline = Instant::now().checked_add(PATIENCE);
        let mut sessions = self.lock();
        loop {
            let generation = sessions.generation;
            if let Some(session) = sessions.idle.pop() {
                return Ok(Lent { token: self, session: Some(session), generation });
            }
            if sessions.open < self.most {
                sessions.open = sessions.open.saturating_add(1);
                drop(sessions);
                // From here on the place is given back, whatever happens.
                let mut lent = Lent { token: self, session: None, generation };
                lent.session = Some(self.open()?);
                return Ok(lent);
            }
            let left = deadline.map_or(PATIENCE, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(TokenError::Busy);
            }
            sessions = self.free.wait_timeout(sessions, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Closes what is idle and forgets what is lent.
    fn lose(&self) {
        let idle = {
            let mut sessions = self.lock();
            sessions.generation = sessions.generation.wrapping_add(1);
            let idle = std::mem::take(&mut sessions.idle);
            sessions.open = sessions.open.saturating_sub(idle.len());
            idle
        };
        drop(idle);
        self.free.notify_all();
    }

    fn open(&self) -> Result<Session, TokenError> {
        let slot = find(&self.module, &self.label)?;
        let session = self.module.open_rw_session(slot)?;
        let _one = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        if session.get_session_info()?.session_state() == SessionState::RwUser {
            return Ok(session);
        }
        let token = self.module.get_token_info(slot)?;
        let obstacle = if token.user_pin_locked() {
            Some(PinError::Locked)
        } else if token.user_pin_final_try() {
            Some(PinError::FinalTry)
        } else if token.user_pin_to_be_changed() {
            Some(PinError::ToBeChanged)
        } else if !token.user_pin_initialized() {
            Some(PinError::NotSet)
        } else {
            None
        };
        if let Some(obstacle) = obstacle {
            return Err(obstacle.into());
        }
        use RvError as E;
        match session.login_with_raw(UserType::User, &self.pin.read()?) {
            Ok(()) => self.pin.accepted(),
            // Somebody else in this process; the login is the process's.
            Err(Error::Pkcs11(E::UserAlreadyLoggedIn, Function::Login)) => {}
            Err(Error::Pkcs11(
                code @ (E::PinIncorrect | E::PinInvalid | E::PinLenRange | E::PinExpired | E::PinLocked),
                _,
            )) => return Err(self.pin.refused(code.to_string()).into()),
            Err(error) => return Err(error.into()),
        }
        Ok(session)
    }

    #[cfg(test)]
    pub(super) fn sessions(&self) -> usize {
        self.lock().open
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        // Whole between calls, even if a thread died holding it.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let session = self.session.take();
        let stale = {
            let mut sessions = self.token.lock();
            match session {
                Some(session) if sessions.generation == self.generation => {
                    sessions.idle.push(session);
                    None
                }
                other => {
                    sessions.open = sessions.open.saturating_sub(1);
                    other
                }
            }
        };
        // Closing is a call to the token: not under the lock.
        drop(stale);
        self.token.free.notify_one();
    }
}

/// The slot that has the token of this label now: slots may be numbered anew when tokens come and go.
fn find(module: &Pkcs11, label: &str) -> Result<Slot, TokenError> {
    let mut found = Vec::new();
    let mut others = Vec::new();
    for slot in module.get_slots_with_token()? {
        // One token that does not answer must not hide the others.
        let Ok(info) = module.get_token_info(slot) else { continue };
        match info.label() {
            this if this == label => found.push(slot),
            "" => {}
            other => others.push(other.to_owned()),
        }
    }
    match found.as_slice() {
        [slot] => Ok(*slot),
        [] => Err(TokenError::NoToken { wanted: label.to_owned(), found: others }),
        several => Err(TokenError::TokenTwice { wanted: label.to_owned(), count: several.len() }),
    }
}
