//! Services of another cluster, and what a gateway lets other clusters reach.

use std::path::Path;

use signet_identity::TrustDomain;
use signet_model::{ObjectName, Options, Registry, RegistryErrors, parse_text};

const CALLED: &str = "
kind: Workload
metadata: {namespace: shop, name: stock}
spec: {class: sidecar}
---
kind: Workload
metadata: {namespace: shop, name: old-stock}
spec: {class: sidecar}
---
kind: Service
metadata: {namespace: shop, name: stock-west}
spec:
  identities: [ns/shop/sa/stock, ns/shop/sa/old-stock]
  ports: [{name: http, port: 80, protocol: http}, {name: db, port: 5432, protocol: tcp}]
  endpoints:
  - {address: 192.0.2.7, ports: {http: 15443, db: 15443}, identity: ns/shop/sa/stock, throughGateway: {service: stock.shop}}
  - {address: 192.0.2.7, ports: {http: 15443, db: 15443}, identity: ns/shop/sa/old-stock, throughGateway: {service: stock.shop}}
---
kind: Service
metadata: {namespace: shop, name: stock}
spec:
  ports: [{name: http, port: 80, protocol: http}]
  endpoints: [{address: 10.1.0.5, ports: {http: 15006}}]
";

const GATEWAY: &str = "
kind: Workload
metadata: {namespace: edge, name: west}
spec: {class: gateway}
---
kind: Gateway
metadata: {namespace: edge, name: west}
spec:
  identity: ns/edge/sa/west
  eastWest: {services: [stock.shop]}
";

fn parse(documents: &str) -> Result<Registry, RegistryErrors> {
    let options =
        Options { trust_domain: Some(TrustDomain::parse("demo.signet").unwrap()), ..Options::default() };
    let documents = documents.replace("kind: ", "apiVersion: signet.mesh/v1alpha1\nkind: ");
    parse_text(Path::new("mesh.yaml"), &documents, &options)
}

fn all() -> String {
    [CALLED, GATEWAY].join("---")
}

fn name(text: &str) -> ObjectName {
    text.parse().unwrap()
}

#[test]
fn many_services_and_identities_are_behind_one_gateways_address_and_nobody_means_them_by_it() {
    let registry = parse(&all()).unwrap();
    let service = registry.service(&name("stock-west.shop")).unwrap();
    assert!(service.spec.endpoints.iter().all(|it| service.behind(it) == Some(&name("stock.shop"))));
    assert!(service.is_elsewhere());
    assert_eq!(service.dialled_at().count(), 0);
    let here = registry.service(&name("stock.shop")).unwrap();
    assert_eq!((here.dialled_at().count(), here.is_elsewhere()), (1, false));
    assert!(here.behind(&here.spec.endpoints[0]).is_none());
    let gateway = registry.gateways().next().unwrap();
    assert!(gateway.spec.routes.is_empty());
    assert_eq!(gateway.spec.east_west.as_ref().unwrap().services, [name("stock.shop")]);

    // What is not said is the service's own name; it travels as it was written.
    let own = all().replace("throughGateway: {service: stock.shop}", "throughGateway: {}");
    let registry = parse(&own).unwrap();
    let service = registry.service(&name("stock-west.shop")).unwrap();
    assert_eq!(service.behind(&service.spec.endpoints[0]), Some(&name("stock-west.shop")));
    assert!(service.canonical_json().contains(r#""throughGateway":{}"#));
    // Another service at the same gateway, dialled by the same number.
    let other = "---\nkind: Workload\nmetadata: {namespace: shop, name: prices}\nspec: {class: sidecar}\n---\n\
        kind: Service\nmetadata: {namespace: shop, name: prices}\nspec: {ports: [{name: http, port: 80, protocol: http}], \
        endpoints: [{address: 192.0.2.7, ports: {http: 15443}, throughGateway: {}}]}\n";
    parse(&(all() + other)).unwrap();
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let long = format!("{}.{}", "a".repeat(63), "b".repeat(63));
    let fits = "c".repeat(179 - 126);
    let longer = "c".repeat(180 - 126);
    let port =
        |name: &str| all().replace("service: stock.shop}", &format!("service: {long}}}")).replace("db", name);
    parse(&port(&fits)).unwrap();
    let twice = "  - {address: 192.0.2.7, ports: {http: 15443}, identity: ns/shop/sa/stock, throughGateway: {service: stock.shop}}\n---";
    let direct = "  - {address: 192.0.2.7, ports: {http: 15443}, identity: ns/shop/sa/stock}\n---";
    let table = [
        (port(&longer), "spec.endpoints[0].throughGateway", "179 characters"),
        (
            all().replacen("{service: stock.shop}", "{service: st.ock.shop}", 1),
            "spec.endpoints[0].throughGateway.service",
            "without dots",
        ),
        (
            all().replacen("{service: stock.shop}", "{service: stock}", 1),
            "spec.endpoints[0].throughGateway.service",
            "name.namespace",
        ),
        (
            all().replacen("{service: stock.shop}", "{to: stock.shop}", 1),
            "spec.endpoints[0].throughGateway.to",
            "unknown field",
        ),
        (
            all().replacen(
                "---\nkind: Service\nmetadata: {namespace: shop, name: stock}",
                &format!("{twice}\nkind: Service\nmetadata: {{namespace: shop, name: stock}}"),
                1,
            ),
            "spec.endpoints[2].ports.http",
            "15443 twice",
        ),
        (
            all().replacen(
                "---\nkind: Service\nmetadata: {namespace: shop, name: stock}",
                &format!("{direct}\nkind: Service\nmetadata: {{namespace: shop, name: stock}}"),
                1,
            ),
            "spec.endpoints[2].ports.http",
            "15443 twice",
        ),
        (all().replace("  eastWest: {services: [stock.shop]}\n", ""), "spec.routes", "got none of them"),
        (all().replace("[stock.shop]", "[]"), "spec.eastWest.services", "at least one item"),
        (all().replace("[stock.shop]", "[stock.shop, stock.shop]"), "spec.eastWest.services[1]", "twice"),
        (all().replace("[stock.shop]", "[stok.shop]"), "spec.eastWest.services[0]", "got `stok.shop`"),
        (
            all().replace("[stock.shop]", "[stock-west.shop]"),
            "spec.eastWest.services[0]",
            "behind a gateway itself",
        ),
    ];
    for (documents, field, reason) in table {
        let errors = parse(&documents).expect_err(&format!("{field} {reason}"));
        let found = errors.iter().any(|error| error.field == field && error.reason.contains(reason));
        assert!(found, "should fail at {field} with `{reason}`, not:\n{errors}");
    }
}
