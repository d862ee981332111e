//! What the app of a sidecar has, and when it loses it.

mod support;

use std::sync::Arc;
use std::time::Duration;

use signet_identity::testing::TestCa;
use signet_identity::{PeerClass, RevocationList, RevocationSet};
use signet_sidecar::workload::{App, News};
use signet_workload::{Caller, Provider as _, Refused, Served, State};
use support::{Act, Plane, Sidecar};
use tokio::sync::watch;
use tonic::Status;

const CALLER: Caller = Caller { uid: 1000, gid: 1000, pid: None, connection: 1 };

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("nothing happened in time")
}

struct Scene {
    plane: Plane,
    sidecar: Sidecar,
    news: watch::Sender<News>,
    app: Arc<App>,
    state: watch::Receiver<State>,
}

/// A sidecar that has joined, and its app; certificates are renewed after a second where `soon_due`.
async fn scene(soon_due: bool) -> Scene {
    let plane = Plane::with(soon_due).await;
    let sidecar = plane.sidecar();
    soon(sidecar.identity.join(&plane.bundle)).await.unwrap();
    let news = watch::Sender::new(News::default());
    let app = App::new(
        sidecar.plane.clone(),
        sidecar.credentials.clone(),
        sidecar.metrics.clone(),
        news.subscribe(),
    );
    let state = app.serve(&CALLER);
    tokio::spawn(app.clone().keep());
    Scene { plane, sidecar, news, app, state }
}

impl Scene {
    fn grant(&self, granted: bool) {
        self.news.send_modify(|news| news.granted = Some(granted));
    }

    async fn served(&mut self) -> Arc<Served> {
        let state =
            soon(self.state.wait_for(|state| matches!(state, State::Served(_)))).await.unwrap().clone();
        self.state.mark_unchanged();
        match state {
            State::Served(served) => served,
            _ => unreachable!(),
        }
    }

    async fn refused(&mut self) -> &'static str {
        match &*soon(self.state.wait_for(|state| matches!(state, State::Refused(_)))).await.unwrap() {
            State::Refused(why) => why,
            _ => unreachable!(),
        }
    }

    async fn token(&self, audiences: &[&str]) -> Result<String, Refused> {
        let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        let mut tokens = soon(self.app.jwt_svids(&CALLER, audiences, None)).await?;
        Ok(tokens.remove(0).token)
    }
}

#[tokio::test]
async fn the_app_is_served_the_revocation_lists_as_they_come() {
    let mut scene = scene(false).await;
    scene.grant(true);
    assert!(scene.served().await.bundles.crls.is_empty());
    let list = RevocationList::parse(&TestCa::new("demo.signet").revocation_list(&[])).unwrap();
    scene.news.send_modify(|news| news.lists = Arc::from([list.clone()]));
    soon(scene.state.changed()).await.unwrap();
    assert_eq!(*scene.served().await.bundles.crls, [list]);
}

#[tokio::test]
async fn the_app_has_our_name_another_class_and_another_key() {
    let mut scene = scene(false).await;
    assert!(matches!(*scene.state.borrow(), State::Waiting), "nothing before the first delivery");
    scene.grant(true);
    let served = scene.served().await;
    let own = scene.sidecar.credentials.current().unwrap();
    let (app, own) = (&served.identities[0].svid, own.generation.own());
    assert_eq!(app.svid().id, own.svid().id);
    assert_eq!((app.svid().class, own.svid().class), (PeerClass::Workload, PeerClass::Sidecar));
    assert_ne!(app.svid().key, own.svid().key);
    assert_ne!(**app.private_key_pkcs8(), **own.private_key_pkcs8());
}

