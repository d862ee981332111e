//! An Istio CA client made from the public contract, and openssl as the judge of what it got.

use std::process::Command;

use signet_tests::apiserver::{ApiServer, PodOf};
use signet_tests::mesh::Mesh;
use signet_tests::peers::{python, root, run, said, tool};

#[tokio::test]
async fn a_client_generated_from_istios_contract_gets_a_certificate_that_openssl_accepts() {
    let (Some(python), Some(openssl)) = (python(), tool("openssl")) else { return };
    let api = ApiServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let lines = format!("{}istio: {{listen: '127.0.0.1:0'}}\n", api.configuration(folder.path(), ""));
    let mesh = Mesh::builder()
        .control_plane(&lines)
        .registry("kind: Workload\nmetadata: {namespace: shop, name: web}\nspec: {class: sidecar}\n")
        .start()
        .await;
    let web = PodOf::new("web.shop");
    api.run(&web);
    std::fs::write(path("token"), api.token(&web, "istio-ca")).unwrap();
    // Names in the request are not read.
    let mut request = Command::new(&openssl);
    request
        .args([
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/O=x",
        ])
        .args(["-addext", "subjectAltName=URI:spiffe://test.signet/ns/shop/sa/orders"])
        .args(["-addext", "basicConstraints=critical,CA:TRUE"])
        .arg("-keyout")
        .arg(path("key.pem"))
        .arg("-out")
        .arg(path("csr.pem"));
    let output = run(request).await;
    assert!(output.status.success(), "{}", said(&output));

    let address = mesh.addresses("cp")["istio"].as_str().unwrap().to_owned();
    let mut client = Command::new(python);
    client.arg(root().join("tests/interop/istio_client.py")).arg(&address).arg(mesh.path("cp/root.pem"));
    client.args([path("token"), path("csr.pem"), folder.path().to_owned(), root().join("proto")]);
    let output = run(client).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("ok"));

    let mut verify = Command::new(&openssl);
    verify.args(["verify", "-x509_strict", "-CAfile"]).arg(path("roots.pem")).arg("-untrusted");
    verify.arg(path("intermediates.pem")).arg(path("leaf.pem"));
    let output = run(verify).await;
    assert!(output.status.success(), "{}", said(&output));
    let mut show = Command::new(&openssl);
    show.args(["x509", "-noout", "-text", "-in"]).arg(path("leaf.pem"));
    let text = said(&run(show).await);
    assert!(text.contains("URI:spiffe://test.signet/ns/shop/sa/web"), "{text}");
    for absent in ["sa/orders", "CA:TRUE", "DNS:"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    assert!(!mesh.logs().contains(&api.token(&web, "istio-ca")[..60]), "no token is logged");
}
