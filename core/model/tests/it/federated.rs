//! Trust domains that are federated, and what may name them.

use std::path::Path;
use std::time::Duration;

use signet_identity::TrustDomain;
use signet_identity::testing::TestCa;
use signet_model::{EndpointProfile, InitialBundle, Options, Registry, RegistryErrors, parse_text};
use signet_token::Jwks;

const PARTNER: &str = "
apiVersion: signet.mesh/v1alpha1
kind: FederatedTrustDomain
metadata: {name: partner}
spec:
  trustDomain: partner.example
  url: https://bundle.partner.example/bundle
  profile:
    https_spiffe:
      endpointId: spiffe://partner.example/ns/signet-system/sa/signet-control-plane
      initialBundle: {file: /etc/signet/partner.json}
";

const WEB: &str = "
apiVersion: signet.mesh/v1alpha1
kind: FederatedTrustDomain
metadata: {name: other}
spec: {trustDomain: other.example, url: 'https://other.example:8443/b', profile: {https_web: {}}, refresh: 1m}
";

const CALLER: &str = "
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec: {ports: [{name: http, port: 80, protocol: http}]}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: partner-may}
spec:
  effect: permit
  target: {service: orders}
  from: {workloads: ['spiffe://partner.example/ns/shop/sa/web', 'spiffe://partner.example/ns/jobs/sa/*']}
";

const CALLED: &str = "
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: partners, name: stock}
spec:
  federatedIdentity: spiffe://partner.example/ns/shop/sa/stock
  ports: [{name: http, port: 80, protocol: http}]
  endpoints: [{address: 192.0.2.7, ports: {http: 15009}}]
";

fn parse(documents: &[&str]) -> Result<Registry, RegistryErrors> {
    let options =
        Options { trust_domain: Some(TrustDomain::parse("demo.signet").unwrap()), ..Options::default() };
    parse_text(Path::new("mesh.yaml"), &documents.join("---"), &options)
}

fn refused(documents: &[&str], field: &str, reason: &str) {
    let errors = parse(documents).expect_err("it was taken");
    let found = errors.iter().any(|error| error.field == field && error.reason.contains(reason));
    assert!(found, "expected {field} with `{reason}`, got:\n{errors}");
}

#[test]
fn both_profiles_are_read_and_written_back_the_same() {
    let registry = parse(&[PARTNER, WEB]).unwrap();
    let [other, partner] = registry.federated().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(partner.spec.trust_domain.as_str(), "partner.example");
    assert_eq!(other.spec.refresh.unwrap().seconds(), 60);
    assert!(matches!(&other.spec.profile, EndpointProfile::Web(web) if web.ca_file.is_none()));
    let EndpointProfile::Spiffe(profile) = &partner.spec.profile else { panic!() };
    assert!(
        matches!(&profile.initial_bundle, InitialBundle::File(file) if file.as_str() == "/etc/signet/partner.json")
    );
    for object in [partner, other] {
        let read = signet_model::FederatedTrustDomain::from_json(&object.canonical_json()).unwrap();
        assert_eq!(&read, object);
    }
}

