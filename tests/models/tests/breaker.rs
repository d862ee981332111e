//! The standing of endpoints: failures that two threads see at the same time leave out as many as one thread would.

use loom::sync::Arc;
use loom::thread;
use signet_model::{OutlierPolicy, Period};
use signet_models::Endpoints;

fn policy(max_ejected_percent: u8) -> OutlierPolicy {
    OutlierPolicy {
        consecutive_failures: 1,
        base_ejection: Period::from_secs(10),
        max_ejection: Period::from_secs(60),
        max_ejected_percent,
    }
}

const NOW: u64 = 1;

#[test]
fn two_failures_at_a_time_are_one_ejection() {
    loom::model(|| {
        let endpoints = Arc::new(Endpoints::new(2));
        let other = endpoints.clone();
        let worker = thread::spawn(move || other.fails(0, &policy(50), NOW));
        let here = endpoints.fails(0, &policy(50), NOW);
        let there = worker.join().unwrap();
        assert!(here != there, "left out by both or by none: {here}, {there}");
        assert!(endpoints.is_out(0, NOW + 10_000_000_000 - 1));
        assert!(!endpoints.is_out(0, NOW + 10_000_000_000), "as long as the first time");
    });
}

#[test]
fn two_endpoints_that_fail_at_a_time_are_not_both_left_out_where_one_may_be() {
    loom::model(|| {
        let endpoints = Arc::new(Endpoints::new(2));
        let other = endpoints.clone();
        let worker = thread::spawn(move || other.fails(1, &policy(50), NOW));
        let here = endpoints.fails(0, &policy(50), NOW);
        let there = worker.join().unwrap();
        assert!(endpoints.out(NOW) <= 1, "{here}, {there}");
        assert_eq!(endpoints.out(NOW), usize::from(here) + usize::from(there));
    });
}
