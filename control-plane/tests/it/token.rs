//! A control plane whose root and issuer lie in a PKCS #11 token.

use std::process::Command;

use rcgen::KeyPair;

use crate::harness::{Plane, WEB, csr};
use crate::softhsm::{PIN, TOKEN, module, stages};

#[test]
fn a_control_plane_whose_keys_never_leave_a_token_issues_and_openssl_verifies_the_chain() {
    stages(1, |_, folder| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let keys = format!(
                "keys: {{algorithm: p384, pkcs11: {{module: {}, tokenLabel: {TOKEN}, pinFile: {}/pin}}}}\n",
                module().unwrap().display(),
                folder.display()
            );
            let mut plane = Plane::start_configured(&keys).await;
            let member = plane.join(WEB, "sidecar").await;
            let renewed = member.renew(csr(&KeyPair::generate().unwrap())).await.unwrap();
            let dir = plane.dir.path();
            for (n, svid) in [&member.svid, &renewed].into_iter().enumerate() {
                for (name, der) in [("leaf", &svid.chain_der[0]), ("issuer", &svid.chain_der[1])] {
                    std::fs::write(dir.join(format!("{name}-{n}.der")), der).unwrap();
                }
                let output = Command::new("openssl")
                    .args(["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "data/root.pem"])
                    .args(["-untrusted", &format!("issuer-{n}.der"), &format!("leaf-{n}.der")])
                    .current_dir(dir)
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success() && said.contains("OK"), "{output:?}");
            }
            // What lies in the data directory is no private key, and nobody left the PIN there.
            for entry in std::fs::read_dir(dir.join("data")).unwrap() {
                let path = entry.unwrap().path();
                let bytes = std::fs::read(&path).unwrap_or_default();
                assert!(
                    !bytes.windows(PIN.len()).any(|window| window == PIN.as_bytes()),
                    "{}",
                    path.display()
                );
            }
        });
    });
}
