//! The examples of the documentation are read by the real parser.

use std::path::Path;

use signet_model::{Options, parse_text};

#[test]
fn every_example_of_the_registry_page_is_a_valid_registry() {
    let page = include_str!("../../../../docs/registry.md");
    let mut examples = 0;
    let mut kinds = Vec::new();
    for block in page.split("```yaml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        parse_text(Path::new("docs/registry.md"), text, &Options::default())
            .unwrap_or_else(|e| panic!("{e}\n{text}"));
        kinds.extend(text.lines().filter_map(|line| line.strip_prefix("kind: ")).map(str::to_owned));
        examples += 1;
    }
    assert!(examples >= 6);
    for kind in [
        "Mesh",
        "Workload",
        "Service",
        "ExternalService",
        "Issuer",
        "FederatedTrustDomain",
        "Gateway",
        "MeshPolicy",
        "GuardRail",
        "Registration",
        "HTTPRoute",
        "GRPCRoute",
        "TrafficPolicy",
        "ReferenceGrant",
        "TokenExchange",
    ] {
        assert!(kinds.iter().any(|k| k == kind), "the page has no example of {kind}");
    }
}

#[test]
fn every_example_of_the_federation_page_is_a_valid_registry() {
    let page = include_str!("../../../../docs/federation.md");
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 3);
    for text in examples {
        parse_text(Path::new("docs/federation.md"), text, &Options::default())
            .unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
}