#[test]
fn an_initial_bundle_that_stands_in_the_registry_is_read_by_the_standards_rules() {
    let with =
        |text: &str| PARTNER.replace("{file: /etc/signet/partner.json}", &format!("{{inline: '{text}'}}"));
    let of = |domain: &str| {
        signet_bundle::write(&TestCa::new(domain).bundle(), &Jwks::default(), 1, Duration::from_secs(300))
    };
    parse(&[&with(&of("partner.example"))]).unwrap();
    let field = "spec.profile.https_spiffe.initialBundle.inline";
    refused(&[&with(&of("other.example"))], field, "expected the bundle document of `partner.example`");
    refused(&[&with("{}")], field, "no array named");
    refused(&[&with(r#"{"keys": []}"#)], field, "at least one x509-svid key");
}

#[test]
fn what_cannot_be_federated_is_refused() {
    refused(&[&WEB.replace("other.example,", "demo.signet,")], "spec.trustDomain", "than the mesh's own");
    let again = WEB.replace("name: other", "name: again");
    refused(&[WEB, &again], "spec.trustDomain", "which is also `again`'s");
    refused(&[&WEB.replace("https://", "http://")], "spec.url", "https://");
    refused(&[&WEB.replace("https://", "https://user@")], "spec.url", "without user");
    refused(&[&WEB.replace("1m", "1s")], "spec.refresh", "5s to 24h");
    refused(&[&WEB.replace("{https_web: {}}", "{https_web: {}, https_spiffe: {}}")], "spec.profile", "");
    refused(&[&WEB.replace("{https_web: {}}", "{https: {}}")], "spec.profile", "unknown variant");
    refused(
        &[&WEB.replace("{https_web: {}}", "{https_web: {caFile: ca.pem}}")],
        "spec.profile.https_web.caFile",
        "absolute",
    );
    let foreign = PARTNER.replace("spiffe://partner.example/", "spiffe://other.example/");
    refused(&[&foreign], "spec.profile.https_spiffe.endpointId", "of a workload of `partner.example`");
    let root = PARTNER.replace(
        "spiffe://partner.example/ns/signet-system/sa/signet-control-plane",
        "spiffe://partner.example",
    );
    refused(&[&root], "spec.profile.https_spiffe.endpointId", "of a workload");
}

#[test]
fn only_federated_trust_domains_are_named_by_policies_and_services() {
    parse(&[PARTNER, CALLER, CALLED]).unwrap();
    refused(&[CALLER], "spec.from.workloads[0]", "no FederatedTrustDomain of `partner.example`");
    refused(&[CALLED], "spec.federatedIdentity", "no FederatedTrustDomain of `partner.example`");
    let own = CALLER.replace("partner.example/ns/shop", "demo.signet/ns/shop");
    refused(&[PARTNER, &own], "spec.from.workloads[0]", "for the mesh's own trust domain");
}

#[test]
fn a_users_own_token_comes_without_a_hop_proof() {
    let both = "
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec:
  ports: [{name: http, port: 80}]
  userContext: original
  requireHopProof: true
";
    refused(&[both], "spec.requireHopProof", "beside `userContext: original`");
    parse(&[&both.replace("  userContext: original\n", "")]).unwrap();
}

#[test]
fn a_federated_service_is_answered_by_nobody_of_this_mesh() {
    let registry = parse(&[PARTNER, CALLED]).unwrap();
    assert!(registry.services().next().unwrap().identities().is_empty());
    let with = |more: &str| CALLED.replace("spec:\n", &format!("spec:\n  {more}\n"));
    refused(
        &[PARTNER, &with("identities: [ns/partners/sa/stock]")],
        "spec.identities",
        "beside federatedIdentity",
    );
    refused(&[PARTNER, &with("userContext: original")], "spec.userContext", "stay inside the mesh");
    let named = CALLED.replace("{http: 15009}", "{http: 15009}, identity: ns/partners/sa/stock");
    refused(&[PARTNER, &named], "spec.endpoints[0].identity", "leave it out");
    let gateway = "
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: edge, name: gw}
spec: {class: gateway}
---
apiVersion: signet.mesh/v1alpha1
kind: Gateway
metadata: {namespace: edge, name: gw}
spec:
  identity: ns/edge/sa/gw
  routes: [{name: all, hosts: ['*'], pathPrefix: /, service: stock.partners, port: http, auth: {anonymous: true}}]
";
    refused(&[PARTNER, CALLED, gateway], "spec.routes[0].service", "which is federated");
    let route = "routes: [{name: all, hosts: ['*'], pathPrefix: /, service: stock.partners, port: http, auth: {anonymous: true}}]";
    let passing = gateway.replace(route, "eastWest: {services: [stock.partners]}");
    refused(&[PARTNER, CALLED, &passing], "spec.eastWest.services[0]", "which is federated");
}
