//! Transaction tokens for sidecars that exchange them, and contexts that are put off.

use std::collections::BTreeSet;

use signet_ca::{Deferral, Event, Exchange, Revocation, SEALED_PREFIX};
use signet_token::txn::{self, Begin, Source, Trust};
use signet_token::{MintError, Minted, TokenRoots, TxnClaims, TxnError};
use zeroize::Zeroizing;

use super::*;

fn anybody() -> SharedRegistrar {
    Arc::new(|_: &SpiffeId, _: PeerClass| Some(Vec::new()))
}

fn claims(requester: &SpiffeId, now: i64) -> TxnClaims {
    let begin = Begin {
        source: Source::Named("idp|alice"),
        actor: None,
        allowed: BTreeSet::from(["read"]),
        scope: None,
        claims: &|_| false,
        details: serde_json::Map::new(),
        grant: "exchange/test",
        issuer: "demo.signet",
        audience: "demo.signet",
        requester: requester.as_str(),
        ttl: 60,
    };
    txn::begin(begin, now as u64).unwrap()
}

async fn exchanged(mesh: &Mesh, of: &Issued, claims: TxnClaims) -> Result<Minted, AuthorityError> {
    let exchange = Exchange { claims, what: "begun under test".into() };
    let signed = mesh.authority.sign_exchange(&of.chain[0], exchange, anybody()).await;
    signed.map(|signed| signed.unwrap())
}

fn believed(mesh: &Mesh, token: &str) -> Result<TxnClaims, TxnError> {
    let roots = TokenRoots::parse(&mesh.authority.token_roots_json()).unwrap();
    let revoked = mesh.authority.revocations().borrow().delegations.clone();
    let trust = Trust {
        trust_domain: "demo.signet",
        issuer: "demo.signet",
        roots: &roots,
        revoked: &|thumbprint| revoked.contains(thumbprint),
        remembered: None,
    };
    txn::verify(token, &trust, mesh.authority_now())
}

impl Mesh {
    fn authority_now(&self) -> u64 {
        self.clock.0.load(Ordering::SeqCst) as u64
    }
}

fn refused<T>(result: Result<T, AuthorityError>) -> Refusal {
    result.err().and_then(|error| error.refusal()).expect("a refusal")
}

#[tokio::test]
async fn a_token_for_a_sidecar_verifies_and_is_recorded_and_its_key_is_kept() {
    let mesh = mesh().await;
    let web = mesh.join("web").await;
    let first = exchanged(&mesh, &web, claims(&web.spiffe_id, START)).await.unwrap();
    let second = exchanged(&mesh, &web, claims(&web.spiffe_id, START)).await.unwrap();
    assert_eq!(believed(&mesh, &first.token).unwrap(), first.claims);
    believed(&mesh, &second.token).unwrap();
    let records = mesh.authority.records(10).await.unwrap();
    let of = |event| records.iter().filter(|record| record.event == event).count();
    assert_eq!((of(Event::Delegated), of(Event::Exchanged)), (1, 2), "one key for both");
    let last = records.last().unwrap();
    assert!(last.reason.contains(&second.claims.txn) && last.reason.contains("idp|alice"), "{}", last.reason);
    assert_eq!(
        (last.actor.as_str(), last.spiffe_id.as_str()),
        (web.spiffe_id.as_str(), web.spiffe_id.as_str())
    );
    assert!(!last.reason.contains("eyJ"));
}

#[tokio::test]
async fn whatever_revokes_a_sidecar_ends_what_was_signed_for_it() {
    let mesh = mesh().await;
    let (web, other) = (mesh.join("web").await, mesh.join("orders").await);
    let token = exchanged(&mesh, &web, claims(&web.spiffe_id, START)).await.unwrap().token;
    let others = exchanged(&mesh, &other, claims(&other.spiffe_id, START)).await.unwrap().token;
    mesh.authority.revoke(Revocation::Serial(web.serial), "", "uid:0").await.unwrap();
    assert_eq!(believed(&mesh, &token), Err(TxnError::Revoked));
    believed(&mesh, &others).unwrap();
    let result = exchanged(&mesh, &web, claims(&web.spiffe_id, START)).await;
    assert_eq!(refused(result), Refusal::SerialRevoked);
}

#[tokio::test]
async fn nobody_gets_a_token_in_anothers_name_and_only_sidecars_get_any() {
    let mesh = mesh().await;
    let (web, other) = (mesh.join("web").await, mesh.join("orders").await);
    let result = exchanged(&mesh, &web, claims(&other.spiffe_id, START)).await;
    assert_eq!(refused(result), Refusal::PeerMismatch);
    let token = mesh.authority.create_join_token(id("gw"), PeerClass::Gateway, None, "uid:0").await.unwrap();
    let gateway = mesh.attest(&token, &csr(&key())).await.unwrap();
    let result = exchanged(&mesh, &gateway, claims(&gateway.spiffe_id, START)).await;
    assert_eq!(refused(result), Refusal::NotAProxy);
}

