//! While two processes share the listeners, a token that came with a request to the one may be presented through the
//! other: each tells its own open exchanges, as 41 bytes for each change, and holds those of the other open. All of them
//! end with the connection between the two, which is at most as long as the drain.

use std::collections::HashMap;

use signet_proxy::exchange::{Change, Exchange, Exchanges, TokenHash};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

const OPENED: u8 = 1;
const CLOSED: u8 = 2;
const ATTACHED: u8 = 3;
/// Of the other process at once; what is more is not presentable here.
const MOST: usize = 64 * 1024;

/// Shares until the other process ends.
pub async fn share(exchanges: Exchanges, stream: UnixStream) {
    let (mut from, mut to) = stream.into_split();
    let (told, mut changes) = mpsc::unbounded_channel();
    exchanges.tell_of_changes(told);
    let tell = async {
        while let Some(change) = changes.recv().await {
            if to.write_all(&encode(change)).await.is_err() {
                return;
            }
        }
    };
    let hear = async {
        let mut elsewhere: HashMap<TokenHash, Exchange> = HashMap::new();
        let mut frame = [0; 41];
        while from.read_exact(&mut frame).await.is_ok() {
            match decode(&frame) {
                Some(change @ (Change::Opened(token, until) | Change::Attached(token, until)))
                    if elsewhere.len() < MOST || elsewhere.contains_key(&token) =>
                {
                    let attached = matches!(change, Change::Attached(..));
                    elsewhere.insert(token, exchanges.open_elsewhere(token, until, attached));
                }
                Some(Change::Closed(token)) => {
                    elsewhere.remove(&token);
                }
                _ => {}
            }
        }
    };
    // The one that hears ends with the other process; what we tell then is nobody's.
    tokio::select! {
        () = tell => {}
        () = hear => {}
    }
}

fn encode(change: Change) -> [u8; 41] {
    let mut frame = [0; 41];
    let (kind, token, until) = match change {
        Change::Opened(token, until) => (OPENED, token, until),
        Change::Attached(token, until) => (ATTACHED, token, until),
        Change::Closed(token) => (CLOSED, token, 0),
    };
    frame[0] = kind;
    frame[1..33].copy_from_slice(&token);
    frame[33..].copy_from_slice(&until.to_be_bytes());
    frame
}

fn decode(frame: &[u8; 41]) -> Option<Change> {
    let token = frame[1..33].try_into().ok()?;
    let until = u64::from_be_bytes(frame[33..].try_into().ok()?);
    match frame[0] {
        OPENED => Some(Change::Opened(token, until)),
        ATTACHED => Some(Change::Attached(token, until)),
        CLOSED => Some(Change::Closed(token)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signet_proxy::exchange::hash;

    async fn until(mut is: impl FnMut() -> bool) {
        let waited = async {
            while !is() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), waited).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_open_in_one_process_is_presentable_in_the_other_for_as_long() {
        let (one, two) = (Exchanges::new(), Exchanges::new());
        let (a, b) = UnixStream::pair().unwrap();
        let before = one.open(hash(b"before"), 100);
        let first = tokio::spawn(share(one.clone(), a));
        let second = tokio::spawn(share(two.clone(), b));
        until(|| two.is_open(&hash(b"before"), 0)).await;
        let later = two.open(hash(b"later"), 100);
        until(|| one.is_open(&hash(b"later"), 0)).await;
        drop((before, later));
        until(|| !two.is_open(&hash(b"before"), 0) && !one.is_open(&hash(b"later"), 0)).await;
        // With the process ends everything that it had open.
        let _still = one.open(hash(b"still"), 100);
        until(|| two.is_open(&hash(b"still"), 0)).await;
        first.abort();
        second.await.unwrap();
        assert!(!two.is_open(&hash(b"still"), 0));
    }
}
