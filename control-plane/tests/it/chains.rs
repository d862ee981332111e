//! Chains of calls as sidecars tell of them: streams of test members with real certificates, judged by a real control plane.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use signet_proto::v1::{self, from_sidecar::Message as Say};
use tonic::Code;

use crate::harness::{GATEWAY, Member, ORDERS, Plane, Stream, WEB, hello, soon};

const TXN: &str = "0c6b6a54-3b0e-4f1e-9a43-6a1f6a3e2a51";
const THIEF: &str = "spiffe://demo.signet/ns/edge/sa/unlisted";
const FOUND: &str = "signet_control_plane_impossible_chains_total ";

/// Some minutes ago: what is told of a time to come is not believed.
fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap() - 150_000
}

fn hop(peer: &str, service: &str) -> v1::Hop {
    v1::Hop {
        txn: TXN.into(),
        peer: peer.into(),
        service: service.into(),
        minted_by: GATEWAY.into(),
        first_ms: now_ms(),
        count: 1,
        began: now_ms() / 1000,
        ..Default::default()
    }
}

/// A sidecar's process that tells of transactions, as one in whatever hands does.
struct Teller {
    stream: Stream,
    reporter: u64,
    told_ms: i64,
    _member: Member,
}

impl Teller {
    async fn join(plane: &mut Plane, id: &str, class: &str, reporter: u64) -> Self {
        let member = plane.join(id, class).await;
        let mut stream = member.stream(hello(&[], &[])).await;
        stream.delta().await;
        Self { stream, reporter, told_ms: 0, _member: member }
    }

    /// Everything until well after now, so that nothing is waited for.
    async fn tell(&mut self, hops: Vec<v1::Hop>) {
        let through_ms = now_ms() + 11_000;
        self.tell_until(hops, through_ms).await;
    }

    async fn tell_until(&mut self, hops: Vec<v1::Hop>, through_ms: i64) {
        let from_ms = std::mem::replace(&mut self.told_ms, through_ms);
        let hops = v1::Hops { reporter: self.reporter, from_ms, through_ms, cut: u64::MAX, hops };
        self.stream.say(Say::Decisions(v1::Decisions { hops: Some(hops), ..Default::default() })).await;
    }
}

async fn chain(plane: &Plane, is_it: impl Fn(&Value) -> bool) -> Value {
    soon(async {
        loop {
            let asked = v1::ExplainChainRequest { txn: TXN.into() };
            match plane.operator.clone().explain_chain(asked).await {
                Ok(answer) => {
                    let chain = serde_json::from_str(&answer.into_inner().json).unwrap();
                    if is_it(&chain) {
                        return chain;
                    }
                }
                Err(status) => assert_eq!(status.code(), Code::NotFound),
            }
        }
    })
    .await
}

async fn counted(plane: &Plane, line: &str) {
    soon(async { while plane.metric(line).await.unwrap_or(0.0) < 1.0 {} }).await;
}

