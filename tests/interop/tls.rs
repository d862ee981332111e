//! OpenSSL and curl, as programs that hold a certificate of the mesh and know nothing else of it.

use std::process::Command;

use signet_tests::apps::Echo;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::peers::{run, said, tool};
use signet_tests::svid::Svid;

struct Served {
    mesh: Mesh,
    app: Echo,
    inbound: String,
    caller: Svid,
}

/// A service that `caller` may call, and the caller's certificate in the test's hands.
async fn served() -> Served {
    let app = Echo::start().await;
    let inbound = free_address();
    let mesh = Mesh::builder()
        .registry(service("server", "shop", "main", "http", &inbound))
        .registry(permit("caller-may", "shop", "server", "ns/shop/sa/caller", ""))
        .registry("kind: Workload\nmetadata: {namespace: shop, name: caller}\nspec: {class: sidecar}\n")
        .sidecar(Sidecar::new(
            "server.shop",
            format!(
                "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
                app.address
            ),
        ))
        .start()
        .await;
    let caller = Svid::join(&mesh, "spiffe://test.signet/ns/shop/sa/caller", "sidecar").await;
    Served { mesh, app, inbound, caller }
}

#[tokio::test]
async fn openssl_verifies_every_certificate_strictly() {
    let Some(openssl) = tool("openssl") else { return };
    let served = served().await;
    let [chain, _, root, _] = served.caller.files(&served.mesh, "caller");
    // The issuer travels in the chain file behind the leaf.
    let mut command = Command::new(&openssl);
    command.args(["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"]).arg(&root);
    command.arg("-untrusted").arg(&chain).arg(&chain);
    let text = said(&run(command).await);
    assert!(text.contains(": OK"), "{text}");
    let mut command = Command::new(&openssl);
    command.args(["x509", "-noout", "-text", "-in"]).arg(&chain);
    let text = said(&run(command).await);
    assert!(text.contains("URI:spiffe://test.signet/ns/shop/sa/caller"), "{text}");
    assert!(text.contains("Policy: 2.25."), "no class: {text}");
    let mut command = Command::new(&openssl);
    command.args(["verify", "-x509_strict", "-CAfile"]).arg(&root).arg(&root);
    assert!(said(&run(command).await).contains(": OK"));
}

#[tokio::test]
async fn openssl_s_client_with_a_certificate_is_served_and_without_one_refused() {
    let Some(openssl) = tool("openssl") else { return };
    let mut served = served().await;
    let [chain, key, root, issuer] = served.caller.files(&served.mesh, "caller");
    let connect = |with: bool, more: &[&str]| {
        let mut command = Command::new("sh");
        let identity = if with {
            format!("-cert {} -cert_chain {} -key {}", chain.display(), issuer.display(), key.display())
        } else {
            String::new()
        };
        command.arg("-c").arg(format!(
            "(printf 'GET /from-openssl HTTP/1.1\\r\\nhost: server\\r\\nconnection: close\\r\\n\\r\\n') | \
             {} s_client -ign_eof -connect {} -servername server.shop.signet.internal -verify_return_error -CAfile {} {identity} {} 2>&1",
            openssl.display(), served.inbound, root.display(), more.join(" ")
        ));
        command
    };
    let text = said(&run(connect(true, &["-quiet"])).await);
    assert!(text.contains("200 OK") && text.contains("/from-openssl"), "{text}");
    assert_eq!(served.app.seen(), 1);
    let text = said(&run(connect(false, &[])).await);
    assert!(!text.contains("200 OK"), "{text}");
    assert!(text.contains("certificate required") || text.contains("alert"), "{text}");
    let text = said(&run(connect(true, &["-tls1_2"])).await);
    assert!(!text.contains("200 OK") && text.contains("protocol version"), "{text}");
    assert_eq!(served.app.seen(), 1);
    served.mesh.assert_unharmed();
}

#[tokio::test]
async fn curl_with_a_certificate_calls_into_the_mesh_by_the_services_name() {
    let Some(curl) = tool("curl") else { return };
    let served = served().await;
    let [chain, key, root, _] = served.caller.files(&served.mesh, "caller");
    let port = served.inbound.rsplit_once(':').unwrap().1;
    let mut command = Command::new(curl);
    command.args(["-sS", "--http1.1", "-H", "Signet-User: forged", "-H", "Signet_User: forged"]);
    command.arg("--cert").arg(chain).arg("--key").arg(key).arg("--cacert").arg(root);
    command.arg("--resolve").arg(format!("server.shop.signet.internal:{port}:127.0.0.1"));
    command.arg(format!("https://server.shop.signet.internal:{port}/from-curl"));
    let text = said(&run(command).await);
    assert!(text.contains("\"path\":\"/from-curl\""), "{text}");
    assert!(text.contains("URI=spiffe://test.signet/ns/shop/sa/caller"), "{text}");
    assert!(!text.contains("forged"), "a forged header arrived: {text}");
}
