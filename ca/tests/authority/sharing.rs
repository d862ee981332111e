//! Acts that wait share a transaction, and nothing else.

use signet_ca::Event;

use crate::*;

fn commits(registry: &prometheus::Registry) -> f64 {
    let family = registry.gather().into_iter().find(|f| f.name() == "signet_ca_store_commits_total");
    family.unwrap().get_metric()[0].get_counter().get_value()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn acts_that_share_a_transaction_fail_alone() {
    let mesh = mesh().await;
    let registry = prometheus::Registry::new();
    mesh.authority.register_metrics(&registry).unwrap();
    let used = key();
    let token = mesh.token("first").await;
    mesh.attest(&token, &csr(&used)).await.unwrap();
    let mut tokens = Vec::new();
    for n in 0..96 {
        tokens.push(Arc::new(mesh.token(&format!("w{n}")).await));
    }
    let before = commits(&registry);
    let mut acts = tokio::task::JoinSet::new();
    for (n, token) in tokens.iter().enumerate() {
        // Every third is refused after its token was consumed and before anything is recorded.
        let csr = if n % 3 == 0 { csr(&used) } else { csr(&key()) };
        let (authority, token) = (mesh.authority.clone(), Arc::clone(token));
        acts.spawn(async move {
            let source = format!("192.0.2.{n}");
            (n, authority.attest_join_token(token.text.expose(), &csr, &source, anybody()).await)
        });
    }
    for (n, result) in acts.join_all().await {
        match result {
            Ok(_) => assert!(n % 3 != 0, "{n}"),
            Err(error) => assert_eq!((n % 3, error.refusal()), (0, Some(Refusal::KeyUsed)), "{error}"),
        }
    }
    // 64 certificates and 32 records of refusals.
    let commits = commits(&registry) - before;
    assert!(commits < 96.0, "{commits} commits: nothing was shared");
    // The refused ones kept their tokens; those of the others are used.
    for (n, token) in tokens.iter().enumerate() {
        let result = mesh.attest(token, &csr(&key())).await;
        match n % 3 {
            0 => drop(result.unwrap()),
            _ => assert_eq!(refusal(result), Refusal::TokenUsed),
        }
        mesh.clock.pass(2);
    }
    let records = mesh.authority.records(1000).await.unwrap();
    let issued = records.iter().filter(|record| record.event == Event::Issued).count();
    assert_eq!(issued, 97);
    mesh.authority.verify_chain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_log_that_fails_fails_every_act_and_leaves_nothing_of_any() {
    let mesh = mesh().await;
    let mut tokens = Vec::new();
    for n in 0..24 {
        tokens.push(Arc::new(mesh.token(&format!("w{n}")).await));
    }
    let records = mesh.authority.verify_chain().await.unwrap().records;
    let intruder = mesh.intruder().await;
    break_log(&intruder).await;
    let mut acts = tokio::task::JoinSet::new();
    for token in &tokens {
        let (authority, token, csr) = (mesh.authority.clone(), Arc::clone(token), csr(&key()));
        acts.spawn(async move {
            authority.attest_join_token(token.text.expose(), &csr, "192.0.2.1", anybody()).await
        });
    }
    for result in acts.join_all().await {
        assert!(matches!(result, Err(AuthorityError::Store(_))), "{result:?}");
    }
    mend_log(&intruder).await;
    assert_eq!(mesh.authority.verify_chain().await.unwrap().records, records);
    for token in &tokens {
        mesh.attest(token, &csr(&key())).await.unwrap();
    }
    mesh.authority.verify_chain().await.unwrap();
}
