//! Whether calls keep their user in apps that know nothing of the mesh: real programs with stock tracing between a real
//! gateway and a real service, and what goes wrong in them.
//!
//! Each app calls a service for each request and passes its answer on, so that who asked learns for whom the call was made.
//! `SIGNET_PROPAGATION_REQUESTS` says how many direct calls each stack makes.

#![allow(unreachable_pub)]

mod back;
mod drive;
mod scene;

use std::time::Duration;

use drive::{Tally, Users};
use scene::{Scene, Stack};

/// In CI. Whoever wants the full number sets it.
const REQUESTS: usize = 1_000;

fn requests() -> usize {
    let said = std::env::var("SIGNET_PROPAGATION_REQUESTS").ok();
    said.map_or(REQUESTS, |said| said.parse().expect("SIGNET_PROPAGATION_REQUESTS is a number"))
}

/// Direct calls of many users over shared pools, some of them given up by their callers: each has its own user or none.
async fn direct_calls_are_never_crossed(stack: Stack) {
    let Some(mut scene) = Scene::start(stack, "").await else { return };
    let requests = requests();
    let users = Users::new(&scene.issuer, 1_000.min(requests));
    let tally = scene.drive(&users, requests, 32, |user| format!("/direct?user={user}&delay=20"), true).await;
    eprintln!("{stack:?}, {requests} direct calls: {tally}");
    assert_eq!(tally.crossed(), 0, "{stack:?}: {tally}");
    assert_eq!(tally.failed, 0, "{stack:?}: {tally}");
    // Whoever gave up has ended his request: what the app still did for him had no user, and nobody else's.
    assert_eq!(tally.own + tally.nobody + tally.given_up, requests, "{tally}");
    assert_eq!(tally.nobody, 0, "{stack:?}: {tally}");
    let seen = scene.back.seen("direct");
    assert_eq!(seen.crossed, 0, "{seen:?}");
    assert!(seen.own >= tally.own, "{seen:?}");
    assert_eq!(scene.back_inbound("forwarded").await, 0, "nobody forwards here");
    assert_eq!(scene.back_inbound("attached").await, seen.own as u64);

    // No user comes out where none went in.
    let strangers = scene.drive(&users, 50, 8, |user| format!("/anon/direct?user={user}"), false).await;
    assert_eq!((strangers.nobody, strangers.failed), (50, 0), "{strangers}");
    assert_eq!(scene.front_outbound("unknown").await + scene.front_outbound("ambiguous").await, 0);
    assert_eq!(scene.verdict(), "carried");
    let coverage = scene.coverage();
    assert!(coverage["byBoth"].as_u64().unwrap() + coverage["byBaggage"].as_u64().unwrap() > 0, "{coverage}");
    scene.mesh.assert_unharmed();
}

#[tokio::test]
async fn flask_with_stock_opentelemetry_keeps_every_user_on_direct_calls() {
    direct_calls_are_never_crossed(Stack::Flask).await;
}

#[tokio::test]
async fn fastapi_with_stock_opentelemetry_keeps_every_user_on_direct_calls() {
    direct_calls_are_never_crossed(Stack::FastApi).await;
}

#[tokio::test]
async fn node_with_stock_opentelemetry_keeps_every_user_on_direct_calls() {
    direct_calls_are_never_crossed(Stack::Node).await;
}

#[tokio::test]
async fn rust_with_the_usual_tracing_keeps_every_user_on_direct_calls() {
    direct_calls_are_never_crossed(Stack::Rust).await;
}

#[tokio::test]
async fn without_tracing_nobody_is_guessed_and_the_operator_can_see_it() {
    for stack in [Stack::UntracedNode, Stack::UntracedRust] {
        let Some(mut scene) = Scene::start(stack, "").await else { return };
        let users = Users::new(&scene.issuer, 20);
        let tally = scene.drive(&users, 60, 4, |user| format!("/direct?user={user}"), true).await;
        assert_eq!(
            (tally.nobody, tally.failed, tally.own, tally.crossed()),
            (60, 0, 0, 0),
            "{stack:?}: {tally}"
        );
        assert_eq!(scene.verdict(), "not-carried");
        assert_eq!(scene.front_outbound("none").await, 60);
        let log = scene.mesh.sidecars["front"].log();
        assert!(log.contains("the app does not carry handles"), "the log says so once");
        scene.mesh.assert_unharmed();
    }
}

