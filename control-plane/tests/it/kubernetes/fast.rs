//! The fast mode: judged here, asked where nothing is known.

use serde_json::json;
use signet_ca::Refusal;
use signet_control_plane::attest::config::Mode;
use signet_control_plane::attest::kubernetes::Failure;
use signet_tests::apiserver::{ApiServer, PodOf};
use tokio::task::JoinSet;

use super::{Cluster, reason};
use crate::harness::soon;

struct Fast {
    cluster: Cluster,
    _tasks: JoinSet<()>,
}

impl Fast {
    async fn start(pods: &[&PodOf]) -> Fast {
        let now = signet_tests::issuer::now();
        let cluster = Cluster::start_with(now, |config| config.mode = Mode::Fast).await;
        pods.iter().for_each(|pod| cluster.api.run(pod));
        let mut tasks = JoinSet::new();
        cluster.kubernetes.follow(&mut tasks);
        let fast = Fast { cluster, _tasks: tasks };
        if let Some(pod) = pods.first() {
            fast.until_known(pod).await;
        }
        fast
    }

    /// Until the pod is judged without a question.
    async fn until_known(&self, pod: &PodOf) {
        let api = &self.cluster.api;
        soon(async {
            loop {
                let before = api.reviews();
                let attested = self.cluster.attest(&api.token(pod, "signet-ca")).await;
                if attested.is_ok() && api.reviews() == before {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// What is said of this token, once it is no longer that it is good.
    async fn until_refused(&self, pod: &PodOf) -> Refusal {
        let api = &self.cluster.api;
        soon(async {
            loop {
                match self.cluster.attest(&api.token(pod, "signet-ca")).await {
                    Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                    other => return reason(other),
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn a_known_pod_is_judged_without_a_question_and_an_unknown_one_is_asked_about() {
    let (web, orders) = (PodOf::new("web.shop"), PodOf::new("orders.shop"));
    let fast = Fast::start(&[&web]).await;
    let api = &fast.cluster.api;
    let asked = api.reviews();
    for _ in 0..5 {
        let proven = fast.cluster.attest(&api.token(&web, "signet-ca")).await.unwrap();
        assert_eq!(proven.instance.pod_uid, web.uid);
    }
    assert_eq!(api.reviews(), asked);
    // Not running: the server is asked, and says so.
    assert_eq!(reason(fast.cluster.attest(&api.token(&orders, "signet-ca")).await), Refusal::EvidencePod);
    assert_eq!(api.reviews(), asked + 1);
    api.run(&orders);
    fast.until_known(&orders).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_seen_without_a_question() {
    let web = PodOf::new("web.shop");
    let fast = Fast::start(&[&web]).await;
    let (api, asked) = (&fast.cluster.api, fast.cluster.api.reviews());
    let good = api.token(&web, "signet-ca");
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{signed}.{first}{}", &signature[1..]);
    let bound = |pod: serde_json::Value| {
        json!({"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web"}, "pod": pod,
            "node": {"name": "node1"}}})
    };
    for (token, expected) in [
        (forged, Refusal::EvidenceRefused),
        (api.token(&web, "vault"), Refusal::EvidenceAudience),
        (api.token_with(&web, &json!({"exp": 1_000_000})), Refusal::EvidenceExpired),
        (api.token_with(&web, &json!({"nbf": 9_999_999_999i64})), Refusal::EvidenceRefused),
        (api.token_with(&web, &json!({"sub": "system:node:node1"})), Refusal::EvidenceUser),
        (
            api.token_with(&web, &json!({"sub": "system:serviceaccount:shop:orders"})),
            Refusal::EvidenceMalformed,
        ),
        (api.token_with(&web, &bound(json!(null))), Refusal::EvidenceUnbound),
        (api.token_with(&web, &bound(json!({"name": "web-9", "uid": web.uid}))), Refusal::EvidencePod),
    ] {
        assert_eq!(reason(fast.cluster.attest(&token).await), expected);
    }
    assert_eq!(api.reviews(), asked);
    // Another cluster's issuer, or key, is the server's to judge.
    let foreign = ApiServer::start().await.token(&web, "signet-ca");
    assert_eq!(reason(fast.cluster.attest(&foreign).await), Refusal::EvidenceRefused);
    let issuer = api.token_with(&web, &json!({"iss": "https://other.example.com"}));
    assert!(fast.cluster.attest(&issuer).await.is_ok(), "asked, and this server signed it");
    assert_eq!(api.reviews(), asked + 1, "a key of the same name that does not verify is a bad signature");
}

#[tokio::test]
async fn a_pod_that_ends_or_is_deleted_is_out_as_soon_as_the_watch_says_so() {
    let (web, orders) = (PodOf::new("web.shop"), PodOf::new("orders.shop"));
    let fast = Fast::start(&[&web, &orders]).await;
    fast.cluster.api.terminate(&web);
    assert_eq!(fast.until_refused(&web).await, Refusal::EvidencePod);
    fast.cluster.api.delete(&orders);
    assert_eq!(fast.until_refused(&orders).await, Refusal::EvidencePod);
}

#[tokio::test]
async fn a_watch_that_is_too_old_is_begun_anew_with_a_list() {
    let (web, orders) = (PodOf::new("web.shop"), PodOf::new("orders.shop"));
    let fast = Fast::start(&[&web]).await;
    let lists = |api: &ApiServer| {
        api.seen().iter().filter(|seen| seen.path.contains("limit=") && !seen.path.contains("watch=")).count()
    };
    assert_eq!(lists(&fast.cluster.api), 1);
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired",
        "message": "too old resource version: 1 (10)"}});
    fast.cluster.api.say(&gone);
    fast.cluster.api.run(&orders);
    fast.until_known(&orders).await;
    assert!(lists(&fast.cluster.api) >= 2);
    // One that the server ends in order goes on from where it was.
    fast.cluster.api.say(&json!({"type": "END"}));
    let third = PodOf::new("web.shop").named("web-3");
    fast.cluster.api.run(&third);
    fast.until_known(&third).await;
}

#[tokio::test]
async fn before_anything_is_known_the_server_is_asked_and_when_it_is_away_nobody_can_say() {
    let cluster = Cluster::start_with(signet_tests::issuer::now(), |config| config.mode = Mode::Fast).await;
    let web = PodOf::new("web.shop");
    cluster.api.run(&web);
    assert!(cluster.attest(&cluster.api.token(&web, "signet-ca")).await.is_ok());
    assert_eq!(cluster.api.reviews(), 1);
    cluster.api.is_away(true);
    let token = cluster.api.token(&web, "signet-ca");
    assert_eq!(cluster.attest(&token).await, Err(Failure::Unavailable));
}
