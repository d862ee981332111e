//! Several control planes on one store.

use std::os::unix::fs::PermissionsExt as _;

use signet_ca::{Event, Revocation, SharedKeys};

use crate::*;

impl Mesh {
    /// Another control plane on the same store, with the keys that all of them share and an issuer of its own.
    pub(crate) async fn replica(&self, name: &str) -> Mesh {
        self.try_replica(name).await.unwrap()
    }

    pub(crate) async fn try_replica(&self, name: &str) -> Result<Mesh, AuthorityError> {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::copy(self.dir.path().join("seal.key"), dir.path().join("seal.key")).unwrap();
        let mut config = config(dir.path());
        config.store = store(self.dir.path());
        config.shared_keys = SharedKeys::Folder(self.dir.path().join("data"));
        config.replica = Some(name.to_owned());
        let authority = Authority::open(config, self.clock.clone()).await?;
        Ok(Mesh { authority, clock: self.clock.clone(), dir })
    }
}

/// Two control planes on one store; none where there is no PostgreSQL.
async fn pair() -> Option<(Mesh, Mesh)> {
    server()?;
    let first = mesh().await;
    let second = first.replica("second").await;
    Some((first, second))
}

fn of(pair: &(Mesh, Mesh), n: usize) -> &Mesh {
    if n.is_multiple_of(2) { &pair.0 } else { &pair.1 }
}

#[tokio::test]
async fn a_second_control_plane_takes_part_with_a_log_of_its_own() {
    let Some(pair) = pair().await else { return };
    let issued = pair.0.join("web").await;
    // Renewed where it was not issued.
    let renewed = pair.1.renew(&issued, &key()).await.unwrap();
    pair.0.renew(&renewed, &key()).await.unwrap();
    let events: Vec<Event> =
        pair.1.authority.records(10).await.unwrap().into_iter().map(|record| record.event).collect();
    // Its issuer was signed by the other, which holds the lease.
    assert_eq!(events, [Event::ReplicaJoined, Event::KeyMade, Event::KeyMade, Event::Renewed]);
    for mesh in [&pair.0, &pair.1] {
        mesh.authority.verify_chain().await.unwrap();
    }
    let names: Vec<String> =
        pair.0.authority.replicas().await.unwrap().into_iter().map(|replica| replica.name).collect();
    assert!(names.len() == 2 && names.contains(&"second".to_owned()), "{names:?}");
}

#[tokio::test]
async fn of_three_that_make_a_mesh_at_once_one_does_and_the_others_take_part() {
    if server().is_none() {
        return;
    }
    for _ in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let private = |path: &std::path::Path| {
            std::fs::create_dir(path).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
        };
        private(&dir.path().join("shared"));
        let first = config(dir.path());
        // Whoever installs several has made it for all of them.
        let key = dir.path().join("seal.key");
        std::fs::write(&key, [7; 32]).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut starts = tokio::task::JoinSet::new();
        for n in 0..3 {
            let own = dir.path().join(format!("own-{n}"));
            private(&own);
            let mut config = config(&own);
            config.seal = first.seal.clone();
            config.data_dir = own.join("data");
            config.store = store(dir.path());
            config.shared_keys = SharedKeys::Folder(dir.path().join("shared"));
            config.replica = Some(format!("r{n}"));
            starts.spawn(Authority::open(config, Arc::new(signet_ca::SystemClock)));
        }
        let all: Vec<Authority> = starts.join_all().await.into_iter().map(Result::unwrap).collect();
        for one in &all {
            assert_eq!(one.root_pem(), all[0].root_pem());
            assert_eq!(one.mesh(), all[0].mesh());
        }
        let left: Vec<_> = std::fs::read_dir(dir.path().join("shared")).unwrap().flatten().collect();
        let left: Vec<_> = left.iter().map(|it| it.file_name().into_string().unwrap()).collect();
        let half = |name: &String| name.starts_with('.') || name.starts_with("founding");
        assert!(!left.iter().any(half), "nothing half done is left: {left:?}");
    }
}

