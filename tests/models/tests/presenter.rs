//! The presenter rule's table: what another process is told of it is how it stands, whatever threads do at the same time.

use std::collections::HashSet;

use loom::thread;
use signet_models::exchange::{Change, Exchanges, TokenHash};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const TOKEN: TokenHash = [7; 32];

/// What somebody believes to be open who heard all this.
fn believed(mut told: UnboundedReceiver<Change>) -> HashSet<TokenHash> {
    let mut open = HashSet::new();
    while let Ok(change) = told.try_recv() {
        match change {
            Change::Opened(token, _) | Change::Attached(token, _) => open.insert(token),
            Change::Closed(token) => open.remove(&token),
        };
    }
    open
}

#[test]
fn a_token_that_one_thread_closes_and_another_opens_is_told_as_it_stands() {
    loom::model(|| {
        let table = Exchanges::new();
        let (to, told) = unbounded_channel();
        table.tell_of_changes(to);
        let first = table.open(TOKEN, 100);
        let closes = thread::spawn(move || drop(first));
        let second = table.open(TOKEN, 100);
        closes.join().unwrap();
        assert!(table.is_open(&TOKEN, 99));
        assert!(believed(told).contains(&TOKEN), "it is open, and was told to be closed");
        drop(second);
        assert!(!table.is_open(&TOKEN, 99));
    });
}

#[test]
fn whoever_begins_to_listen_hears_of_what_opens_and_closes_at_that_moment() {
    loom::model(|| {
        let table = Exchanges::new();
        let before = table.open([1; 32], 100);
        let (to, told) = unbounded_channel();
        let other = table.clone();
        let worker = thread::spawn(move || {
            drop(before);
            other.open(TOKEN, 100)
        });
        table.tell_of_changes(to);
        let kept = worker.join().unwrap();
        assert_eq!(believed(told), HashSet::from([TOKEN]));
        drop(kept);
    });
}
