//! Places outside the mesh: what may be written, and who is let.

use std::path::Path;

use signet_model::{
    DefaultAction, ExternalProtocol, ExternalService, Network, Options, Registry, RegistryErrors, WorkloadId,
    parse_text,
};

const GATEWAY: &str = r#"
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: infra, name: egress}
spec: {class: gateway}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: infra, name: egress}
spec: {ports: [{name: mesh, port: 15008, protocol: tcp}], endpoints: [{address: 192.0.2.1, ports: {mesh: 15008}}]}
---
apiVersion: signet.mesh/v1alpha1
kind: Gateway
metadata: {namespace: infra, name: egress}
spec: {identity: ns/infra/sa/egress, egress: {}}
---
apiVersion: signet.mesh/v1alpha1
kind: Workload
metadata: {namespace: shop, name: orders}
spec: {class: sidecar}
---
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec: {ports: [{name: http, port: 80}]}
"#;

fn registry(documents: &str) -> Result<Registry, RegistryErrors> {
    parse_text(Path::new("r.yaml"), &format!("{GATEWAY}---\n{documents}"), &Options::default())
}

fn external(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: signet.mesh/v1alpha1\nkind: ExternalService\nmetadata: {{namespace: shop, name: {name}}}\nspec: {spec}\n"
    )
}

const PORTS: &str = "ports: [{name: https, port: 443}]";

