//! OpenSSL and GnuTLS, two verifiers that others wrote, agree on every kind of certificate that the authority makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustls_pki_types::pem::PemObject as _;
use signet_tests::mesh::{Mesh, Sidecar};
use signet_tests::peers::{run, said, tool};
use signet_tests::svid::{Svid, pem};

use crate::workload::svids;

/// A chain to verify: leaf first, then what is between it and the root.
struct Kind {
    name: &'static str,
    chain: Vec<Vec<u8>>,
}

fn split(concatenated: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut all) = (concatenated, Vec::new());
    while let [0x30, 0x82, high, low, ..] = *rest {
        let (one, others) = rest.split_at(4 + usize::from(high) * 256 + usize::from(low));
        all.push(one.to_vec());
        rest = others;
    }
    all
}

/// The chain that a TLS server presents.
async fn presented(openssl: &Path, address: &str, mesh: &Mesh) -> Vec<Vec<u8>> {
    let mut command = Command::new("sh");
    let file = mesh.path("presented.pem");
    command.arg("-c").arg(format!(
        "{} s_client -showcerts -connect {address} </dev/null 2>/dev/null >{}",
        openssl.display(),
        file.display()
    ));
    run(command).await;
    let text = fs::read_to_string(file).unwrap();
    rustls_pki_types::CertificateDer::pem_slice_iter(text.as_bytes())
        .map(|der| der.expect("a certificate").to_vec())
        .collect()
}

fn write(mesh: &Mesh, name: &str, chain: &[&[u8]]) -> PathBuf {
    let path = mesh.path(name);
    fs::write(&path, chain.iter().map(|der| pem("CERTIFICATE", der)).collect::<String>()).unwrap();
    path
}

#[tokio::test]
async fn openssl_and_gnutls_verify_every_kind_of_certificate() {
    let (Some(openssl), Some(certtool)) = (tool("openssl"), tool("certtool")) else { return };
    let mesh = Mesh::builder()
        .registry("kind: Workload\nmetadata: {namespace: shop, name: plain}\nspec: {class: sidecar}\n")
        .registry("kind: Workload\nmetadata: {namespace: edge, name: gw}\nspec: {class: gateway}\n")
        .sidecar(Sidecar::new("app.shop", "").with_workload_api())
        .start()
        .await;
    let sidecar = Svid::join(&mesh, "spiffe://test.signet/ns/shop/sa/plain", "sidecar").await;
    let gateway = Svid::join(&mesh, "spiffe://test.signet/ns/edge/sa/gw", "gateway").await;
    let app = svids(&mesh.workload_socket("app")).await.message().await.unwrap().unwrap();
    let root = sidecar.root().to_vec();
    assert_eq!(app.svids[0].bundle, root);
    let address = mesh.addresses("cp")["bootstrap"].as_str().unwrap().to_owned();
    let ders = |svid: &Svid| svid.issued.chain_der.clone();
    let kinds = [
        Kind { name: "sidecar", chain: ders(&sidecar) },
        Kind { name: "gateway", chain: ders(&gateway) },
        Kind { name: "workload", chain: split(&app.svids[0].x509_svid) },
        Kind { name: "control-plane", chain: presented(&openssl, &address, &mesh).await },
        Kind { name: "issuer", chain: vec![ders(&sidecar)[1].clone()] },
        Kind { name: "root", chain: vec![root.clone()] },
    ];
    let anchor = write(&mesh, "root.crt", &[&root]);
    for Kind { name, chain } in &kinds {
        let whole: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
        let leaf = write(&mesh, &format!("{name}.leaf"), whole.get(..1).expect("a certificate"));
        let full = write(&mesh, &format!("{name}.chain"), &whole);
        let usages = if whole.len() > 1 { &["sslserver", "sslclient"][..] } else { &["any"] };
        for usage in usages {
            let mut command = Command::new(&openssl);
            command.args(["verify", "-x509_strict", "-purpose", usage, "-CAfile"]).arg(&anchor);
            command.arg("-untrusted").arg(&full).arg(&leaf);
            let output = run(command).await;
            assert!(output.status.success(), "openssl on {name} as {usage}: {}", said(&output));
        }
        let mut command = Command::new(&certtool);
        command.args(["--verify", "--load-ca-certificate"]).arg(&anchor).arg("--infile").arg(&full);
        let output = run(command).await;
        assert!(output.status.success(), "certtool on {name}: {}", said(&output));
        assert!(said(&output).contains("Verified."), "certtool on {name}: {}", said(&output));
    }
}