#[tokio::test]
async fn nothing_is_asked_for_until_the_workload_opts_in_and_all_is_lost_when_it_opts_out() {
    let mut scene = scene(false).await;
    scene.grant(false);
    assert!(scene.refused().await.contains("opt in"));
    assert!(scene.plane.mind.app_csrs.lock().unwrap().is_empty());
    scene.grant(true);
    scene.served().await;
    scene.grant(false);
    scene.refused().await;
    assert!(matches!(scene.token(&["db"]).await, Err(Refused::Denied(_))));
    scene.grant(true);
    scene.served().await;
    let csrs = scene.plane.mind.app_csrs.lock().unwrap();
    assert_eq!(csrs.len(), 2, "what was lost does not come back by itself");
    assert_ne!(csrs[0], csrs[1], "a key is never used twice");
}

#[tokio::test]
async fn a_renewal_that_fails_keeps_the_valid_certificate_and_is_tried_again() {
    let mut scene = scene(true).await;
    scene.grant(true);
    let first = scene.served().await;
    scene.plane.mind.apps.lock().unwrap().push_back(Status::unavailable("starting"));
    soon(scene.state.changed()).await.unwrap();
    let second = scene.served().await;
    assert_ne!(first.identities[0].svid.svid().serial, second.identities[0].svid.svid().serial);
    assert_ne!(first.identities[0].svid.svid().key, second.identities[0].svid.svid().key);
    assert!(scene.plane.mind.app_csrs.lock().unwrap().len() >= 3);
}

#[tokio::test]
async fn a_certificate_that_was_revoked_is_replaced_and_an_identity_that_was_is_not() {
    let mut scene = scene(false).await;
    scene.grant(true);
    let first = scene.served().await.identities[0].svid.svid().clone();
    let mut revoked = RevocationSet::new(2);
    revoked.serials.insert(first.serial);
    scene.sidecar.credentials.revoke(Arc::new(revoked));
    soon(scene.state.wait_for(
        |state| matches!(state, State::Served(served) if served.identities[0].svid.svid().serial != first.serial),
    ))
    .await
    .unwrap();
    let mut revoked = RevocationSet::new(3);
    revoked.identities.insert(first.id.clone());
    scene.sidecar.credentials.revoke(Arc::new(revoked));
    assert_eq!(scene.refused().await, "revoked");
}

#[tokio::test]
async fn tokens_are_kept_for_half_of_their_life_and_forgotten_with_the_right_to_them() {
    let mut scene = scene(false).await;
    scene.grant(true);
    scene.served().await;
    assert_eq!(scene.token(&["db"]).await.unwrap(), "token 1");
    assert_eq!(scene.token(&["db"]).await.unwrap(), "token 1");
    assert_eq!(scene.token(&["cache", "db"]).await.unwrap(), "token 2");
    assert_eq!(scene.token(&["db", "cache"]).await.unwrap(), "token 2");
    scene.grant(false);
    scene.refused().await;
    scene.grant(true);
    scene.served().await;
    assert_eq!(scene.token(&["db"]).await.unwrap(), "token 3");
    let answers = [Status::permission_denied("no"), Status::resource_exhausted("slow down")];
    scene.plane.mind.apps.lock().unwrap().extend(answers);
    assert!(matches!(scene.token(&["a"]).await, Err(Refused::Denied(_))));
    assert!(matches!(scene.token(&["a"]).await, Err(Refused::Exhausted(_))));
    let another = Some(scene.plane.mind.ca.id("ns/shop/sa/bank"));
    let asked = scene.app.jwt_svids(&CALLER, vec!["db".into()], another).await;
    assert!(matches!(asked, Err(Refused::Denied(_))));
}

#[tokio::test]
async fn the_app_keeps_its_certificate_when_ours_is_renewed() {
    let mut scene = scene(false).await;
    scene.grant(true);
    let first = scene.served().await.identities[0].svid.svid().serial;
    scene.plane.then([Act::Sign]);
    scene.sidecar.identity.renew_at_once();
    let mut credentials = scene.sidecar.credentials.watch();
    credentials.mark_unchanged();
    let identity = scene.sidecar.identity.clone();
    // Renewal needs a term; joining again gives one, and with it a new certificate.
    soon(identity.join(&scene.plane.bundle)).await.unwrap();
    soon(credentials.changed()).await.unwrap();
    let again = scene.served().await.identities[0].svid.svid().serial;
    assert_eq!(first, again);
}