#[tokio::test]
async fn two_replicas_race_for_one_token_and_one_wins() {
    let Some(pair) = pair().await else { return };
    for _ in 0..40 {
        let token = Arc::new(pair.0.token("web").await);
        let mut attempts = tokio::task::JoinSet::new();
        for n in 0..4 {
            let (authority, token, csr) = (of(&pair, n).authority.clone(), token.clone(), csr(&key()));
            attempts.spawn(async move {
                let source = format!("192.0.2.{n}");
                authority.attest_join_token(token.text.expose(), &csr, &source, anybody()).await
            });
        }
        let results = attempts.join_all().await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        for result in results {
            if let Err(error) = result {
                assert!(
                    matches!(error.refusal(), Some(Refusal::TokenUsed | Refusal::TooManyAttempts)),
                    "{error:?}"
                );
            }
        }
        pair.0.clock.pass(60);
    }
}

#[tokio::test]
async fn two_replicas_race_for_one_parent_and_one_wins() {
    let Some(pair) = pair().await else { return };
    for round in 0..40 {
        let name = format!("w{round}");
        let first = pair.0.join(&name).await;
        let renew = |n: usize| {
            let (authority, leaf, csr) =
                (of(&pair, n).authority.clone(), first.chain[0].clone(), csr(&key()));
            tokio::spawn(async move { authority.renew(&leaf, &csr, anybody()).await })
        };
        let (a, b) = (renew(0), renew(1));
        let results = [a.await.unwrap(), b.await.unwrap()];
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        let refused = results.into_iter().find_map(|result| result.err()).unwrap();
        assert_eq!(refused.refusal(), Some(Refusal::ParentReused));
    }
    for mesh in [&pair.0, &pair.1] {
        mesh.authority.verify_chain().await.unwrap();
    }
}

#[tokio::test]
async fn two_replicas_race_for_one_key_and_one_wins() {
    let Some(pair) = pair().await else { return };
    for _ in 0..40 {
        let request = csr(&key());
        let tokens = [pair.0.token("web").await, pair.0.token("orders").await];
        let attest = |n: usize| {
            let (authority, csr) = (of(&pair, n).authority.clone(), request.clone());
            let text = tokens[n].text.expose().to_owned();
            tokio::spawn(async move {
                authority.attest_join_token(&text, &csr, &format!("192.0.2.{n}"), anybody()).await
            })
        };
        let (a, b) = (attest(0), attest(1));
        let results = [a.await.unwrap(), b.await.unwrap()];
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        let refused = results.into_iter().find_map(|result| result.err()).unwrap();
        assert_eq!(refused.refusal(), Some(Refusal::KeyUsed));
        pair.0.clock.pass(60);
    }
}

#[tokio::test]
async fn the_same_request_at_two_replicas_is_one_certificate() {
    let Some(pair) = pair().await else { return };
    for round in 0..20 {
        let first = pair.0.join(&format!("w{round}")).await;
        let request = csr(&key());
        let renew = |n: usize| {
            let (authority, leaf, csr) =
                (of(&pair, n).authority.clone(), first.chain[0].clone(), request.clone());
            tokio::spawn(async move { authority.renew(&leaf, &csr, anybody()).await.unwrap() })
        };
        let (a, b) = (renew(0), renew(1));
        assert_eq!(a.await.unwrap().chain, b.await.unwrap().chain);
    }
}

#[tokio::test]
async fn a_revocation_on_one_replica_is_in_force_on_the_other_without_polling() {
    let Some(pair) = pair().await else { return };
    let issued = pair.1.join("web").await;
    let mut heard = pair.1.authority.revocations();
    heard.mark_unchanged();
    let began = std::time::Instant::now();
    let number = pair.0.authority.revoke(Revocation::Identity(id("web")), "gone", "uid:0").await.unwrap();
    // Refused there from the commit on, whatever was heard.
    assert_eq!(refusal(pair.1.renew(&issued, &key()).await), Refusal::IdentityRevoked);
    tokio::time::timeout(Duration::from_secs(10), heard.changed()).await.unwrap().unwrap();
    eprintln!("heard after {:?}", began.elapsed());
    let set = heard.borrow_and_update().clone();
    assert_eq!(set.set.sequence, number);
    assert!(set.set.identities.contains(&id("web")));
    pair.1.authority.reinstate(Revocation::Identity(id("web")), "found", "uid:0").await.unwrap().unwrap();
    let mut there = pair.0.authority.revocations();
    let lifted = there.wait_for(|set| set.set.identities.is_empty());
    tokio::time::timeout(Duration::from_secs(10), lifted).await.unwrap().unwrap();
}

