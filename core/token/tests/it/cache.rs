use std::sync::Arc;

use signet_token::TokenCache;

use crate::support::NOW;

#[test]
fn a_remembered_token_is_found_until_it_ends() {
    let cache = TokenCache::new(64);
    assert!(cache.get(1, "a.b.c", NOW).is_none());
    cache.insert(1, "a.b.c", Arc::new("alice"), NOW + 60);
    assert_eq!(cache.get(1, "a.b.c", NOW).as_deref(), Some(&"alice"));
    assert_eq!(cache.get(1, "a.b.c", NOW + 59).as_deref(), Some(&"alice"));
    assert!(cache.get(1, "a.b.d", NOW).is_none());
    assert!(cache.get(1, "a.b.c", NOW + 60).is_none());
    // It is gone: a clock that steps back does not revive it here.
    assert!(cache.get(1, "a.b.c", NOW).is_none());
}

#[test]
fn a_new_generation_of_keys_forgets_everything_and_an_old_one_learns_nothing() {
    let cache = TokenCache::new(64);
    for n in 0..20 {
        cache.insert(1, &format!("token {n}"), Arc::new(n), NOW + 60);
    }
    // One shard at a time, as it is used: no token of the old generation is ever seen by the new one.
    assert!((0..20).all(|n| cache.get(2, &format!("token {n}"), NOW).is_none()));
    // A request that began before the change, and verified under withdrawn keys, leaves nothing behind.
    cache.insert(1, "token 3", Arc::new(3), NOW + 60);
    assert!(cache.get(2, "token 3", NOW).is_none() && cache.get(1, "token 3", NOW).is_none());
    cache.insert(2, "token 3", Arc::new(33), NOW + 60);
    assert_eq!(cache.get(2, "token 3", NOW).as_deref(), Some(&33));
}

#[test]
fn it_never_holds_more_than_it_may() {
    let cache = TokenCache::new(64);
    for n in 0..10_000 {
        cache.insert(1, &format!("token {n}"), Arc::new(n), NOW + 60);
        // Half of them expire at once, so that names without entries are exercised too.
        if n % 2 == 0 {
            cache.get(1, &format!("token {n}"), NOW + 60);
        }
        assert!(cache.len() <= 64);
    }
    assert!(cache.len() > 32);
    assert_eq!(cache.get(1, "token 9999", NOW).as_deref(), Some(&9999));
}
