//! What an agent gets for the processes of its host, and what it does not get.

use rcgen::KeyPair;
use signet_ca::{Asked, Event, Issued, Judge, JwtSvid, Revocation, Vouched};
use signet_identity::{KeyId, Svid};

use crate::*;

/// A registry in which this agent may vouch for `orders`.
fn orders() -> Judge {
    vouches_for("orders")
}

fn vouches_for(name: &'static str) -> Judge {
    Arc::new(move |agent: &SpiffeId| {
        if *agent != id("agent-a") {
            return Err(Refusal::NotItsProcess);
        }
        Ok(Vouched { spiffe_id: id(name), words: "process by registration orders: uid 1000 gid 1000".into() })
    })
}

impl Mesh {
    async fn agent(&self, name: &str) -> Issued {
        let class = PeerClass::Agent;
        let token = self.authority.create_join_token(id(name), class, None, "uid:0").await.unwrap();
        self.attest(&token, &csr(&key())).await.unwrap()
    }
}

async fn issue(mesh: &Mesh, agent: &Issued, key: &KeyPair) -> Result<Issued, AuthorityError> {
    issue_by(mesh, agent, key, (orders(), anybody())).await
}

async fn issue_by(
    mesh: &Mesh,
    agent: &Issued,
    key: &KeyPair,
    (judge, registrar): (Judge, SharedRegistrar),
) -> Result<Issued, AuthorityError> {
    let csr = csr(key);
    let asked = vec![Asked { csr: &csr, judge }];
    mesh.authority.issue_vouched(&agent.chain[0], asked, registrar).await?.remove(0)
}

async fn jwt(mesh: &Mesh, agent: &Issued) -> Result<JwtSvid, AuthorityError> {
    mesh.authority.sign_vouched_jwt(&agent.chain[0], vec!["db".into()], orders(), anybody()).await
}

#[tokio::test]
async fn a_process_gets_the_identity_of_its_entry_and_the_log_says_by_which_facts() {
    let mesh = mesh().await;
    let agent = mesh.agent("agent-a").await;
    assert_eq!(Svid::parse(&agent.chain).unwrap().class, PeerClass::Agent);
    let issued = issue(&mesh, &agent, &key()).await.unwrap();
    let svid = Svid::parse(&issued.chain).unwrap();
    assert_eq!((svid.id.clone(), svid.class), (id("orders"), PeerClass::Workload));
    let record = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!((record.event, record.spiffe_id.as_str()), (Event::Issued, svid.id.as_str()));
    assert_eq!(record.actor, id("agent-a").to_string());
    assert_eq!(record.reason, "process by registration orders: uid 1000 gid 1000");
    let token = jwt(&mesh, &agent).await.unwrap();
    assert_eq!(token.spiffe_id, id("orders"));
    let record = mesh.authority.records(1).await.unwrap().remove(0);
    assert_eq!(record.reason, "for db; process by registration orders: uid 1000 gid 1000");
    mesh.authority.verify_chain().await.unwrap();
}

#[tokio::test]
async fn it_never_outlives_the_agents_certificate() {
    let mesh = mesh().await;
    let agent = mesh.agent("agent-a").await;
    mesh.clock.set(agent.not_after - 60);
    assert_eq!(issue(&mesh, &agent, &key()).await.unwrap().not_after, agent.not_after);
    assert_eq!(jwt(&mesh, &agent).await.unwrap().expires_at, agent.not_after);
    mesh.clock.set(agent.not_after - 5);
    assert_eq!(refusal(issue(&mesh, &agent, &key()).await), Refusal::SvidExpired);
}

#[tokio::test]
async fn only_an_agent_that_is_registered_as_one_vouches_and_only_by_its_own_entries() {
    let mesh = mesh().await;
    let (sidecar, agent, other) =
        (mesh.join("agent-a").await, mesh.agent("agent-a").await, mesh.agent("agent-b").await);
    assert_eq!(refusal(issue(&mesh, &sidecar, &key()).await), Refusal::NotAnAgent);
    assert_eq!(refusal(jwt(&mesh, &sidecar).await), Refusal::NotAnAgent);
    assert_eq!(refusal(issue(&mesh, &other, &key()).await), Refusal::NotItsProcess);
    assert_eq!(refusal(jwt(&mesh, &other).await), Refusal::NotItsProcess);
    let asked = issue_by(&mesh, &agent, &key(), (orders(), nobody())).await;
    assert_eq!(refusal(asked), Refusal::NotRegistered);
    let without_apps: SharedRegistrar =
        Arc::new(|_: &SpiffeId, class: PeerClass| (class != PeerClass::Workload).then(Vec::new));
    let asked = issue_by(&mesh, &agent, &key(), (orders(), without_apps)).await;
    assert_eq!(refusal(asked), Refusal::WorkloadApiOff);
    // Even by a registry gone wrong, nobody is vouched for as the control plane or as a stranger.
    for reserved in ["spiffe://demo.signet/ns/signet-system/sa/x", "spiffe://other.signet/ns/shop/sa/web"] {
        let judge: Judge = Arc::new(move |_: &SpiffeId| {
            Ok(Vouched { spiffe_id: SpiffeId::parse(reserved).unwrap(), words: String::new() })
        });
        let asked = issue_by(&mesh, &agent, &key(), (judge, anybody())).await;
        assert!(matches!(refusal(asked), Refusal::Reserved | Refusal::TrustDomain));
    }
}

