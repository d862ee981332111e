//! What a decision costs: no allocation, ever; and a timing to look at, not to pass.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

use common::{grpc, http, peer, set, tcp, user};
use serde_json::{Value, json};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A hundred policies for one service, as a large team might have: some by workload, some by namespace,
/// some for anyone, all with a route and most with a user.
fn hundred() -> Vec<Value> {
    (0..100)
        .map(|i| {
            let from = match i % 5 {
                0 => json!({"workloads": ["ns/shop/sa/web"]}),
                1 => json!({"workloads": ["ns/shop/sa/*"]}),
                _ => json!({"workloads": [format!("ns/team-{i}/sa/app")]}),
            };
            let effect = if i % 10 == 9 { "forbid" } else { "permit" };
            let mut spec = json!({
                "effect": effect, "from": from,
                "to": {"methods": ["GET", "POST"], "paths": [format!("/v1/things-{i}/{{id}}"), format!("/v2/things-{i}/{{id}}/parts/{{part}}")]},
                "user": {"scopes": ["orders:read"], "claims": {"groups": {"anyOf": ["staff"]}}},
            });
            if effect == "forbid" {
                spec["ifAbsent"] = json!("skip");
            }
            spec
        })
        .collect()
}

#[test]
fn deciding_allocates_nothing() {
    let web = peer("ns/shop/sa/web");
    let user = user();
    let mut specs = hundred();
    specs.push(json!({"effect": "forbid", "to": {"paths": ["/forbidden"]}}));
    specs.push(json!({"effect": "permit", "mode": "shadow"}));
    specs.push(json!({"effect": "permit", "to": {"grpc": ["shop.v1.Orders/*"]}}));
    specs.push(json!({"effect": "permit", "to": {"paths": ["/when/{id}"]},
        "when": "context.request.params.id like \"7*\" && context.user.claims.groups.containsAny([\"a\", \"staff\"])"}));
    let until = "2030-01-01T00:00:00Z";
    specs.push(json!({"effect": "forbid", "to": {"paths": ["/when/{id}"]}, "exceptions": [{"owner": "team", "reason": "why",
        "until": until, "from": {"workloads": ["ns/shop/sa/web"]}, "when": "context has user"}]}));
    let set = set(&specs);
    let requests = [
        (http(&web, Some(&user), "GET", "/v1/things-95/7"), true),
        (http(&web, Some(&user), "GET", "/forbidden"), false),
        (http(&web, None, "GET", "/v1/things-95/7"), false),
        (grpc(&web, Some(&user), "/shop.v1.Orders/List"), true),
        (http(&web, Some(&user), "GET", "/when/7;v=1"), true),
        (http(&web, Some(&user), "GET", "/when/8"), false),
        (http(&web, None, "GET", "/when/7"), false),
        (tcp(&web), false),
    ];
    for (facts, expected) in &requests {
        let before = ALLOCATIONS.get();
        let verdict = black_box(set.decide(black_box(facts)));
        let after = ALLOCATIONS.get();
        assert_eq!(verdict.allowed, *expected);
        assert_eq!(after - before, 0, "{facts:?}");
    }
}

/// `cargo test -p signet-policy --profile ci --test cost -- --ignored --nocapture`
#[test]
#[ignore = "prints a timing; run it by hand, optimised"]
fn how_long_a_decision_takes() {
    let web = peer("ns/shop/sa/web");
    let user = user();
    let anyone: Vec<Value> = hundred()
        .into_iter()
        .map(|mut spec| {
            spec.as_object_mut().unwrap().remove("from");
            spec
        })
        .collect();
    let one = [
        json!({"effect": "permit", "from": {"workloads": ["ns/shop/sa/web"]}, "to": {"methods": ["GET"], "paths": ["/v1/orders/{id}"]}}),
    ];
    for (name, specs, path) in [
        ("one policy", &one[..], "/v1/orders/7"),
        ("hundred policies, by workload", &hundred()[..], "/v1/things-95/7"),
        ("hundred policies, by workload, denied", &hundred()[..], "/v1/other/7"),
        ("hundred policies, for anyone", &anyone[..], "/v1/things-98/7"),
        ("hundred policies, for anyone, denied", &anyone[..], "/v1/other/7"),
    ] {
        let set = set(specs);
        let facts = http(&web, Some(&user), "GET", path);
        const ROUNDS: u32 = 200_000;
        let mut best = f64::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                black_box(set.decide(black_box(&facts)));
            }
            best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
        }
        println!("{name}: {best:.0} ns");
    }
}
