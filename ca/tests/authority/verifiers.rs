//! Every kind of certificate, verified by programs that share no code with this one or with each other: OpenSSL, GnuTLS
//! (`certtool`), and the verifier of PyPI's `cryptography`. And its extensions, all of them, against a list.

use std::path::{Path, PathBuf};
use std::process::Command;

use signet_ca::{KeyKind, SystemClock};
use x509_parser::parse_x509_certificate;

use crate::*;

/// A program of another's, or a note that the test was left out.
fn tool(name: &str, path: &Path) -> Option<PathBuf> {
    let found = Command::new(path).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        let text = format!("left out: {name} is missing: run tests/setup/install.sh");
        assert!(std::env::var_os("SIGNET_REQUIRE_ALL").is_none(), "{text}");
        eprintln!("{text}");
    }
    found.then(|| path.to_path_buf())
}

/// Standard output and error; the program must have been content.
#[track_caller]
fn content(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

struct Kind {
    name: &'static str,
    id: String,
    /// Leaf, then issuer.
    chain: Vec<Vec<u8>>,
    dns_name: Option<&'static str>,
}

/// An authority on the machine's clock, since not every verifier can be told another time, and a leaf of each kind.
async fn kinds(dir: &Path, algorithm: KeyKind) -> (Authority, Vec<Kind>) {
    let mut config = config(dir);
    config.keys.algorithm = algorithm;
    let authority = Authority::open(config, Arc::new(SystemClock)).await.unwrap();
    let mut kinds = Vec::new();
    for (name, class) in [("sidecar", PeerClass::Sidecar), ("gateway", PeerClass::Gateway)] {
        let registrar: SharedRegistrar =
            Arc::new(|_: &SpiffeId, _: PeerClass| Some(vec!["orders.shop.signet.internal".to_owned()]));
        let token = authority.create_join_token(id(name), class, None, "uid:0").await.unwrap();
        let issued = authority
            .attest_join_token(token.text.expose(), &csr(&key()), "192.0.2.1", registrar)
            .await
            .unwrap();
        let chain = issued.chain.iter().map(|der| der.to_vec()).collect();
        let dns_name = Some("orders.shop.signet.internal");
        kinds.push(Kind { name, id: id(name).to_string(), chain, dns_name });
    }
    let (_, own) = authority.self_issue(vec!["signet.example.com".into()]).await.unwrap();
    kinds.push(Kind {
        name: "control-plane",
        id: authority.control_plane_id().to_string(),
        chain: own.chain.iter().map(|der| der.to_vec()).collect(),
        dns_name: Some("signet.example.com"),
    });
    (authority, kinds)
}

#[tokio::test]
async fn three_independent_verifiers_accept_every_kind_of_certificate() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let certtool = tool("certtool (gnutls-bin)", Path::new("certtool"));
    let python = tool("python with cryptography", &repository.join(".signet/clients/bin/python"));
    for algorithm in [KeyKind::P256, KeyKind::P384] {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let (authority, kinds) = kinds(at, algorithm).await;
        std::fs::write(at.join("root.pem"), authority.root_pem()).unwrap();
        openssl(at, &["verify", "-x509_strict", "-CAfile", "root.pem", "root.pem"]);
        for kind in &kinds {
            let pems: Vec<String> = kind.chain.iter().map(|der| pem(der)).collect();
            std::fs::write(at.join("leaf.pem"), &pems[0]).unwrap();
            std::fs::write(at.join("issuer.pem"), &pems[1]).unwrap();
            std::fs::write(at.join("chain.pem"), pems.concat()).unwrap();
            std::fs::write(at.join("all.pem"), pems.concat() + &authority.root_pem()).unwrap();
            openssl(at, &["verify", "-x509_strict", "-CAfile", "root.pem", "issuer.pem"]);
            for purpose in ["sslserver", "sslclient"] {
                let args = ["verify", "-x509_strict", "-purpose", purpose];
                let files = ["-CAfile", "root.pem", "-untrusted", "issuer.pem", "leaf.pem"];
                openssl(at, &[args.as_slice(), files.as_slice()].concat());
            }
            if let Some(certtool) = &certtool {
                let mut command = Command::new(certtool);
                let text = content(command.current_dir(at).args(["--verify-chain", "--infile", "all.pem"]));
                assert!(text.contains("Chain verification output: Verified."), "{}: {text}", kind.name);
                let mut command = Command::new(certtool);
                command.args(["--verify", "--load-ca-certificate", "root.pem", "--infile", "chain.pem"]);
                let text = content(command.current_dir(at));
                assert!(text.contains("Verified. The certificate is trusted."), "{}: {text}", kind.name);
            }
            if let Some(python) = &python {
                let mut command = Command::new(python);
                command.arg(repository.join("tests/interop/verify_chain.py"));
                let text =
                    content(command.current_dir(at).args(["root.pem", "chain.pem"]).args(kind.dns_name));
                assert!(text.contains("client ") && text.contains("server 3"), "{}: {text}", kind.name);
                assert!(text.contains(&format!("uri {}\n", kind.id)), "{}: {text}", kind.name);
            }
        }
    }
}

#[tokio::test]
async fn every_kind_has_exactly_the_extensions_that_it_should_have() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, kinds) = kinds(dir.path(), KeyKind::P256).await;
    let found = |der: &[u8]| {
        let certificate = parse_x509_certificate(der).unwrap().1;
        let mut found: Vec<(String, bool)> =
            certificate.extensions().iter().map(|e| (e.oid.to_id_string(), e.critical)).collect();
        found.sort();
        found
    };
    let expected = |list: &[(&str, bool)]| {
        let mut list: Vec<(String, bool)> = list.iter().map(|(oid, c)| ((*oid).to_owned(), *c)).collect();
        list.sort();
        list
    };
    // Subject key id, key usage, names, basic constraints; below the root also the authority's key id.
    let authority_has =
        [("2.5.29.14", false), ("2.5.29.15", true), ("2.5.29.17", false), ("2.5.29.19", true)];
    assert_eq!(found(&authority.root()), expected(&authority_has));
    let issuer_has = [authority_has.as_slice(), &[("2.5.29.35", false)]].concat();
    // A leaf's subject is empty, so its names are critical; it has usages and its class.
    let leaf_has = [
        ("2.5.29.14", false),
        ("2.5.29.15", true),
        ("2.5.29.17", true),
        ("2.5.29.19", true),
        ("2.5.29.32", false),
        ("2.5.29.35", false),
        ("2.5.29.37", false),
    ];
    for kind in &kinds {
        assert_eq!(found(&kind.chain[0]), expected(&leaf_has), "{}", kind.name);
        assert_eq!(found(&kind.chain[1]), expected(&issuer_has), "{}", kind.name);
    }
}
