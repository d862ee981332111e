//! Open connections are governed: what ends what, at once, and what lives on untouched.
//!
//! The subject is web's connection to orders, with an exchange or stream under way through which bytes flow. Two
//! bystanders carry bytes before and after: somebody else's connection to orders, and web's to payments.

mod expiry;
mod scene;
mod tickets;
mod users;

use signet_identity::{KeyId, Serial};

use crate::support::WEB;
use crate::support::caller::Client;
use scene::{ADMIN, ALL, Carried, Scene, all_live, built, only_the_subject_ends, revoke};

#[tokio::test]
async fn what_a_revoked_caller_has_open_ends_at_the_callee_by_whatever_revokes_it() {
    for carried in ALL {
        for what in ["serial", "identity", "key", "lineage"] {
            let scene = Scene::of(carried).await;
            only_the_subject_ends(&scene, what, async |scene| {
                let view = scene.web.state.view();
                let svid = view.tls.generation.own().svid();
                revoke(&scene.orders, |set| match what {
                    "serial" => set.serials.insert(svid.serial),
                    "identity" => set.identities.insert(svid.id.clone()),
                    "key" => set.keys.insert(svid.key),
                    // A lineage comes as the serials of all its certificates; this is one of them.
                    _ => set.serials.insert(Serial::fresh().unwrap()) && set.serials.insert(svid.serial),
                });
            })
            .await;
        }
    }
}

#[tokio::test]
async fn what_is_open_to_a_revoked_server_ends_at_the_caller() {
    for carried in ALL {
        let scene = Scene::of(carried).await;
        only_the_subject_ends(&scene, "a revoked server", async |scene| {
            let orders = scene.ca.id("ns/shop/sa/orders");
            revoke(&scene.web, |set| set.identities.insert(orders.clone()));
        })
        .await;
    }
}

#[tokio::test]
async fn a_revocation_of_somebody_else_ends_nothing() {
    for carried in ALL {
        let scene = Scene::of(carried).await;
        all_live(&scene, "somebody else's revocation", async |scene| {
            for node in [&scene.web, &scene.admin, &scene.orders, &scene.payments] {
                revoke(node, |set| set.keys.insert(KeyId::of(b"somebody else")));
            }
        })
        .await;
    }
}

/// Everybody has two roots, and one goes: under it was the subject's caller, or its server.
#[tokio::test]
async fn what_stands_under_a_removed_root_ends_and_nothing_else() {
    for carried in ALL {
        for moved in ["web", "orders"] {
            let scene = Scene::of(carried).await;
            let both = scene.orders.state.view().tls.generation.bundles().clone();
            let mover = if moved == "web" { &scene.web } else { &scene.orders };
            let under_other = built(&scene.other, moved, both);
            mover.state.update_tls(|tls| tls.with_generation(under_other.clone()));
            // Where the caller goes by the other root, its connection to payments does as well, which keeps both.
            only_the_subject_ends(&scene, "a removed root", async |scene| {
                let (node, name) =
                    if moved == "web" { (&scene.orders, "orders") } else { (&scene.web, "web") };
                let alone = built(&scene.ca, name, scene.ca.bundles());
                node.state.update_tls(|tls| tls.with_generation(alone.clone()));
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_renewal_of_either_side_ends_nothing() {
    for carried in ALL {
        let scene = Scene::of(carried).await;
        all_live(&scene, "renewals", async |scene| {
            for (node, name) in [(&scene.web, "web"), (&scene.orders, "orders")] {
                let next = built(&scene.ca, name, node.state.view().tls.generation.bundles().clone());
                node.state.update_tls(|tls| tls.with_generation(next.clone()));
            }
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_open_ends_when_nothing_could_be_permitted_on_it_any_more() {
    for carried in ALL {
        let forbid = r#"{"effect":"forbid","from":{"workloads":["ns/shop/sa/web"]}}"#;
        for policies in [&[ADMIN][..], &[ADMIN, WEB, forbid]] {
            let scene = Scene::of(carried).await;
            only_the_subject_ends(&scene, "policy", async |scene| scene.orders.permits(policies)).await;
        }
    }
}

#[tokio::test]
async fn a_policy_on_requests_is_for_those_to_come() {
    let narrower = r#"{"effect":"permit","from":{"workloads":["ns/shop/sa/web"]},"to":{"paths":["/other"]}}"#;
    for carried in [Carried::Http1, Carried::Grpc, Carried::WebSocket] {
        let scene = Scene::of(carried).await;
        all_live(&scene, "a policy on requests", async |scene| scene.orders.permits(&[ADMIN, narrower]))
            .await;
    }
}

#[tokio::test]
async fn a_server_that_left_the_registry_gets_nothing_new_and_keeps_what_it_has() {
    for carried in ALL {
        let scene = Scene::of(carried).await;
        all_live(&scene, "a service removed", async |scene| {
            scene.web.state.update_endpoints(|endpoints| {
                endpoints.apply([], ["orders.shop"]).refuse("orders.shop", "no such Service")
            });
        })
        .await;
        let mut client = Client::to(scene.to_orders).await;
        if carried == Carried::Tcp {
            assert_ne!(client.ended().await, Some(false));
        } else if carried != Carried::Grpc {
            assert_eq!(client.get("/").await.status, 503);
        }
    }
}
