//! What an agent is told and given for the processes of its host, and what a stolen one cannot get.

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use signet_control_plane::listen::bootstrap::Limits;
use signet_identity::{PeerClass, Svid};
use signet_proto::v1::process_x509_outcome::Outcome;
use signet_proto::v1::{self, processes_client::ProcessesClient, resource::Body};
use tonic::{Code, Status};

use crate::harness::{GATEWAY, Member, ORDERS, Plane, REGISTRY, WEB, csr, hello, names, soon};

const AGENT: &str = "spiffe://demo.signet/ns/hosts/sa/one";
const OTHER: &str = "spiffe://demo.signet/ns/hosts/sa/two";

fn registry(more: &str) -> String {
    let opted_in = REGISTRY.replace("spec: {class: sidecar}", "spec: {class: sidecar, workloadApi: true}");
    let agent = |name: &str| {
        format!(
            "---\napiVersion: signet.mesh/v1alpha1\nkind: Workload\nmetadata: {{namespace: hosts, name: {name}}}\n\
             spec: {{class: agent}}\n"
        )
    };
    format!("{opted_in}{}{}{more}", agent("one"), agent("two"))
}

fn entry(name: &str, agent: &str, rest: &str, identity: &str) -> String {
    format!(
        "---\napiVersion: signet.mesh/v1alpha1\nkind: Registration\nmetadata: {{name: {name}}}\n\
         spec: {{unix: {{agents: [ns/hosts/sa/{agent}], {rest}}}, identity: {identity}}}\n"
    )
}

/// `orders` runs on the first host as user 1000, `web` on the second.
fn entries() -> String {
    entry("orders", "one", "uid: 1000, path: /usr/bin/orders", "ns/shop/sa/orders")
        + &entry("web", "two", "uid: 1000", "ns/shop/sa/web")
}

async fn plane() -> Plane {
    Plane::start_as(Limits::default(), &registry(&entries()), |_| String::new()).await
}

fn facts(uid: u32, path: &str) -> v1::ProcessFacts {
    v1::ProcessFacts { uid, gid: uid, path: path.into(), ..v1::ProcessFacts::default() }
}

async fn issue(
    member: &Member,
    registration: &str,
    facts: v1::ProcessFacts,
) -> Result<v1::IssuedSvid, Status> {
    issue_all(member, vec![process(registration, facts)]).await?.remove(0)
}

fn process(registration: &str, facts: v1::ProcessFacts) -> v1::ProcessX509 {
    let csr_der = csr(&KeyPair::generate().unwrap());
    v1::ProcessX509 { csr_der, registration: registration.to_owned(), facts: Some(facts) }
}

async fn issue_all(
    member: &Member,
    processes: Vec<v1::ProcessX509>,
) -> Result<Vec<Result<v1::IssuedSvid, Status>>, Status> {
    let mut client = ProcessesClient::new(member.channel().await);
    let answer = soon(client.issue_x509(v1::IssueProcessX509Request { processes })).await?.into_inner();
    let read = |it: v1::ProcessX509Outcome| match it.outcome.unwrap() {
        Outcome::Issued(issued) => Ok(issued),
        Outcome::Refused(refused) => Err(Status::new(Code::from(refused.code), refused.message)),
    };
    Ok(answer.outcomes.into_iter().map(read).collect())
}

async fn jwt(member: &Member, registration: &str, facts: v1::ProcessFacts) -> Result<String, Status> {
    let mut client = ProcessesClient::new(member.channel().await);
    let (audiences, registration) = (vec!["db".to_owned()], registration.to_owned());
    let request = v1::IssueProcessJwtRequest { audiences, registration, facts: Some(facts) };
    Ok(soon(client.issue_jwt(request)).await?.into_inner().spiffe_id)
}

#[tokio::test]
async fn an_agent_is_told_its_own_entries_and_gets_what_they_give() {
    let mut plane = plane().await;
    let agent = plane.join(AGENT, "agent").await;
    let mut stream = agent.stream(hello(&[], &[])).await;
    let delta = stream.delta().await;
    let listed = plane.operator.list_sidecars(v1::ListSidecarsRequest::default()).await.unwrap().into_inner();
    let listed: Vec<_> = listed.sidecars.iter().map(|it| (&*it.spiffe_id, &*it.peer_class)).collect();
    assert_eq!(listed, [(AGENT, "agent")], "`signet status` shows it");
    assert!(names(&delta).contains(&"processes"), "{:?}", names(&delta));
    let delivered = delta.upserts.iter().find(|resource| resource.name == "processes").unwrap();
    let Some(Body::Processes(processes)) = &delivered.body else { panic!("no entries") };
    let told: Vec<&str> = processes.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(told, ["orders"], "another host's entries are no business of this one");

    let issued = issue(&agent, "orders", facts(1000, "/usr/bin/orders")).await.unwrap();
    let chain: Vec<_> = issued.chain_der.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let svid = Svid::parse(&chain).unwrap();
    assert_eq!((svid.id.as_str(), svid.class), (ORDERS, PeerClass::Workload));
    assert_eq!(jwt(&agent, "orders", facts(1000, "/usr/bin/orders")).await.unwrap(), ORDERS);
}

