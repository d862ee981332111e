//! The budget of further tries: what two threads take at the same time is what one thread would have been given.

use loom::sync::Arc;
use loom::thread;
use signet_model::RetryBudget;
use signet_models::budget::Budget;

const SECOND: u64 = 1_000_000_000;

#[test]
fn two_threads_do_not_both_get_the_one_try_that_is_paid_for() {
    loom::model(|| {
        let budget = Arc::new(Budget::new(RetryBudget { percent: 100, min_per_second: 0 }));
        budget.pay_in();
        let other = budget.clone();
        let worker = thread::spawn(move || other.take(0));
        let here = budget.take(0);
        let there = worker.join().unwrap();
        assert!(here != there, "taken by both or by none: {here}, {there}");
    });
}

#[test]
fn two_threads_do_not_both_get_the_one_try_that_a_second_allows() {
    loom::model(|| {
        let budget = Arc::new(Budget::new(RetryBudget { percent: 0, min_per_second: 1 }));
        let other = budget.clone();
        let worker = thread::spawn(move || other.take(SECOND));
        let here = budget.take(SECOND);
        let there = worker.join().unwrap();
        assert!(here != there, "taken by both or by none: {here}, {there}");
    });
}

#[test]
fn what_two_threads_pay_in_is_there_for_both() {
    loom::model(|| {
        let budget = Arc::new(Budget::new(RetryBudget { percent: 50, min_per_second: 0 }));
        let other = budget.clone();
        let worker = thread::spawn(move || other.pay_in());
        budget.pay_in();
        worker.join().unwrap();
        assert!(budget.take(0), "two halves are one try");
        assert!(!budget.take(0));
    });
}
