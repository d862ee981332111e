//! Both protocols as machines, without a socket.

use std::sync::Arc;

use prost::Message as _;
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Bundles as X509Bundles, PeerClass};
use signet_proto::envoy::config::core::v3::{DataSource, Node, data_source::Specifier};
use signet_proto::envoy::extensions::transport_sockets::tls::v3::{
    Secret, SpiffeCertValidatorConfig, secret::Type,
};
use signet_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use tonic::Code;

use super::*;
use crate::provider::{Bundles, Identity};

const WEB: &str = "spiffe://demo.signet/ns/shop/sa/web";

struct Mesh {
    ours: TestCa,
    theirs: TestCa,
}

impl Mesh {
    fn new() -> Self {
        Self { ours: TestCa::new("demo.signet"), theirs: TestCa::new("other.mesh") }
    }

    /// Somebody with a new certificate.
    fn served(&self) -> Served {
        let id = self.ours.id("ns/shop/sa/web");
        let svid = self.ours.svid(&id, PeerClass::Workload, SvidOptions::default());
        let x509 = X509Bundles::new([self.ours.bundle(), self.theirs.bundle()]).unwrap();
        Served {
            identities: vec![Identity { svid, hint: String::new() }],
            bundles: Bundles { x509: Arc::new(x509), ..Bundles::default() },
        }
    }
}

fn ask(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: TYPE_URL.to_owned(),
        ..DiscoveryRequest::default()
    }
}

fn answer(names: &[&str], response: &DiscoveryResponse) -> DiscoveryRequest {
    DiscoveryRequest { response_nonce: response.nonce.clone(), ..ask(names) }
}

fn refuse(names: &[&str], response: &DiscoveryResponse) -> DiscoveryRequest {
    let error_detail = Some(rpc::Status { code: 13, message: "no".into() });
    DiscoveryRequest { error_detail, ..answer(names, response) }
}

fn secrets(response: &DiscoveryResponse) -> Vec<Secret> {
    assert_eq!(response.type_url, TYPE_URL);
    response.resources.iter().map(|any| Secret::decode(any.value.as_slice()).unwrap()).collect()
}

fn named(response: &DiscoveryResponse) -> Vec<String> {
    secrets(response).into_iter().map(|secret| secret.name).collect()
}

fn text(source: Option<&DataSource>) -> String {
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.clone()).unwrap(),
        _ => panic!("expected inline bytes"),
    }
}

fn only(world: &mut World, served: &Served) -> DiscoveryResponse {
    world.tell(served).unwrap().expect("a response")
}

#[test]
fn an_alias_and_what_it_stands_for_are_both_answered() {
    let served = Mesh::new().served();
    let mut world = World::default();
    let names = ["ROOTCA", "default", "spiffe://demo.signet", WEB];
    world.asked(ask(&names)).unwrap();
    let response = only(&mut world, &served);
    assert_eq!(named(&response), names);
    let all = secrets(&response);
    let Some(Type::TlsCertificate(one)) = &all[1].r#type else { panic!("no certificate") };
    let Some(Type::TlsCertificate(two)) = &all[3].r#type else { panic!("no certificate") };
    assert_eq!(text(one.private_key.as_ref()), text(two.private_key.as_ref()));
    assert_eq!(text(one.certificate_chain.as_ref()).matches("BEGIN CERTIFICATE").count(), 2);
    assert!(text(one.private_key.as_ref()).starts_with("-----BEGIN PRIVATE KEY-----\n"));
}

#[test]
fn no_names_mean_everything() {
    let served = Mesh::new().served();
    let mut world = World::default();
    world.asked(ask(&[])).unwrap();
    let names = named(&only(&mut world, &served));
    assert_eq!(names, [WEB, "spiffe://demo.signet", "spiffe://other.mesh"]);
}

#[test]
fn roots_are_kept_apart_by_trust_domain() {
    let mesh = Mesh::new();
    let mut world = World::default();
    world.asked(ask(&["ALL", "ROOTCA", "spiffe://other.mesh"])).unwrap();
    let all = secrets(&only(&mut world, &mesh.served()));
    let domains = |secret: &Secret| {
        let Some(Type::ValidationContext(context)) = &secret.r#type else { panic!("no roots") };
        assert!(context.trusted_ca.is_none());
        let validator = context.custom_validator_config.as_ref().unwrap();
        assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
        let config = validator.typed_config.as_ref().unwrap();
        assert!(config.type_url.ends_with(".v3.SPIFFECertValidatorConfig"), "{}", config.type_url);
        let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
        config.trust_domains.into_iter().map(|domain| domain.name).collect::<Vec<_>>()
    };
    assert_eq!(domains(&all[0]), ["demo.signet", "other.mesh"]);
    assert_eq!(domains(&all[1]), ["demo.signet"]);
    assert_eq!(domains(&all[2]), ["other.mesh"]);
}