#[tokio::test]
async fn a_stolen_agent_gets_what_its_entries_name_and_nothing_else() {
    let mut plane = plane().await;
    let (thief, other) = (plane.join(AGENT, "agent").await, plane.join(OTHER, "agent").await);
    let fits = || facts(1000, "/usr/bin/orders");
    // Another host's entry, one that is nobody's, facts that do not meet its own, none at all.
    for (registration, said) in [
        ("web", fits()),
        ("none", fits()),
        ("", fits()),
        ("orders", facts(1001, "/usr/bin/orders")),
        ("orders", facts(1000, "/tmp/orders")),
        ("orders", facts(1000, "")),
        ("orders", v1::ProcessFacts::default()),
    ] {
        let status = issue(&thief, registration, said.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{registration} {said:?}: {status}");
        assert_eq!(status.message(), "this identity gets no certificate now", "nothing is learnt");
        let status = jwt(&thief, registration, said).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    // What cannot be read is refused before anything is looked up.
    let mut long = fits();
    long.path = "x".repeat(2000);
    let mut many = fits();
    many.supplementary_gids = vec![1; 2000];
    let mut odd = fits();
    odd.sha256 = vec![1; 31];
    for said in [long, many, odd] {
        assert_eq!(issue(&thief, "orders", said).await.unwrap_err().code(), Code::InvalidArgument);
    }
    // Nor is it anybody's sidecar or gateway.
    let mut client = v1::identity_client::IdentityClient::new(thief.channel().await);
    let request = v1::IssueWorkloadRequest { csr_der: csr(&KeyPair::generate().unwrap()) };
    assert_eq!(soon(client.issue_workload(request)).await.unwrap_err().code(), Code::PermissionDenied);
    // And the honest one on the other host is not hindered.
    issue(&other, "web", facts(1000, "")).await.unwrap();
    assert_eq!(issue(&other, "orders", fits()).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn many_are_asked_for_in_one_act_and_each_is_judged_by_itself() {
    let mut plane = plane().await;
    let agent = plane.join(AGENT, "agent").await;
    let fits = || facts(1000, "/usr/bin/orders");
    let (first, mut odd) = (process("orders", fits()), fits());
    odd.sha256 = vec![1; 31];
    let mut garbage = process("orders", fits());
    garbage.csr_der.truncate(40);
    let asked = vec![
        first.clone(),
        process("web", fits()),
        garbage,
        process("orders", odd),
        // The key of the first, in the same act.
        first,
        process("orders", fits()),
    ];
    let answers = issue_all(&agent, asked).await.unwrap();
    let codes: Vec<_> = answers.iter().map(|it| it.as_ref().map(|_| ()).map_err(Status::code)).collect();
    let expected = [
        Ok(()),
        Err(Code::PermissionDenied),
        Err(Code::InvalidArgument),
        Err(Code::InvalidArgument),
        Err(Code::FailedPrecondition),
        Ok(()),
    ];
    assert_eq!(codes, expected);
    let keys: Vec<_> = [&answers[0], &answers[5]]
        .map(|answer| {
            let chain = answer.as_ref().unwrap().chain_der.iter().cloned().map(CertificateDer::from);
            Svid::parse(&chain.collect::<Vec<_>>()).unwrap()
        })
        .into();
    assert!(keys.iter().all(|svid| svid.id.as_str() == ORDERS) && keys[0].key != keys[1].key);
    let most: Vec<_> = (0..32).map(|_| process("orders", fits())).collect();
    let answers = issue_all(&agent, most.clone()).await.unwrap();
    assert!(answers.len() == 32 && answers.iter().all(Result::is_ok));
    for (count, asked) in [(0, vec![]), (33, [most, vec![process("orders", fits())]].concat())] {
        let status = issue_all(&agent, asked).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{count}: {status}");
    }
}

#[tokio::test]
async fn whoever_is_no_agent_vouches_for_nobody() {
    let mut plane = plane().await;
    for (id, class) in [(WEB, "sidecar"), (GATEWAY, "gateway")] {
        let member = plane.join(id, class).await;
        let status = issue(&member, "orders", facts(1000, "/usr/bin/orders")).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{class}");
    }
}

#[tokio::test]
async fn an_entry_that_is_taken_back_gives_nothing_more_and_the_agent_hears_of_it() {
    let mut plane = plane().await;
    let agent = plane.join(AGENT, "agent").await;
    let mut stream = agent.stream(hello(&[], &[])).await;
    stream.delta().await;
    issue(&agent, "orders", facts(1000, "/usr/bin/orders")).await.unwrap();
    plane.edit(&registry(""));
    let delta = stream.delta().await;
    let Some(Body::Processes(processes)) =
        delta.upserts.iter().find(|resource| resource.name == "processes").and_then(|it| it.body.clone())
    else {
        panic!("no entries in {:?}", names(&delta))
    };
    assert!(processes.entries.is_empty());
    let status = issue(&agent, "orders", facts(1000, "/usr/bin/orders")).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}