#[tokio::test]
async fn work_after_the_answer_has_no_user_unless_a_grace_says_so() {
    for stack in [Stack::Flask, Stack::FastApi, Stack::Node, Stack::Rust] {
        for (grace, config) in [(false, ""), (true, ", graceSeconds: 20")] {
            let Some(mut scene) = Scene::start(stack, config).await else { return };
            let users = Users::new(&scene.issuer, 20);
            let asked = scene.ask_all(&users, |user| format!("/later?user={user}&after=0.2")).await;
            assert_eq!(asked, 20, "every request is answered before its work");
            let seen = scene.back.wait_for("later", 20).await;
            let expected = if grace { (20, 0, 0) } else { (0, 0, 20) };
            assert_eq!((seen.own, seen.crossed, seen.nobody), expected, "{stack:?}, grace {grace}");
            assert_eq!(scene.front_outbound("ended").await, if grace { 0 } else { 20 });
            scene.mesh.assert_unharmed();
        }
    }
}

/// What fifty users at once get from one way of running jobs.
async fn through(scene: &Scene, users: &Users<'_>, path: &str) -> (Tally, u64) {
    let ended = scene.front_outbound("ended").await;
    let path = path.to_owned();
    let tally =
        scene.drive(users, users.len(), users.len(), |user| format!("{path}user={user}"), false).await;
    (tally, scene.front_outbound("ended").await - ended)
}

#[tokio::test]
async fn what_mixes_requests_up_gets_no_ended_user_and_none_that_counts_as_forwarded() {
    let Some(mut scene) = Scene::start(Stack::Node, "").await else { return };
    scene.back.takes(Duration::from_millis(15));
    let users = Users::new(&scene.issuer, 50);
    println!(
        "| 50 at once through | own | crossed, owner live | crossed, owner ended | refused: owner ended |"
    );
    let mut mixed_up = 0;
    for name in [
        "p-limit 3.1.0",
        "p-queue 6.6.2",
        "bottleneck 2.19.5",
        "async 3.2.6",
        "fastq 1.20.3",
        "p-limit 7.3.3",
        "p-queue 10.0.0",
    ] {
        let path = format!("/limiter?name={}&", name.replace(' ', "%20"));
        let (tally, ended) = through(&scene, &users, &path).await;
        println!(
            "| {name} | {} | {} | {} | {} |",
            tally.own, tally.other_live, tally.other_ended, tally.nobody
        );
        assert_eq!(tally.other_ended, 0, "{name}: {tally}");
        assert_eq!(
            (tally.failed, tally.nobody as u64),
            (0, ended),
            "{name}: what is refused is named: {tally}"
        );
        match name {
            "p-limit 7.3.3" | "p-queue 10.0.0" => assert_eq!(tally.own, 50, "{name}: {tally}"),
            _ => mixed_up += 50 - tally.own,
        }
    }
    assert!(mixed_up > 150, "the helpers that mix requests up were there: {mixed_up}");
    for (name, path) in [("dataloader 2.2.3, 20 ms", "/batch?"), ("single flight", "/flight?")] {
        let (tally, _) = through(&scene, &users, path).await;
        println!(
            "| {name} | {} | {} | {} | {} |",
            tally.own, tally.other_live, tally.other_ended, tally.nobody
        );
        assert_eq!((tally.failed, tally.other_ended), (0, 0), "{name}: {tally}");
    }
    let (tally, ended) = through(&scene, &users, "/worker?").await;
    println!(
        "| worker of the first request | {} | {} | {} | {} |",
        tally.own, tally.other_live, tally.other_ended, tally.nobody
    );
    assert_eq!((tally.failed, tally.other_ended), (0, 0), "{tally}");
    assert!(ended > 0, "the first request is long over: {tally}");
    assert_eq!(scene.back_inbound("forwarded").await, 0, "whatever was mixed up is called attached");
    scene.mesh.assert_unharmed();
}