#[test]
fn a_client_without_the_spiffe_validator_gets_one_pool_and_never_all_roots() {
    use prost_types::value::Kind;
    let served = Mesh::new().served();
    let fields = [(
        "disable_spiffe_cert_validation".to_owned(),
        prost_types::Value { kind: Some(Kind::BoolValue(true)) },
    )];
    let metadata = Some(prost_types::Struct { fields: fields.into_iter().collect() });
    let node = Some(Node { metadata, ..Node::default() });
    let mut world = World::default();
    world.asked(DiscoveryRequest { node: node.clone(), ..ask(&["ROOTCA"]) }).unwrap();
    let all = secrets(&only(&mut world, &served));
    let Some(Type::ValidationContext(context)) = &all[0].r#type else { panic!("no roots") };
    assert!(context.custom_validator_config.is_none());
    assert!(text(context.trusted_ca.as_ref()).contains("BEGIN CERTIFICATE"));
    let mut world = World::default();
    world.asked(DiscoveryRequest { node, ..ask(&["ALL"]) }).unwrap();
    assert_eq!(world.tell(&served).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn a_name_that_is_another_s_ends_the_stream_and_is_named() {
    let served = Mesh::new().served();
    for name in ["spiffe://demo.signet/ns/shop/sa/bank", "spiffe://third.mesh", "DEFAULT", "", "a\"b"] {
        let mut world = World::default();
        world.asked(ask(&["default", name])).unwrap();
        let status = world.tell(&served).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let expected = format!("workload is not authorized for the requested identities [{name:?}]");
        assert_eq!(status.message(), expected);
    }
}

#[test]
fn another_type_is_refused_and_none_means_ours() {
    let mut world = World::default();
    let request = DiscoveryRequest { type_url: "type.googleapis.com/google.protobuf.Any".into(), ..ask(&[]) };
    let status = world.asked(request).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("google.protobuf.Any"), "{status}");
    world.asked(DiscoveryRequest { type_url: String::new(), ..ask(&[]) }).unwrap();
    let request = DeltaDiscoveryRequest { type_url: "x".into(), ..DeltaDiscoveryRequest::default() };
    assert_eq!(Delta::default().asked(request).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn neither_an_acknowledgement_nor_a_refusal_brings_another_response_until_something_changes() {
    let mesh = Mesh::new();
    let (before, after) = (mesh.served(), mesh.served());
    for reply in [answer, refuse] {
        let mut world = World::default();
        world.asked(ask(&["default"])).unwrap();
        let first = only(&mut world, &before);
        world.asked(reply(&["default"], &first)).unwrap();
        assert!(world.tell(&before).unwrap().is_none());
        let second = only(&mut world, &after);
        assert_ne!((&first.nonce, &first.version_info), (&second.nonce, &second.version_info));
        // The same answer again is now one to an old response.
        world.asked(reply(&["default", "ROOTCA"], &first)).unwrap();
        assert!(world.tell(&after).unwrap().is_none(), "a stale nonce changes nothing");
        world.asked(reply(&["default", "ROOTCA"], &second)).unwrap();
        assert_eq!(named(&only(&mut world, &after)), ["ROOTCA", "default"]);
    }
}

#[test]
fn a_version_is_of_the_content_so_that_it_survives_a_restart() {
    let mesh = Mesh::new();
    let served = mesh.served();
    let version = |served: &Served| {
        let mut world = World::default();
        world.asked(ask(&["default", "ROOTCA"])).unwrap();
        only(&mut world, served).version_info.clone()
    };
    assert_eq!(version(&served), version(&served));
    assert_ne!(version(&served), version(&mesh.served()));
}

#[test]
fn names_are_few_and_short() {
    let many: Vec<String> = (0..257).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(World::default().asked(ask(&many)).unwrap_err().code(), Code::InvalidArgument);
    let long = "x".repeat(2049);
    assert_eq!(World::default().asked(ask(&[&long])).unwrap_err().code(), Code::InvalidArgument);
    let mut delta = Delta::default();
    delta.asked(subscribe(&many[..200], &[])).unwrap();
    let more: Vec<String> = (1000..1100).map(|n| n.to_string()).collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    assert_eq!(delta.asked(subscribe(&more, &[])).unwrap_err().code(), Code::InvalidArgument);
}

fn subscribe(names: &[&str], without: &[&str]) -> DeltaDiscoveryRequest {
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest {
        type_url: TYPE_URL.to_owned(),
        resource_names_subscribe: texts(names),
        resource_names_unsubscribe: texts(without),
        ..DeltaDiscoveryRequest::default()
    }
}

fn told(delta: &mut Delta, served: &Served) -> Option<(Vec<String>, Vec<String>)> {
    let response: Option<DeltaDiscoveryResponse> = delta.tell(served).unwrap();
    response.map(|response| {
        let names = response.resources.iter().map(|resource| resource.name.clone()).collect();
        (names, response.removed_resources)
    })
}

fn lists(names: &[&str], removed: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Some((texts(names), texts(removed)))
}

#[test]
fn delta_tells_only_what_the_client_does_not_have() {
    let mesh = Mesh::new();
    let (before, after) = (mesh.served(), mesh.served());
    let mut delta = Delta::default();
    delta.asked(subscribe(&["default", "ROOTCA"], &[])).unwrap();
    assert_eq!(told(&mut delta, &before), lists(&["ROOTCA", "default"], &[]));
    assert_eq!(told(&mut delta, &before), None);
    let nack = DeltaDiscoveryRequest {
        response_nonce: delta.nonce.clone(),
        error_detail: Some(rpc::Status { code: 13, message: "no".into() }),
        ..subscribe(&[], &[])
    };
    delta.asked(nack).unwrap();
    assert_eq!(told(&mut delta, &before), None, "a refusal brings nothing until something changes");
    assert_eq!(told(&mut delta, &after), lists(&["default"], &[]), "the roots are the same");
    delta.asked(subscribe(&["default"], &[])).unwrap();
    assert_eq!(told(&mut delta, &after), lists(&["default"], &[]), "subscribing anew is asking anew");
    delta.asked(subscribe(&[], &["default"])).unwrap();
    assert_eq!(told(&mut delta, &before), None);
}

#[test]
fn delta_says_once_what_is_not_there_and_tells_of_it_when_it_comes() {
    let mesh = Mesh::new();
    let mut alone = mesh.served();
    alone.bundles.x509 = mesh.ours.bundles();
    let together = mesh.served();
    let mut delta = Delta::default();
    delta.asked(subscribe(&["spiffe://other.mesh"], &[])).unwrap();
    assert_eq!(told(&mut delta, &alone), lists(&[], &["spiffe://other.mesh"]));
    assert_eq!(told(&mut delta, &alone), None);
    assert_eq!(told(&mut delta, &together), lists(&["spiffe://other.mesh"], &[]));
    assert_eq!(told(&mut delta, &alone), lists(&[], &["spiffe://other.mesh"]));
}

#[test]
fn delta_without_names_means_everything_and_follows_it() {
    let mesh = Mesh::new();
    let mut alone = mesh.served();
    alone.bundles.x509 = mesh.ours.bundles();
    for request in [subscribe(&[], &[]), subscribe(&["*"], &[])] {
        let mut delta = Delta::default();
        delta.asked(request).unwrap();
        assert_eq!(told(&mut delta, &alone), lists(&["spiffe://demo.signet", WEB], &[]));
        let mut together = alone.clone();
        together.bundles.x509 = mesh.served().bundles.x509;
        assert_eq!(told(&mut delta, &together), lists(&["spiffe://other.mesh"], &[]));
        assert_eq!(told(&mut delta, &alone), lists(&[], &["spiffe://other.mesh"]));
    }
}

#[test]
fn a_client_that_reconnects_is_told_only_what_changed_meanwhile() {
    let mesh = Mesh::new();
    let (before, after) = (mesh.served(), mesh.served());
    let mut delta = Delta::default();
    delta.asked(subscribe(&["default", "ROOTCA"], &[])).unwrap();
    let response = delta.tell(&before).unwrap().unwrap();
    let versions =
        response.resources.iter().map(|resource| (resource.name.clone(), resource.version.clone()));
    let again = DeltaDiscoveryRequest {
        initial_resource_versions: versions.collect(),
        ..subscribe(&["default", "ROOTCA"], &[])
    };
    let mut delta = Delta::default();
    delta.asked(again.clone()).unwrap();
    assert_eq!(told(&mut delta, &before), None);
    let mut delta = Delta::default();
    delta.asked(again).unwrap();
    assert_eq!(told(&mut delta, &after), lists(&["default"], &[]));
}
