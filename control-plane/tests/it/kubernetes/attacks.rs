//! Whoever comes with a token that is not theirs, or not for this.

use serde_json::json;
use signet_ca::Refusal;
use signet_tests::apiserver::{ApiServer, Fault, PodOf};
use tonic::Code;

use super::{Cluster, come, last_reason, last_record, listed_plane, plane, reason};
use crate::harness::REGISTRY;

/// Pitfall 5: the audience is asked for, and must stand in the answer; there is no second question without it.
#[tokio::test]
async fn a_token_for_another_audience_gets_nothing_even_from_a_server_that_does_not_care() {
    for naive in [false, true] {
        let cluster = Cluster::start().await;
        let web = PodOf::new("web.shop");
        cluster.api.run(&web);
        if naive {
            cluster.api.is_naive();
        }
        for audience in ["vault", "https://kubernetes.default.svc", "signet-ca2"] {
            let before = cluster.api.reviews();
            let token = cluster.api.token(&web, audience);
            assert_eq!(reason(cluster.attest(&token).await), Refusal::EvidenceAudience, "{audience}");
            assert_eq!(cluster.api.reviews(), before + 1, "asked once");
        }
        for seen in cluster.api.seen() {
            let question: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
            assert_eq!(question["spec"]["audiences"], json!(["signet-ca"]));
        }
    }
}

/// Pitfall 10: what was verified is what is used.
#[tokio::test]
async fn an_answer_about_another_token_or_another_pod_than_the_token_names_is_not_used() {
    let cluster = Cluster::start().await;
    let (web, orders) = (PodOf::new("web.shop"), PodOf::new("orders.shop"));
    let (of_web, of_orders) = (cluster.api.token(&web, "signet-ca"), cluster.api.token(&orders, "signet-ca"));
    let answer = |token: &str, pod: &PodOf| {
        json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": token},
            "status": {"authenticated": true, "audiences": ["signet-ca"],
                "user": {"username": format!("system:serviceaccount:shop:{}", pod.account), "extra": {
                    "authentication.kubernetes.io/pod-name": [pod.name],
                    "authentication.kubernetes.io/pod-uid": [pod.uid],
                    "authentication.kubernetes.io/node-name": ["node1"]}}}})
        .to_string()
        .into_bytes()
    };
    cluster.api.then([Fault::Body(answer(&of_web, &web))]);
    assert!(cluster.attest(&of_web).await.is_ok());
    // A cache on the way that mixes up answers.
    cluster.api.then([Fault::Body(answer(&of_orders, &orders))]);
    let mixed = cluster.attest(&of_web).await;
    assert_eq!(mixed, Err(signet_control_plane::attest::kubernetes::Failure::Unavailable));
    // A server whose verdict does not fit the token that it is about.
    cluster.api.then([Fault::Body(answer(&of_web, &orders))]);
    assert_eq!(reason(cluster.attest(&of_web).await), Refusal::EvidenceMalformed);
    let renamed = web.clone().named("web-2");
    cluster.api.then([Fault::Body(answer(&of_web, &renamed))]);
    assert_eq!(reason(cluster.attest(&of_web).await), Refusal::EvidenceMalformed);
}

#[tokio::test]
async fn tokens_that_are_not_of_a_running_pod_get_nothing_and_all_sound_the_same() {
    let api = ApiServer::start().await;
    let mut plane = listed_plane(&api).await;
    let (web, gone) = (PodOf::new("web.shop"), PodOf::new("web.shop").named("web-0"));
    let system = PodOf::new("default.signet-system");
    api.run(&web);
    api.run(&system);
    let bound = |pod, node| {
        let account = json!({"name": "web", "uid": "u"});
        json!({"kubernetes.io": {"namespace": "shop", "serviceaccount": account, "pod": pod, "node": node}})
    };
    let node = json!({"name": "node1", "uid": "n"});
    let mut heard = Vec::new();
    for (what, token, expected) in [
        ("of another audience", api.token(&web, "vault"), "evidence-audience"),
        ("of a pod that was deleted", api.token(&gone, "signet-ca"), "evidence-pod"),
        ("bound to its node only", api.token_with(&web, &bound(json!(null), node)), "evidence-unbound"),
        ("not bound", api.token_with(&web, &bound(json!(null), json!(null))), "evidence-unbound"),
        ("of a node", api.token_with(&web, &json!({"sub": "system:node:node1"})), "evidence-user"),
        ("past its end", api.token_with(&web, &json!({"exp": 1_000_000})), "evidence-expired"),
        ("without an end", api.token_with(&web, &json!({"exp": null})), "evidence-malformed"),
        ("of the control plane's namespace", api.token(&system, "signet-ca"), "evidence-reserved"),
        ("of another cluster", ApiServer::start().await.token(&web, "signet-ca"), "evidence-refused"),
        ("garbage", "a.b.c".into(), "evidence-malformed"),
        ("nothing", String::new(), "evidence-malformed"),
        ("too long", "a".repeat(17_000), "evidence-too-large"),
        (
            "of nobody in the registry",
            {
                let nobody = PodOf::new("nobody.shop");
                api.run(&nobody);
                api.token(&nobody, "signet-ca")
            },
            "not-registered",
        ),
    ] {
        let status = come(&mut plane, token).await.expect_err(what);
        assert_eq!(last_reason(&mut plane).await, expected, "{what}");
        heard.push((status.code(), status.message().to_owned()));
    }
    heard.dedup();
    assert_eq!(heard, [(Code::Unauthenticated, "the evidence is not accepted".to_owned())]);
    // The reserved one is named in the log, for whoever reads it.
    come(&mut plane, api.token(&system, "signet-ca")).await.unwrap_err();
    assert_eq!(last_record(&mut plane).await.spiffe_id, "spiffe://demo.signet/ns/signet-system/sa/default");
}