async fn put_off(mesh: &Mesh, from: &Issued, to: &SpiffeId, openings: i64) -> Zeroizing<String> {
    let deferral = Deferral {
        claims: claims(&from.spiffe_id, mesh.authority_now() as i64),
        consumer: to.clone(),
        within: HOUR,
        openings,
        grant: "put off under test".into(),
    };
    mesh.authority.defer(&from.chain[0], deferral, anybody()).await.unwrap().0
}

async fn opened(mesh: &Mesh, by: &Issued, sealed: &str) -> Result<Result<Minted, MintError>, AuthorityError> {
    let (requester, now) = (by.spiffe_id.clone(), mesh.authority_now());
    let next = move |held: TxnClaims, _: &str, until: i64| {
        Ok::<_, MintError>(txn::continued(&held, None, requester.as_str(), (60, until as u64), now).unwrap())
    };
    mesh.authority.open_deferred(&by.chain[0], Zeroizing::new(sealed.to_owned()), next, anybody()).await
}

#[tokio::test]
async fn a_context_opens_for_its_workload_so_often_and_so_long_and_for_nobody_else() {
    let mesh = mesh().await;
    let (web, worker, other) = (mesh.join("web").await, mesh.join("worker").await, mesh.join("orders").await);
    let sealed = put_off(&mesh, &web, &worker.spiffe_id, 2).await;
    assert!(sealed.starts_with(SEALED_PREFIX));
    for stranger in [&web, &other] {
        assert_eq!(refused(opened(&mesh, stranger, &sealed).await), Refusal::NotItsContext);
    }
    for bad in [
        "",
        SEALED_PREFIX,
        "eyJ.x.y",
        &sealed[..sealed.len() - 1],
        &format!("{}A", &sealed[..sealed.len() - 1]),
    ] {
        if bad != sealed.as_str() {
            assert_eq!(refused(opened(&mesh, &worker, bad).await), Refusal::NotItsContext, "{bad}");
        }
    }
    let first = opened(&mesh, &worker, &sealed).await.unwrap().unwrap();
    assert_eq!(first.claims.subject, "idp|alice");
    assert_eq!(first.claims.rctx.via, [web.spiffe_id.as_str()]);
    believed(&mesh, &first.token).unwrap();
    // What is refused after it was opened was not opened.
    let refuse = |_: TxnClaims, _: &str, _: i64| Err::<TxnClaims, _>(MintError::NoDelegation);
    let text = Zeroizing::new(sealed.to_string());
    let result = mesh.authority.open_deferred(&worker.chain[0], text, refuse, anybody()).await.unwrap();
    assert_eq!(result.unwrap_err(), MintError::NoDelegation);
    opened(&mesh, &worker, &sealed).await.unwrap().unwrap();
    assert_eq!(refused(opened(&mesh, &worker, &sealed).await), Refusal::NotItsContext, "a third time");

    let late = put_off(&mesh, &web, &worker.spiffe_id, 1).await;
    mesh.clock.pass(HOUR);
    assert_eq!(refused(opened(&mesh, &worker, &late).await), Refusal::NotItsContext, "an hour later");
}

#[tokio::test]
async fn two_who_open_one_context_at_once_do_not_both_get_it() {
    let mesh = mesh().await;
    let (web, worker) = (mesh.join("web").await, mesh.join("worker").await);
    let sealed = put_off(&mesh, &web, &worker.spiffe_id, 1).await;
    let tries = (0..8).map(|_| opened(&mesh, &worker, &sealed));
    let results = futures_of(tries).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
}

async fn futures_of<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn the_store_tells_of_no_user_and_a_row_that_was_changed_opens_for_nobody() {
    let mesh = mesh().await;
    let (web, worker) = (mesh.join("web").await, mesh.join("worker").await);
    let sealed = put_off(&mesh, &web, &worker.spiffe_id, 1).await;
    let pool = intruder(mesh.dir.path()).await;
    let rows: Vec<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT id, content FROM deferred").fetch_all(&pool).await.unwrap();
    assert_eq!(rows.len(), 1);
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(!holds(&rows[0].1, "alice") && !holds(&rows[0].0, &sealed) && !holds(&rows[0].1, &sealed));
    sqlx::query("UPDATE deferred SET allowed = 100").execute(&pool).await.unwrap();
    assert_eq!(refused(opened(&mesh, &worker, &sealed).await), Refusal::RowTampered);
    sqlx::query("UPDATE deferred SET allowed = 1, spiffe_id = 'spiffe://demo.signet/ns/shop/sa/web'")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(refused(opened(&mesh, &web, &sealed).await), Refusal::RowTampered);
}
