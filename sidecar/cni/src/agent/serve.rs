//! The agent's socket, where the plugins of this node ask: one thread per question, and few of them.
//!
//! Only root of the node reaches it: the folder is 0700 and the socket 0600. Whoever does can as well change the node's
//! network by itself; still it learns nothing here, and has nothing done but to the namespace that it brings, of a pod
//! that the API server knows on this node.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::wire::{self, Action, Answer, Failure, Question};

/// A node starts at most as many pods at once.
const AT_ONCE: usize = 64;
/// A plugin sends what it has at once.
const PROMPT: Duration = Duration::from_secs(5);

/// Who answers.
pub trait Answers: Send + Sync + 'static {
    /// Answers a question; blocks.
    fn answer(&self, question: &Question, namespace: Option<OwnedFd>) -> Answer;
}

/// Questions that are being answered.
#[derive(Clone, Default)]
pub struct Open(Arc<AtomicUsize>);

impl Open {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

struct Place(Open);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Binds the socket, in place of that of an agent before this one: whoever connects from then on comes here.
///
/// # Errors
/// The folder cannot be made, or nothing be bound there.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let temporary = folder.join(format!(".agent-{:016x}", crate::install::chance()));
    let _ = fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
    fs::rename(&temporary, socket)?;
    Ok(listener)
}

/// Answers until the process ends.
pub fn serve<A: Answers>(listener: UnixListener, answers: Arc<A>, open: Open) {
    let work = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors: the plugins wait in the queue.
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let answers = Arc::clone(&answers);
            let busy = open.0.fetch_add(1, Ordering::AcqRel) >= AT_ONCE;
            let place = Place(open.clone());
            let one = move || {
                one(stream, answers.as_ref(), busy);
                drop(place);
            };
            if let Err(error) = std::thread::Builder::new().name("question".into()).spawn(one) {
                tracing::warn!(target: "signet::cni", %error, "no thread for a question");
            }
        }
    };
    std::thread::spawn(work);
}

fn one(mut stream: UnixStream, answers: &impl Answers, busy: bool) {
    let timely = stream.set_read_timeout(Some(PROMPT)).and_then(|()| stream.set_write_timeout(Some(PROMPT)));
    let asked = timely.and_then(|()| wire::receive(&mut stream));
    let (question, namespace) = match asked {
        Ok(asked) => asked,
        Err(error) => return tracing::warn!(target: "signet::cni", %error, "no question of a plugin"),
    };
    let answer = match busy {
        true => Err(Failure::new(Failure::AGAIN, "Signet's CNI agent is busy with other pods of this node")),
        false => answers.answer(&question, namespace),
    };
    if question.action != Action::Health {
        let Question { namespace, name, container, .. } = &question;
        match &answer {
            Ok(()) => tracing::debug!(target: "signet::cni", namespace, name, container, "answered"),
            Err(failure) => {
                tracing::warn!(target: "signet::cni", namespace, name, container, code = failure.code, %failure, "refused");
            }
        }
    }
    // A plugin that has gone asks again.
    let _ = wire::reply(&mut stream, &answer);
}
