use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::{Instant, advance};

use super::mint::Mint;
use super::table::{Open, Table};
use crate::stage::Verified;

/// As many as the table holds, and so many that every shard has had more than it holds.
const MANY: usize = 50_000;
const BOUND: usize = 32 * 1024;

fn enter(table: &Arc<Table>, mint: &Mint) -> (signet_wire::carrier::Handle, Option<Open>, bool) {
    let handle = mint.handle().unwrap();
    let user = Verified::named("idp|alice", "t", u64::MAX);
    let taken = table.enter(handle, user, HeaderValue::from_static("token"), Instant::now());
    (handle, taken.open, taken.evicted)
}

#[tokio::test(start_paused = true)]
async fn a_handle_is_good_until_its_request_ends_and_its_grace_after_it() {
    let mint = Mint::new();
    for grace in [Duration::ZERO, Duration::from_secs(5)] {
        let table = Arc::new(Table::new(grace));
        let (handle, open, _) = enter(&table, &mint);
        advance(Duration::from_secs(60)).await;
        assert!(table.get(&handle, Instant::now()).is_some(), "open for as long as it takes");
        assert_eq!(table.open(), 1);
        drop(open);
        assert_eq!(table.open(), 0);
        assert_eq!(table.get(&handle, Instant::now()).is_some(), !grace.is_zero());
        advance(grace.saturating_sub(Duration::from_millis(1))).await;
        assert_eq!(table.get(&handle, Instant::now()).is_some(), !grace.is_zero());
        advance(Duration::from_millis(1)).await;
        assert!(table.get(&handle, Instant::now()).is_none());
        assert!(mint.made(&handle), "known to have been ours, for ever");
    }
}

#[tokio::test(start_paused = true)]
async fn the_table_is_bounded_and_what_is_open_keeps_its_place() {
    let mint = Mint::new();
    let table = Arc::new(Table::new(Duration::from_secs(5)));
    let mut kept = Vec::new();
    let mut refused = 0;
    for _ in 0..MANY {
        let (handle, open, evicted) = enter(&table, &mint);
        assert!(!evicted, "nobody is in a grace");
        match open {
            Some(open) => kept.push((handle, open)),
            None => refused += 1,
        }
    }
    assert_eq!((kept.len(), refused), (BOUND, MANY - BOUND));
    assert!(kept.iter().all(|(handle, _)| table.get(handle, Instant::now()).is_some()));
    // Those in their grace make room for newer ones, the oldest first.
    let leaving: Vec<_> = kept.drain(..1000).map(|(handle, _)| handle).collect();
    let (mut came, mut evictions) = (Vec::new(), 0);
    for _ in 0..MANY {
        let (_, open, evicted) = enter(&table, &mint);
        came.extend(open);
        evictions += usize::from(evicted);
    }
    assert_eq!((came.len(), evictions), (1000, 1000));
    assert!(leaving.iter().all(|handle| table.get(handle, Instant::now()).is_none()));
    assert!(kept.iter().all(|(handle, _)| table.get(handle, Instant::now()).is_some()));
    drop((came, kept));
    assert_eq!(table.open(), 0);
}

#[test]
fn neither_the_table_nor_a_handle_is_shown() {
    let (mint, table) = (Mint::new(), Arc::new(Table::new(Duration::ZERO)));
    let (handle, open, _) = enter(&table, &mint);
    let text = std::str::from_utf8(handle.as_bytes()).unwrap();
    for shown in [format!("{table:?}"), format!("{open:?}"), format!("{handle:?}")] {
        assert!(!shown.contains(text) && !shown.contains("token"), "{shown}");
    }
}
