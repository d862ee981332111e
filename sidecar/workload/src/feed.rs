//! How a stream tells of changes, and what becomes of a reader that does not read.
//!
//! Messages are the whole state, so there is no queue: while the reader thinks, newer states replace older ones. HTTP/2
//! takes a message or two in advance, for a reader that grants no window; the next one that is not taken within
//! [`Bounds::unread`] cuts the connection: nothing less would end such a stream, and what waits for it may be a
//! private key. A peer that does not read its socket at all is found by the pings.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::SendError;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use crate::listen::Bounds;
use crate::provider::{Caller, Provider, Served, State};

/// The connection under a call: goes with every request.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) caller: Caller,
    unread: Duration,
    /// How long a stream may wait for something to tell.
    pub(crate) first: Duration,
    cut: Arc<Notify>,
}

impl Connection {
    pub(crate) fn new(caller: Caller, bounds: &Bounds) -> Self {
        Self { caller, unread: bounds.unread, first: bounds.first, cut: Arc::default() }
    }

    /// The connection under this request. There is always one: requests reach a service only through `serve`.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| Status::internal("a call without a caller"))
    }

    /// Resolves when somebody on this connection does not read.
    pub(crate) async fn is_cut(&self) {
        self.cut.notified().await;
    }
}

/// What is heard at the end of a stream.
pub(crate) type Out<T> = ReceiverStream<Result<T, Status>>;

/// A stream's writing end.
pub(crate) struct Feed<T> {
    out: mpsc::Sender<Result<T, Status>>,
    connection: Connection,
}

/// The reader is gone, or was cut.
#[derive(Debug)]
pub(crate) struct Gone;

impl<T> From<SendError<T>> for Gone {
    fn from(_: SendError<T>) -> Self {
        Self
    }
}

impl<T> Feed<T> {
    pub(crate) fn new(connection: Connection) -> (Self, Out<T>) {
        let (out, taken) = mpsc::channel(1);
        (Self { out, connection }, ReceiverStream::new(taken))
    }

    /// Sends, and returns once the message was taken for sending.
    pub(crate) async fn send(&self, message: T) -> Result<(), Gone> {
        self.out.send(Ok(message)).await?;
        // Room again means that this message has left.
        match tokio::time::timeout(self.connection.unread, self.out.reserve()).await {
            Ok(permit) => permit.map(drop).map_err(Gone::from),
            Err(_) => {
                let Caller { uid, pid, .. } = self.connection.caller;
                tracing::warn!(
                    target: "signet::workload", uid, pid,
                    "connection cut: a stream was not read for {} s", self.connection.unread.as_secs()
                );
                self.connection.cut.notify_one();
                Err(Gone)
            }
        }
    }

    /// Ends the stream with a reason.
    pub(crate) async fn end(&self, status: Status) {
        // A reader that is gone, or that does not even take its end, needs none.
        let _ = tokio::time::timeout(self.connection.unread, self.out.send(Err(status))).await;
    }

    /// Resolves when the reader is gone.
    pub(crate) async fn closed(&self) {
        self.out.closed().await;
    }
}

/// What this caller may have, for a call that is answered once: as soon as something is known.
pub(crate) async fn now(provider: &dyn Provider, connection: &Connection) -> Result<Arc<Served>, Status> {
    let mut state = provider.serve(&connection.caller);
    let known = state.wait_for(|state| !matches!(state, State::Waiting));
    let known = tokio::time::timeout(connection.first, known).await.map_err(|_| not_yet())?;
    match &*known.map_err(|_| not_yet())? {
        State::Served(served) => Ok(Arc::clone(served)),
        State::Refused(why) => Err(no_identity(why)),
        State::Waiting => Err(not_yet()),
    }
}

/// The standard's word for a caller that may have nothing: clients ask again later.
pub(crate) fn no_identity(why: &str) -> Status {
    Status::permission_denied(format!("no identity issued: {why}"))
}

pub(crate) fn not_yet() -> Status {
    Status::unavailable("no certificate is at hand yet; try again")
}

/// A stream of `make`'s messages: the first at once, another whenever `mark` of what is served changed.
pub(crate) fn stream<T, M, K>(
    mut state: watch::Receiver<State>,
    connection: Connection,
    mark: K,
    make: M,
) -> Out<T>
where
    T: Send + 'static,
    M: Fn(&Served) -> T + Send + 'static,
    K: Fn(&Served) -> Vec<u8> + Send + 'static,
{
    let first = connection.first;
    let (feed, out) = Feed::new(connection);
    tokio::spawn(async move {
        let mut told: Option<Vec<u8>> = None;
        let deadline = tokio::time::sleep(first);
        tokio::pin!(deadline);
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Refused(why) => return feed.end(no_identity(why)).await,
                State::Waiting => {}
                State::Served(served) => {
                    let mark = mark(&served);
                    if told.as_ref() != Some(&mark) {
                        if feed.send(make(&served)).await.is_err() {
                            return;
                        }
                        told = Some(mark);
                        // What changed meanwhile is told before anything is waited for.
                        continue;
                    }
                }
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() {
                    return feed.end(Status::unavailable("ending; connect again")).await;
                },
                () = feed.closed() => return,
                () = &mut deadline, if told.is_none() => return feed.end(not_yet()).await,
            }
        }
    });
    out
}
