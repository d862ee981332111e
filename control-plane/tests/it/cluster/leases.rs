//! Of several control planes one leads, and another one when that one ends, hangs or cannot be heard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use signet_control_plane::cluster::api::Api;
use signet_control_plane::cluster::lease::{Lease, identity};
use signet_tests::apiserver::ApiServer;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::{object, place, times};

struct Contender {
    leads: watch::Receiver<bool>,
    end: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Contender {
    fn start(api: &ApiServer, folder: &std::path::Path, name: &str) -> Contender {
        let lease = Lease {
            api: Arc::new(Api::new(&place(api, folder))),
            namespace: "signet-system".into(),
            identity: name.into(),
            times: times(1500),
        };
        let (sender, leads) = watch::channel(false);
        let (end, ends) = oneshot::channel();
        let task = tokio::spawn(lease.contend(sender, async move {
            let _ = ends.await;
        }));
        Contender { leads, end: Some(end), task }
    }

    async fn leads(&mut self, expected: bool) {
        let waited =
            tokio::time::timeout(Duration::from_secs(30), self.leads.wait_for(|it| *it == expected)).await;
        waited.unwrap_or_else(|_| panic!("waited for {expected}")).unwrap();
    }
}

fn lease(api: &ApiServer) -> serde_json::Value {
    let like = object("coordination.k8s.io/v1", "Lease", "signet-system/signet-control-plane", json!({}));
    api.object(&like).unwrap()["spec"].clone()
}

#[tokio::test]
async fn one_leads_and_gives_the_lease_back_when_it_ends() {
    let (api, folder) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let mut first = Contender::start(&api, folder.path(), "a");
    first.leads(true).await;
    let mut second = Contender::start(&api, folder.path(), "b");
    // Only who waits looks; it does so for longer than a lease lasts, and leaves it alone.
    let looked = || api.seen().iter().filter(|it| it.method == "GET" && it.path.contains("/leases/")).count();
    let (before, began) = (looked(), Instant::now());
    let waited = async {
        while looked() < before + 4 || began.elapsed() < Duration::from_millis(2000) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect("it looks again and again");
    assert!(!*second.leads.borrow() && *first.leads.borrow());
    first.end.take().unwrap().send(()).unwrap();
    (&mut first.task).await.unwrap();
    second.leads(true).await;
    let spec = lease(&api);
    assert_eq!((spec["holderIdentity"].as_str(), spec["leaseTransitions"].as_u64()), (Some("b"), Some(1)));
    let renewed = spec["renewTime"].as_str().unwrap();
    assert_eq!(renewed.len(), "2026-11-22T00:26:24.866852Z".len(), "{renewed}");
}

#[tokio::test]
async fn a_holder_that_hangs_is_followed_by_another_one() {
    let (api, folder) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let mut first = Contender::start(&api, folder.path(), "a");
    first.leads(true).await;
    first.task.abort();
    let began = Instant::now();
    let mut second = Contender::start(&api, folder.path(), "b");
    second.leads(true).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "it waited for the whole of the holder's time");
}

#[tokio::test]
async fn a_holder_that_cannot_renew_stops_before_anybody_else_may_begin() {
    let (api, folder) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let mut first = Contender::start(&api, folder.path(), "a");
    first.leads(true).await;
    api.is_away(true);
    let began = Instant::now();
    first.leads(false).await;
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    api.is_away(false);
    first.leads(true).await;
}

#[tokio::test]
async fn a_lease_that_somebody_took_away_is_made_again() {
    let (api, folder) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let mut first = Contender::start(&api, folder.path(), "a");
    first.leads(true).await;
    api.remove(&object("coordination.k8s.io/v1", "Lease", "signet-system/signet-control-plane", json!({})));
    signet_tests::process::until("the lease to be there again", || {
        let like = object("coordination.k8s.io/v1", "Lease", "signet-system/signet-control-plane", json!({}));
        api.object(&like)
    })
    .await;
    assert!(*first.leads.borrow());
}

#[test]
fn two_processes_of_one_name_are_two_contenders() {
    assert_ne!(identity(Some("a")), identity(Some("a")));
    assert!(identity(Some("a")).starts_with("a_") && identity(None).len() > 17);
}