#[test]
fn a_place_is_read_and_written_back_the_same() {
    let text = external(
        "pay",
        "{hosts: [api.example.com, '*.cdn.example.com'], networks: [10.0.0.0/8, 'fd00::/8'], from: {workloads: [ns/shop/sa/orders, ns/web/sa/*]}, \
         ports: [{name: https, port: 443}, {name: http, port: 80, targetPort: 443, tls: {serverName: api.example.com, \
         caCertificates: \"-----BEGIN CERTIFICATE-----\\n\"}, requestTimeout: 5s}, {name: grpc-main, port: 444}], \
         through: {service: egress.infra, port: mesh}}",
    );
    let registry = registry(&text).unwrap();
    let place = registry.external_services().next().unwrap();
    let speaks: Vec<_> = place.spec.ports.iter().map(|port| port.protocol).collect();
    assert_eq!(speaks, [ExternalProtocol::Tls, ExternalProtocol::Http1, ExternalProtocol::Grpc]);
    let json = place.canonical_json();
    assert_eq!(ExternalService::from_json(&json).unwrap(), *place);
    assert!(json.contains(r#""networks":["10.0.0.0/8","fd00::/8"]"#), "{json}");
    let lets = |id: &str| place.lets(&id.parse::<WorkloadId>().unwrap());
    assert!(lets("ns/shop/sa/orders") && lets("ns/web/sa/any") && !lets("ns/shop/sa/other"));
}

#[test]
fn without_from_it_is_its_own_namespaces_and_everyone_is_said_in_so_many_words() {
    let lets = |from: &str, id: &str| {
        let text = external("pay", &format!("{{hosts: [api.example.com], {PORTS}{from}}}"));
        let registry = registry(&text).unwrap();
        registry.external_services().next().unwrap().lets(&id.parse::<WorkloadId>().unwrap())
    };
    assert!(lets("", "ns/shop/sa/any") && !lets("", "ns/web/sa/any"));
    let everyone = ", from: {everyone: true}";
    assert!(lets(everyone, "ns/shop/sa/any") && lets(everyone, "ns/web/sa/any"));
}

#[test]
fn what_would_open_more_than_it_says_is_refused_with_the_field() {
    for (spec, field, reason) in [
        ("{ports: [{name: tcp, port: 25}]}", "spec", "expected hosts, addresses or networks"),
        ("{hosts: ['*'], ports: [{name: http, port: 80}]}", "spec.hosts[0]", "what may be called is listed"),
        (
            "{hosts: [10.0.0.1], ports: [{name: http, port: 80}]}",
            "spec.hosts[0]",
            "belongs under spec.addresses",
        ),
        (
            "{hosts: [orders.shop.signet.internal], ports: [{name: http, port: 80}]}",
            "spec.hosts[0]",
            "outside the mesh",
        ),
        (
            "{hosts: ['*.example.com'], addresses: [192.0.2.7], ports: [{name: http, port: 80}]}",
            "spec.hosts[0]",
            "no pattern",
        ),
        (
            "{hosts: [a.example.com, a.example.com], ports: [{name: http, port: 80}]}",
            "spec.hosts[1]",
            "stands twice",
        ),
        ("{networks: [10.0.0.1/8], ports: [{name: tcp, port: 25}]}", "spec.networks[0]", "10.0.0.0/8"),
        (
            "{networks: [10.0.0.0/33], ports: [{name: tcp, port: 25}]}",
            "spec.networks[0]",
            "addresses such as",
        ),
        (
            "{addresses: [192.0.2.7], networks: [10.0.0.0/8], ports: [{name: tcp, port: 25}]}",
            "spec.networks",
            "none beside",
        ),
        (
            "{addresses: [192.0.2.7], ports: [{name: http, port: 80}]}",
            "spec.ports[0].protocol",
            "there are no hosts",
        ),
        (
            "{hosts: ['*.example.com'], ports: [{name: smtp, port: 25}]}",
            "spec.ports[0].protocol",
            "bytes say no name",
        ),
        (
            "{hosts: [a.example.com], ports: [{name: https, port: 443, tls: {}}]}",
            "spec.ports[0].tls",
            "the app speaks TLS itself",
        ),
        (
            "{hosts: [a.example.com], ports: [{name: http, port: 80, tls: {caCertificates: x}}]}",
            "spec.ports[0].tls.caCertificates",
            "PEM",
        ),
        (
            "{hosts: [a.example.com], ports: [{name: http, port: 80, tls: {serverName: '*.example.com'}}]}",
            "spec.ports[0].tls.serverName",
            "got a pattern",
        ),
        (
            "{addresses: [192.0.2.7], ports: [{name: tcp, port: 25, tls: {}}]}",
            "spec.ports[0].tls.serverName",
            "got nothing",
        ),
        (
            "{hosts: [a.example.com], ports: [{name: tcp, port: 25, requestTimeout: 1s}]}",
            "spec.ports[0].requestTimeout",
            "idleTimeout",
        ),
        (
            "{hosts: [a.example.com], ports: [{name: a, port: 25}, {name: b, port: 25}]}",
            "spec.ports[1].port",
            "once",
        ),
        ("{hosts: [a.example.com], ports: [{name: a, port: 25}], from: {}}", "spec.from", "`everyone: true`"),
        (
            "{hosts: [a.example.com], ports: [{name: a, port: 25}], from: {everyone: true, workloads: [ns/shop/sa/a]}}",
            "spec.from",
            "not both",
        ),
        (
            "{hosts: [a.example.com], ports: [{name: a, port: 25}], from: {workloads: ['spiffe://b.example/ns/x/sa/y']}}",
            "spec.from.workloads[0]",
            "of this mesh",
        ),
        (
            "{hosts: [a.example.com], ports: [{name: a, port: 25}], through: {service: none.infra, port: mesh}}",
            "spec.through.service",
            "which is none",
        ),
        (
            "{hosts: [a.example.com], ports: [{name: a, port: 25}], through: {service: egress.infra, port: other}}",
            "spec.through.port",
            "`other`",
        ),
        (
            "{hosts: [a.example.com], ports: [{name: a, port: 25}], through: {service: orders.shop, port: http}}",
            "spec.through.service",
            "only gateways with `egress`",
        ),
        (
            "{hosts: [a.example.com, b.example.com], ports: [{name: a, port: 25}], through: {service: egress.infra, port: mesh}}",
            "spec.ports[0].protocol",
            "which place",
        ),
        ("{hosts: [a.example.com], ports: [{name: a, port: 25}], via: egress}", "spec", "via"),
    ] {
        let errors = registry(&external("pay", spec)).expect_err(spec).0;
        let found =
            errors.iter().find(|error| error.field.starts_with(field) && error.reason.contains(reason));
        assert!(found.is_some(), "{spec}: expected {field}: {reason}, got {errors:#?}");
    }
}

#[test]
fn names_are_a_places_own() {
    let errors =
        registry(&external("orders", &format!("{{hosts: [a.example.com], {PORTS}}}"))).unwrap_err().0;
    assert!(errors[0].reason.contains("no Service has"), "{errors:?}");
    let twice = [
        external("one", &format!("{{hosts: [a.example.com], {PORTS}}}")),
        external("two", &format!("{{hosts: [b.example.com, a.example.com], {PORTS}}}")),
    ];
    let errors = registry(&twice.join("---\n")).unwrap_err().0;
    assert_eq!((errors.len(), &*errors[0].field), (1, "spec.hosts[1]"));
    // Another namespace has its own.
    let elsewhere = twice[1].replace("namespace: shop", "namespace: web");
    assert!(registry(&[&twice[0], "---\n", &elsewhere].concat()).is_ok());
}

#[test]
fn the_meshs_egress_is_as_its_default_action_unless_it_says_otherwise() {
    for (spec, wanted) in [
        ("{}", DefaultAction::Deny),
        ("{defaultAction: allow}", DefaultAction::Allow),
        ("{defaultAction: allow, egress: deny}", DefaultAction::Deny),
        ("{egress: allow}", DefaultAction::Allow),
    ] {
        let text = format!(
            "apiVersion: signet.mesh/v1alpha1\nkind: Mesh\nmetadata: {{name: default}}\nspec: {spec}\n"
        );
        assert_eq!(registry(&text).unwrap().mesh().spec.egress(), wanted, "{spec}");
    }
}

#[test]
fn a_range_holds_its_addresses_and_no_others() {
    let holds = |range: &str, ip: &str| range.parse::<Network>().unwrap().contains(ip.parse().unwrap());
    assert!(holds("10.1.0.0/16", "10.1.255.255") && !holds("10.1.0.0/16", "10.2.0.0"));
    assert!(holds("0.0.0.0/0", "203.0.113.9") && !holds("0.0.0.0/0", "::1"));
    assert!(
        holds("fd00::/8", "fdff::1") && holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.8")
    );
    for wrong in
        ["10.1.0.0/", "10.1.0.0/+8", "10.1.0.0/016x", "10.1.0.1/16", "example.com/8", "fd00::/129", ""]
    {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
}