#[tokio::test]
async fn a_token_is_worth_nothing_once_its_pod_is_gone() {
    let api = ApiServer::start().await;
    let mut plane = listed_plane(&api).await;
    let web = PodOf::new("web.shop");
    api.run(&web);
    let token = api.token(&web, "signet-ca");
    come(&mut plane, token.clone()).await.unwrap();
    api.delete(&web);
    come(&mut plane, token.clone()).await.unwrap_err();
    // A pod made again under the same name is another pod.
    api.run(&PodOf { uid: "another".into(), ..web });
    come(&mut plane, token).await.unwrap_err();
}

#[tokio::test]
async fn a_token_that_was_carried_off_is_refused_where_addresses_are_checked() {
    for (address, good) in [("127.0.0.1", true), ("10.0.0.9", false)] {
        let api = ApiServer::start().await;
        let mut plane = plane(&api, REGISTRY, ", checkAddress: true").await;
        let web = PodOf { address: address.into(), ..PodOf::new("web.shop") };
        api.run(&web);
        let came = come(&mut plane, api.token(&web, "signet-ca")).await;
        assert_eq!(came.is_ok(), good, "{address}");
        if !good {
            assert_eq!(last_reason(&mut plane).await, "evidence-address");
        }
    }
}

#[tokio::test]
async fn a_pod_that_is_not_as_its_token_says_is_refused_where_it_is_looked_at() {
    let cluster =
        Cluster::start_with(signet_tests::issuer::now(), |config| config.check_address = true).await;
    let web = PodOf::new("web.shop");
    let token = cluster.api.token(&web, "signet-ca");
    cluster.api.run(&web);
    assert!(cluster.attest(&token).await.is_ok());
    for changed in
        [PodOf { account: "orders".into(), ..web.clone() }, PodOf { node: "node2".into(), ..web.clone() }]
    {
        cluster.api.run(&changed);
        assert_eq!(reason(cluster.attest(&token).await), Refusal::EvidencePod);
    }
}

#[tokio::test]
async fn a_source_that_keeps_bringing_bad_tokens_costs_the_api_server_nothing_further() {
    let api = ApiServer::start().await;
    let mut plane = listed_plane(&api).await;
    let web = PodOf::new("web.shop");
    api.run(&web);
    // As many as the authority allows a source in a minute.
    let bundle = plane.token(crate::harness::WEB, "sidecar").await;
    let config = crate::harness::bootstrap_config(&bundle);
    let mut code = Code::Ok;
    let mut tries = 0;
    while code != Code::ResourceExhausted {
        let channel = match crate::harness::dial(plane.bootstrap, config.clone()).await {
            Ok(channel) => channel,
            // The door's own limit, which is for connections.
            Err(_) => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let mut client = signet_proto::v1::bootstrap_client::BootstrapClient::new(channel);
        for _ in 0..20 {
            let request = signet_proto::v1::AttestRequest {
                csr_der: vec![],
                evidence: Some(super::kubernetes(api.token(&web, "vault"))),
            };
            code = client.attest(request).await.unwrap_err().code();
            tries += 1;
        }
        assert!(tries < 200);
    }
    assert!(api.reviews() <= 61, "{}", api.reviews());
}