#[tokio::test]
async fn revocations_at_two_replicas_at_once_are_all_kept() {
    let Some(pair) = pair().await else { return };
    let mut acts = tokio::task::JoinSet::new();
    for n in 0..40 {
        let authority = of(&pair, n).authority.clone();
        acts.spawn(async move {
            authority.revoke(Revocation::Identity(id(&format!("w{n}"))), "", "uid:0").await.unwrap()
        });
    }
    let mut numbers = acts.join_all().await;
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 40, "every change has a number of its own");
    assert_eq!(pair.0.authority.verify_chain().await.unwrap().revocations, 40);
    for mesh in [&pair.0, &pair.1] {
        let mut set = mesh.authority.revocations();
        let all = set.wait_for(|set| set.set.identities.len() == 40);
        tokio::time::timeout(Duration::from_secs(10), all).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn connections_cut_at_any_moment_lose_nothing_and_leave_nothing_half_done() {
    let Some(pair) = pair().await else { return };
    let database = server().unwrap().database(pair.0.dir.path());
    let mut killer = tokio::time::interval(Duration::from_millis(7));
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let killer = tokio::task::spawn(async move {
        while matches!(stopped.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)) {
            killer.tick().await;
            let database = database.clone();
            let sql = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = '{database}' AND usename = 'mesh'"
            );
            tokio::task::spawn_blocking(move || server().unwrap().sql("postgres", &sql)).await.unwrap();
        }
    });
    // A workload renews again and again, at either; what was answered must be what is there.
    let mut answered = 0u32;
    let first = loop {
        let token = pair.0.authority.create_join_token(id("web"), PeerClass::Sidecar, None, "uid:0").await;
        if let Ok(token) = token
            && let Ok(issued) = pair.0.attest(&token, &csr(&key())).await
        {
            break issued;
        }
    };
    let mut current = first;
    while answered < 25 {
        let request = csr(&key());
        let mut tries = 0;
        let next = loop {
            tries += 1;
            let mesh = of(&pair, tries);
            match mesh.authority.renew(&current.chain[0], &request, anybody()).await {
                Ok(next) => break next,
                Err(error) => assert!(
                    matches!(error.refusal(), None | Some(Refusal::TooManyAttempts)),
                    "a lost answer became {error:?}"
                ),
            }
            pair.0.clock.pass(1);
            assert!(tries < 2_000, "it never comes through");
        };
        answered += 1;
        current = next;
        pair.0.clock.pass(60);
    }
    // With the cut that it is at: nothing is cut from here on.
    stop.send(()).unwrap();
    killer.await.unwrap();
    // Whole again, and nothing is missing: every certificate is in a log, every log is whole.
    let mut records = 0;
    for mesh in [&pair.0, &pair.1] {
        let verified = loop {
            match mesh.authority.verify_chain().await {
                Ok(verified) => break verified,
                Err(error) => assert!(!matches!(error, signet_ca::StoreError::Chain(_)), "{error}"),
            }
        };
        assert!(verified.records > 0);
        // A connection that was cut may still lie in the pool.
        let renewals = loop {
            if let Ok(renewals) = mesh.authority.records(10_000).await {
                break renewals;
            }
        };
        records += renewals.iter().filter(|record| record.event == Event::Renewed).count();
    }
    let intruder = pair.0.intruder().await;
    let (children,): (i64,) = sqlx::query_as("SELECT count(*) FROM svids WHERE parent IS NOT NULL")
        .fetch_one(&intruder)
        .await
        .unwrap();
    assert_eq!((records, children), (25, 25), "one record and one row for each");
    // It goes on, once the connection that was cut last is another.
    while pair.1.authority.create_join_token(id("probe"), PeerClass::Sidecar, None, "uid:0").await.is_err() {}
    pair.1.join("orders").await;
}

