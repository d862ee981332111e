//! Many users at once, each with a token of their own.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use signet_tests::issuer::Issuer;
use signet_tests::process::PATIENCE;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A token of a test's issuer is good for an hour.
const FRESH: Duration = Duration::from_secs(1800);
/// One request of so many is given up by its caller.
const GIVEN_UP: usize = 23;

pub struct Users<'a> {
    issuer: &'a Issuer,
    tokens: Vec<Mutex<Option<(Instant, String)>>>,
}

impl<'a> Users<'a> {
    pub fn new(issuer: &'a Issuer, count: usize) -> Self {
        Users { issuer, tokens: (0..count).map(|_| Mutex::default()).collect() }
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn name(at: usize) -> String {
        format!("u{at}")
    }

    pub fn bearer(&self, at: usize) -> String {
        let mut token = self.tokens[at].lock().unwrap_or_else(PoisonError::into_inner);
        match &*token {
            Some((made, token)) if made.elapsed() < FRESH => token.clone(),
            _ => {
                let made = format!("Bearer {}", self.issuer.token(&Users::name(at), "read"));
                *token = Some((Instant::now(), made.clone()));
                made
            }
        }
    }
}

/// What became of requests: whose user the call for them had.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub own: usize,
    /// Another's, whose request was under way when the call was made.
    pub other_live: usize,
    /// Another's, whose request had been answered before.
    pub other_ended: usize,
    pub nobody: usize,
    pub given_up: usize,
    pub failed: usize,
}

impl Tally {
    pub fn crossed(&self) -> usize {
        self.other_live + self.other_ended
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { own, other_live, other_ended, nobody, given_up, failed } = self;
        write!(
            f,
            "{own} own, {other_live} crossed with a live owner, {other_ended} with an ended one, {nobody} nobody, \
             {given_up} given up, {failed} failed"
        )
    }
}

/// The clock that every program on this machine reads alike.
fn monotonic() -> u128 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u128::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u128::try_from(now.tv_nsec).unwrap_or(0)
}

struct Answered {
    user: usize,
    sub: Option<String>,
    sent_at: u128,
}

#[derive(Default)]
struct Results {
    answered: Vec<Answered>,
    /// When each user's last request was over, as its caller saw it.
    ended: HashMap<String, u128>,
    given_up: usize,
    failed: Vec<String>,
}

/// So many requests, by so many callers at a time; `gives_up`: some callers do not wait for the answer.
pub async fn drive(
    gateway: &str,
    users: &Users<'_>,
    requests: usize,
    callers: usize,
    path: &(dyn Fn(&str) -> String + Sync),
    gives_up: bool,
) -> Tally {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Results::default());
    let caller = async || {
        let mut sender = None;
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= requests {
                return;
            }
            let user = at % users.len();
            let name = Users::name(user);
            let gives_up = gives_up && requests >= 500 && at % GIVEN_UP == GIVEN_UP - 1;
            let asked = ask(gateway, &mut sender, &path(&name), &users.bearer(user), gives_up).await;
            let ended = monotonic();
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.ended.insert(name, ended);
            match asked {
                Ok(None) => results.given_up += 1,
                Ok(Some(answer)) => {
                    let sub = answer["sub"].as_str().map(str::to_owned);
                    let sent_at = answer["sentAt"].as_str().and_then(|at| at.parse().ok()).unwrap_or(0);
                    results.answered.push(Answered { user, sub, sent_at });
                }
                Err(error) => results.failed.push(error.to_string()),
            }
        }
    };
    futures_util::future::join_all((0..callers).map(|_| caller())).await;
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = results.failed.first() {
        eprintln!("the first of {} failures: {error}", results.failed.len());
    }
    let mut tally = Tally { given_up: results.given_up, failed: results.failed.len(), ..Tally::default() };
    for answered in &results.answered {
        match &answered.sub {
            None => tally.nobody += 1,
            Some(sub) if *sub == Users::name(answered.user) => tally.own += 1,
            // Whoever has several requests is live until the last of them.
            Some(sub) if results.ended.get(sub).is_some_and(|ended| *ended < answered.sent_at) => {
                tally.other_ended += 1;
            }
            Some(_) => tally.other_live += 1,
        }
    }
    tally
}

type Sender = SendRequest<Empty<Bytes>>;

/// The app's answer; `None` where the caller did not wait for it.
async fn ask(
    gateway: &str,
    kept: &mut Option<Sender>,
    path: &str,
    bearer: &str,
    gives_up: bool,
) -> anyhow::Result<Option<Value>> {
    let mut sender = match kept.take().filter(Sender::is_ready) {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(gateway).await?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender
        }
    };
    let request = Request::get(path).header("host", "shop").header("authorization", bearer);
    // As browsers and load balancers of a traced world send it.
    let request = request.header("baggage", "tenant=one");
    let exchange = sender.send_request(request.body(Empty::new())?);
    if gives_up {
        let _ = timeout(Duration::from_millis(8), exchange).await;
        return Ok(None);
    }
    let answer = timeout(PATIENCE, exchange).await??;
    let status = answer.status();
    let body = timeout(PATIENCE, answer.into_body().collect()).await??.to_bytes();
    anyhow::ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
    *kept = Some(sender);
    Ok(Some(serde_json::from_slice(&body)?))
}