#[tokio::test]
async fn an_agent_asks_for_nothing_as_a_proxy_and_what_it_got_asks_for_nothing_at_all() {
    let mesh = mesh().await;
    let agent = mesh.agent("agent-a").await;
    let asked = mesh.authority.issue_workload(&agent.chain[0], &csr(&key()), anybody()).await;
    assert_eq!(refusal(asked), Refusal::NotAProxy);
    let process = issue(&mesh, &agent, &key()).await.unwrap();
    assert_eq!(refusal(mesh.renew(&process, &key()).await), Refusal::NotAProxy);
    assert_eq!(refusal(issue(&mesh, &process, &key()).await), Refusal::NotAnAgent);
    let renewed = mesh.renew(&agent, &key()).await.unwrap();
    issue(&mesh, &renewed, &key()).await.unwrap();
}

#[tokio::test]
async fn revoking_an_agent_in_any_way_revokes_all_that_it_vouched_for_and_nothing_else() {
    let ways: [fn(&Issued) -> Revocation; 3] = [
        |_| Revocation::Identity(id("agent-a")),
        |agent| Revocation::Serial(agent.serial),
        |agent| Revocation::Key(KeyId::from_bytes(*Svid::parse(&agent.chain).unwrap().key.as_bytes())),
    ];
    for way in ways {
        let mesh = mesh().await;
        let first = mesh.agent("agent-a").await;
        let old = issue(&mesh, &first, &key()).await.unwrap();
        let agent = mesh.renew(&first, &key()).await.unwrap();
        let new = issue(&mesh, &agent, &key()).await.unwrap();
        let bystander = mesh.join("orders").await;
        mesh.authority.revoke(way(&agent), "stolen", "uid:0").await.unwrap();
        let revoked = mesh.authority.revocations().borrow().set.serials.clone();
        assert!(revoked.contains(&old.serial) && revoked.contains(&new.serial));
        assert!(!revoked.contains(&bystander.serial));
        assert!(issue(&mesh, &agent, &key()).await.is_err());
        assert!(jwt(&mesh, &agent).await.is_err());
        mesh.authority.verify_chain().await.unwrap();
    }
}

#[tokio::test]
async fn one_program_that_starts_processes_for_ever_is_held_back_and_the_others_are_not() {
    let mesh = mesh().await;
    let agent = mesh.agent("agent-a").await;
    let mut left = None;
    for _ in 0..121 {
        left = Some(issue(&mesh, &agent, &key()).await);
    }
    assert_eq!(refusal(left.unwrap()), Refusal::TooManyAttempts);
    let other = issue_by(&mesh, &agent, &key(), (vouches_for("web"), anybody())).await;
    other.unwrap();
    mesh.clock.pass(60);
    issue(&mesh, &agent, &key()).await.unwrap();
}

#[tokio::test]
async fn what_is_asked_together_is_written_together_or_not_at_all() {
    let mesh = mesh().await;
    let agent = mesh.agent("agent-a").await;
    let (keys, before) = ([key(), key(), key()], mesh.authority.records(1).await.unwrap().remove(0).sequence);
    let requests: Vec<_> = keys.iter().map(csr).collect();
    let asked = |judge: fn() -> Judge| requests.iter().map(|csr| Asked { csr, judge: judge() }).collect();
    let mut outcomes =
        mesh.authority.issue_vouched(&agent.chain[0], asked(|| vouches_for("web")), anybody()).await.unwrap();
    let serials: Vec<_> = outcomes.drain(..).map(|it| it.unwrap().serial.to_string()).collect();
    let records = mesh.authority.records(3).await.unwrap();
    let recorded: Vec<_> = records.iter().map(|record| record.serial.clone()).collect();
    assert_eq!((recorded, records[2].sequence), (serials, before + 3));
    // The same keys again: each is refused by itself, and recorded.
    let again = mesh.authority.issue_vouched(&agent.chain[0], asked(orders), anybody()).await.unwrap();
    assert!(again.into_iter().all(|it| refusal(it) == Refusal::KeyUsed));
    // A revoked agent gets none of them.
    mesh.authority.revoke(Revocation::Serial(agent.serial), "stolen", "uid:0").await.unwrap();
    let none = mesh.authority.issue_vouched(&agent.chain[0], asked(orders), anybody()).await;
    assert_eq!(refusal(none.map(|_| ())), Refusal::SerialRevoked);
    mesh.authority.verify_chain().await.unwrap();
}