#[tokio::test]
async fn a_name_belongs_to_the_directory_that_took_it() {
    let Some(pair) = pair().await else { return };
    pair.1.authority.close().await;
    let Err(error) = pair.0.try_replica("second").await else { panic!("it opened") };
    assert!(error.to_string().contains("another data directory has the name second"), "{error}");
    let Err(error) = pair.1.reopen_with(|config| config.replica = Some("third".into())).await else {
        panic!("it opened")
    };
    assert!(error.to_string().contains("that of second"), "{error}");
}

#[tokio::test]
async fn one_leads_and_who_lost_the_lock_can_do_nothing() {
    let Some(pair) = pair().await else { return };
    let first = pair.0.authority.leading().await.unwrap();
    pair.1.authority.maintain().await.unwrap();
    assert_eq!(pair.1.authority.leading().await, None, "somebody leads already");
    // The connection that holds the lock is cut; its owner does not know yet.
    let server = server().unwrap();
    let database = server.database(pair.0.dir.path());
    server.sql(
        &database,
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 2 AND granted",
    );
    let second = loop {
        pair.1.authority.maintain().await.unwrap();
        if let Some(epoch) = pair.1.authority.leading().await {
            break epoch;
        }
    };
    assert!(second > first);
    // What the old leader begins for the mesh is refused to it as a leader, and done by the new one.
    let root = pair.0.authority.rotate(signet_ca::Kind::Root, "uid:0").await.unwrap();
    assert_eq!(pair.0.authority.leading().await, None);
    loop {
        pair.1.authority.maintain().await.unwrap();
        let all = pair.0.authority.authorities().await.unwrap();
        if all.iter().any(|slot| slot.id == root && slot.phase == signet_ca::Phase::Published) {
            break;
        }
    }
    assert_eq!(pair.1.authority.leading().await, Some(second));
}

#[tokio::test]
async fn a_control_plane_that_hangs_in_an_act_holds_nobody_up_for_long() {
    let Some(pair) = pair().await else { return };
    // Somebody holds the lock that every act takes, and does nothing.
    let intruder = pair.0.intruder().await;
    let mut hung = intruder.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(1, 1)").execute(&mut *hung).await.unwrap();
    let began = std::time::Instant::now();
    let error = pair.0.authority.self_issue(vec![]).await.unwrap_err();
    assert!(matches!(error, AuthorityError::Store(signet_ca::StoreError::Busy)), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    hung.rollback().await.unwrap();
    pair.0.authority.self_issue(vec![]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_ends_the_session_of_who_hangs_in_a_transaction() {
    let Some(pair) = pair().await else { return };
    let token = pair.0.token("web").await;
    // The registry is asked within the act: this one does not answer until it is told to.
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let stuck: SharedRegistrar = Arc::new(move |_: &SpiffeId, _: PeerClass| {
        let _ = tokio::task::block_in_place(|| wait.lock().unwrap().recv());
        Some(Vec::new())
    });
    let request = csr(&key());
    let (authority, text) = (pair.0.authority.clone(), token.text.expose().to_owned());
    let hung =
        tokio::spawn(async move { authority.attest_join_token(&text, &request, "192.0.2.1", stuck).await });
    let began = std::time::Instant::now();
    // Whoever changes the revocations must be alone: that waits for the one who hangs, and then does not.
    while pair.1.authority.revoke(Revocation::Identity(id("x")), "", "uid:0").await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(40), "it waits for ever");
    }
    release.send(()).unwrap();
    // If the revocation came first, there was nobody to wait for.
    let outcome = hung.await.unwrap();
    assert!(outcome.is_err() || began.elapsed() < Duration::from_secs(5), "{outcome:?}");
    // Nothing of it is left: the token is as before.
    if outcome.is_err() {
        pair.1.attest(&token, &csr(&key())).await.unwrap();
    }
    pair.0.authority.verify_chain().await.unwrap();
}