fn verdicts(chain: &Value) -> Vec<&str> {
    chain["hops"].as_array().unwrap().iter().map(|hop| hop["verdict"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_sidecar_that_hides_what_it_received_is_flagged_and_an_honest_chain_is_not() {
    let mut plane = Plane::start().await;
    let mut gateway = Teller::join(&mut plane, GATEWAY, "gateway", 1).await;
    let mut web = Teller::join(&mut plane, WEB, "sidecar", 2).await;
    let mut orders = Teller::join(&mut plane, ORDERS, "sidecar", 3).await;
    // The callee is quicker to tell than the caller: nothing is said before the caller had its time.
    orders.tell(vec![hop(WEB, "orders.shop")]).await;
    let early = chain(&plane, |_| true).await;
    assert_eq!(early["verdict"], "undecidable", "{early}");
    web.tell(vec![hop(GATEWAY, "web.shop")]).await;
    let honest = chain(&plane, |chain| chain["verdict"] == "possible").await;
    assert_eq!(verdicts(&honest), ["minted", "received"], "{honest}");
    assert_eq!(honest["hops"][1]["depth"], 2);
    assert!(
        plane
            .operator
            .list_chains(v1::ListChainsRequest::default())
            .await
            .unwrap()
            .get_ref()
            .calls
            .is_empty()
    );

    // It tells, and leaves out what it stole.
    let mut thief = Teller::join(&mut plane, THIEF, "gateway", 4).await;
    thief.tell(vec![]).await;
    let stolen = hop(THIEF, "orders.shop");
    orders.tell(vec![stolen.clone()]).await;
    gateway.tell(vec![]).await;
    counted(&plane, FOUND).await;
    let found = chain(&plane, |chain| chain["verdict"] == "impossible").await;
    assert_eq!(verdicts(&found), ["minted", "received", "impossible"], "{found}");
    let listed =
        plane.operator.list_chains(v1::ListChainsRequest::default()).await.unwrap().into_inner().calls;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (
            listed[0].txn.as_str(),
            listed[0].caller.as_str(),
            listed[0].callee.as_str(),
            listed[0].service.as_str()
        ),
        (TXN, THIEF, ORDERS, "orders.shop")
    );
    // Once, however often it is said.
    orders.tell(vec![stolen]).await;
    chain(&plane, |chain| chain["hops"][2]["count"] == 2).await;
    assert_eq!(plane.metric(FOUND).await, Some(1.0));
}

#[tokio::test]
async fn nothing_is_flagged_while_something_may_be_missing() {
    let mut plane = Plane::start().await;
    let mut orders = Teller::join(&mut plane, ORDERS, "sidecar", 1).await;
    let why =
        |chain: &Value, label: &str| chain["verdict"] == "undecidable" && chain["hops"][0]["why"] == label;
    // Nobody of that identity ever told anything.
    orders.tell(vec![hop(WEB, "orders.shop")]).await;
    chain(&plane, |chain| why(chain, "not_heard")).await;
    // One tells, and not of that time yet.
    let mut web = Teller::join(&mut plane, WEB, "sidecar", 2).await;
    web.tell_until(vec![], 1).await;
    chain(&plane, |chain| why(chain, "not_told")).await;
    // It told of that time, and what it told before was lost on the way.
    web.told_ms = now_ms() + 60_000;
    web.tell_until(vec![], now_ms() + 120_000).await;
    chain(&plane, |chain| why(chain, "lost")).await;
    // Another one of the same identity is whole, and there are two.
    let mut other = Teller::join(&mut plane, WEB, "sidecar", 3).await;
    other.tell(vec![]).await;
    chain(&plane, |chain| why(chain, "lost")).await;
    assert_eq!(plane.metric(FOUND).await, Some(0.0));
}

#[tokio::test]
async fn while_a_sidecar_of_the_callers_identity_is_cut_off_nothing_is_flagged_and_when_it_is_back_it_is() {
    let mut plane = Plane::start().await;
    let mut orders = Teller::join(&mut plane, ORDERS, "sidecar", 1).await;
    let mut whole = Teller::join(&mut plane, WEB, "sidecar", 2).await;
    let mut cut_off = Teller::join(&mut plane, WEB, "sidecar", 3).await;
    whole.tell(vec![]).await;
    // What it said before is here once this is: also what it goes by, so that the store knows that it is at work.
    let heard = v1::Hop { txn: "heard".into(), ..hop(GATEWAY, "web.shop") };
    cut_off.tell(vec![heard]).await;
    soon(async {
        let asked = || v1::ExplainChainRequest { txn: "heard".into() };
        while plane.operator.clone().explain_chain(asked()).await.is_err() {}
    })
    .await;
    let Teller { stream, _member: member, told_ms, .. } = cut_off;
    drop(stream);
    soon(async { while plane.metric("signet_control_plane_streams ").await != Some(2.0) {} }).await;
    orders.tell(vec![hop(WEB, "orders.shop")]).await;
    chain(&plane, |chain| chain["hops"][0]["why"] == "not_connected").await;
    assert_eq!(plane.metric(FOUND).await, Some(0.0));

    let mut stream = member.stream(hello(&[], &[])).await;
    stream.delta().await;
    let mut back = Teller { stream, reporter: 3, told_ms, _member: member };
    back.tell(vec![]).await;
    counted(&plane, FOUND).await;
}

#[tokio::test]
async fn who_tells_for_somebody_else_tells_for_itself() {
    let mut plane = Plane::start().await;
    let mut web = Teller::join(&mut plane, WEB, "sidecar", 1).await;
    let mut orders = Teller::join(&mut plane, ORDERS, "sidecar", 2).await;
    // The thief vouches for its accomplice: nobody but web's own sidecar says what web received.
    let mut thief = Teller::join(&mut plane, THIEF, "gateway", 3).await;
    thief.tell(vec![hop(GATEWAY, "web.shop")]).await;
    web.tell(vec![]).await;
    orders.tell(vec![hop(WEB, "orders.shop")]).await;
    counted(&plane, FOUND).await;
    let found = chain(&plane, |chain| chain["verdict"] == "impossible").await;
    assert_eq!(found["hops"][0]["callee"], THIEF, "{found}");
    assert_eq!(found["hops"][1]["verdict"], "impossible", "{found}");
}
