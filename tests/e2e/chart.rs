//! The chart's control plane, started for real: the configuration that helm renders, beside a cluster's API server, with the
//! paths of a pod exchanged for those of a folder.

#[allow(dead_code)]
#[path = "../../ca/tests/support/softhsm.rs"]
mod softhsm;

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use signet_tests::apiserver::ApiServer;
use signet_tests::mesh::free_address;
use signet_tests::peers;
use signet_tests::postgres::Postgres;
use signet_tests::process::{Process, binary, until};

/// The rendered `control-plane.yaml`.
fn rendered(helm: &Path, values: &[&str]) -> String {
    let chart = peers::root().join("deploy/helm/signet");
    let mut command = Command::new(helm.join("helm"));
    command.args(["template", "signet"]).arg(&chart).args(["--namespace", "signet-system"]);
    command.args(["--show-only", "templates/config.yaml", "--set", "trustDomain=demo.signet"]);
    command.args(["--set", "images.controlPlane=a:1,images.sidecar=b:1,images.redirect=c:1"]);
    command.args(["--set", "seal.existingSecret=seal"]);
    for value in values {
        match value.strip_suffix(".yaml") {
            Some(_) => command.arg("--values").arg(chart.join(value)),
            None => command.args(["--set", value]),
        };
    }
    let output = command.output().expect("helm");
    assert!(output.status.success(), "{}", peers::said(&output));
    let text = String::from_utf8(output.stdout).expect("text");
    let map: Value = signet_model::from_yaml(text.trim_start_matches("---\n")).expect("a ConfigMap");
    map["data"]["control-plane.yaml"].as_str().expect("a configuration").to_owned()
}

/// A replica's folder as the chart lays its volumes out, with the configuration in it.
fn pod(api: &ApiServer, folder: &Path, shared: &Path, config: &str) -> std::path::PathBuf {
    let private =
        |path: &Path| std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path).expect("a folder");
    for name in ["data", "keys"] {
        private(&folder.join(name));
    }
    let key = folder.join("keys/seal.key");
    std::fs::write(&key, [7; 32]).expect("a key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("closing it");
    api.configuration(folder, "");
    let place = folder.display();
    let server = api.address;
    let mut text = String::new();
    for line in config.lines() {
        text += line;
        text.push('\n');
        if line.trim() == "kubernetes:" {
            let indent = " ".repeat(line.len() - line.trim_start().len() + 2);
            text += &format!(
                "{indent}apiServer: 'https://{server}'\n{indent}tokenFile: {place}/api-token\n{indent}caFile: {place}/api-ca.pem\n"
            );
        }
    }
    // Each of these is in it, or it would be another's path.
    let mut changed = text.clone();
    for (from, to) in [
        ("/data/control-plane", format!("{place}/data/control-plane")),
        ("/keys/", format!("{place}/keys/")),
        ("'[::]:8443'", format!("'{}'", free_address())),
        ("'[::]:8444'", format!("'{}'", free_address())),
        // As in a pod, on both families of addresses where there are both.
        ("'[::]:9090'", "'[::]:0'".to_owned()),
        ("'[::]:9443'", "'127.0.0.1:0'".to_owned()),
    ] {
        assert!(text.contains(from), "{from}: {text}");
        changed = changed.replace(from, &to);
    }
    let file = folder.join("control-plane.yaml");
    std::fs::write(
        &file,
        changed.replace("{sharedKeys: /shared/keys}", &format!("{{sharedKeys: {}}}", shared.display())),
    )
    .expect("a configuration");
    file
}

fn start(name: &str, config: &Path, folder: &Path) -> Process {
    let mut command = Command::new(binary("signet-control-plane"));
    command.arg("--config").arg(config);
    Process::start(name, command, folder)
}

async fn ready(process: &mut Process, folder: &Path) -> Value {
    let file = folder.join("data/control-plane/addresses.json");
    let addresses = until("the control plane", || {
        process.assert_runs();
        serde_json::from_slice::<Value>(&std::fs::read(&file).ok()?).ok()
    })
    .await;
    let metrics = addresses["metrics"].as_str().expect("an address");
    let port = metrics.rsplit_once(':').expect("a port").1;
    let hosts: &[&str] = if metrics.starts_with("[::]") { &["127.0.0.1", "[::1]"] } else { &["127.0.0.1"] };
    // As the chart's probes ask.
    for path in ["/ready", "/live"] {
        for host in hosts {
            until(path, || (asked(&format!("http://{host}:{port}{path}")) == "200").then_some(())).await;
        }
    }
    addresses
}

/// The status code.
fn asked(url: &str) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", url]);
    peers::said(&command.output().expect("curl"))
}

#[tokio::test]
async fn copies_people_and_a_token_of_the_charts_values_are_those_of_the_control_plane_that_runs() {
    let Some(helm) = peers::kubernetes() else { return };
    let Some(module) = softhsm::module() else { return };
    let api = ApiServer::start().await;
    api.put_all(cluster());
    let folder = tempfile::tempdir().expect("a folder");
    let text = rendered(
        &helm,
        &[
            "backup.existingClaim=copies",
            "keys.algorithm=p384",
            "keys.pkcs11.module=/opt/vendor/pkcs11.so",
            "keys.pkcs11.tokenLabel=signet-test",
            "keys.pkcs11.pinSecret=pin",
            "config.operators.sessionSeconds=900",
            "config.svid.ttlSeconds=1800",
        ],
    );
    let text = text
        .replace("/opt/vendor/pkcs11.so", &module.display().to_string())
        .replace("/backups/copies", &folder.path().join("copies").display().to_string());
    let config = pod(&api, folder.path(), Path::new("/nowhere"), &text);
    let conf = softhsm::make(folder.path());
    // The init container's work.
    std::fs::rename(folder.path().join("pin"), folder.path().join("keys/pkcs11.pin")).expect("a PIN");
    let mut command = Command::new(binary("signet-control-plane"));
    command.arg("--config").arg(&config).env("SOFTHSM2_CONF", conf);
    let mut process = Process::start("control-plane", command, folder.path());
    ready(&mut process, folder.path()).await;
    until("a copy", || {
        let copies = std::fs::read_dir(folder.path().join("copies")).ok()?;
        copies.filter_map(Result::ok).any(|copy| copy.path().join("copy.json").exists()).then_some(())
    })
    .await;
    let tokens = std::fs::read_dir(folder.path().join("tokens")).expect("tokens").count();
    assert_eq!(tokens, 1, "its keys are in the token");
    process.terminate();
    assert!(process.wait().await.success());
}

#[tokio::test]
async fn a_root_from_outside_is_waited_for_alive_and_not_ready_or_found_in_a_mounted_secret() {
    let Some(helm) = peers::kubernetes() else { return };
    let api = ApiServer::start().await;
    api.put_all(cluster());
    let folder = tempfile::tempdir().expect("a folder");
    let config =
        pod(&api, folder.path(), Path::new("/nowhere"), &rendered(&helm, &["hierarchy.root=external"]));
    // Where nothing is ready nobody is told which port it was.
    let metrics = free_address();
    let text = std::fs::read_to_string(&config).expect("the configuration").replace("[::]:0", &metrics);
    std::fs::write(&config, text).expect("the configuration");
    let mut process = start("control-plane", &config, folder.path());
    process.logged("there is no root yet").await;
    until("it lives", || (asked(&format!("http://{metrics}/live")) == "200").then_some(())).await;
    assert_eq!(asked(&format!("http://{metrics}/ready")), "503");
    process.terminate();
    process.wait().await;
    // The Secret of somebody who makes authorities, as the kubelet mounts it.
    let (folder, text) = (
        tempfile::tempdir().expect("a folder"),
        rendered(&helm, &["hierarchy.root=folder", "hierarchy.existingSecret=root"]),
    );
    let secret = folder.path().join("root-ca");
    let text = text.replace("/root-ca", &secret.display().to_string());
    std::fs::create_dir_all(secret.join("..1")).expect("a volume");
    for (name, content) in root() {
        let file = secret.join("..1").join(name);
        std::fs::write(&file, content).expect("a file");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o440)).expect("its mode");
        std::os::unix::fs::symlink(format!("..data/{name}"), secret.join(name)).expect("a link");
    }
    std::os::unix::fs::symlink("..1", secret.join("..data")).expect("a link");
    let config = pod(&api, folder.path(), Path::new("/nowhere"), &text);
    let mut process = start("control-plane", &config, folder.path());
    ready(&mut process, folder.path()).await;
    process.terminate();
    assert!(process.wait().await.success());
}

/// A root that signs issuers itself.
fn root() -> [(&'static str, String); 2] {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://demo.signet".try_into().expect("a name"))];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "demo.signet");
    let now = std::time::SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + std::time::Duration::from_secs(365 * 24 * 3600)).into();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())]
}

fn cluster() -> [Value; 3] {
    let hooks = |kind: &str| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
               "metadata": {"name": "signet-injector.signet-system"}, "webhooks": [{"name": "a", "clientConfig": {}}]})
    };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
                           "metadata": {"name": "shop", "labels": {"signet.mesh/inject": "enabled"}}});
    [namespace, hooks("MutatingWebhookConfiguration"), hooks("ValidatingWebhookConfiguration")]
}

#[tokio::test]
async fn what_the_chart_renders_starts_a_control_plane_and_finds_its_cluster() {
    let Some(helm) = peers::kubernetes() else { return };
    let api = ApiServer::start().await;
    api.put_all(cluster());
    for values in [&[][..], &["revision=canary", "attestation.mode=fast", "injection.dnsCapture=true"]] {
        let folder = tempfile::tempdir().expect("a folder");
        let config = pod(&api, folder.path(), Path::new("/nowhere"), &rendered(&helm, values));
        let mut process = start("control-plane", &config, folder.path());
        let addresses = ready(&mut process, folder.path()).await;
        assert!(addresses["webhook"].is_string() && addresses["bootstrap"].is_string(), "{addresses}");
        let roots =
            std::fs::read_to_string(folder.path().join("data/control-plane/root.pem")).expect("roots");
        let name = if values.is_empty() { "signet-roots" } else { "signet-roots-canary" };
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "shop", "name": name}});
        until("the roots in the namespace", || {
            (api.object(&map)?["data"]["roots.pem"] == roots).then_some(())
        })
        .await;
        process.terminate();
        assert!(process.wait().await.success());
    }
}

#[tokio::test]
async fn three_replicas_of_the_chart_begin_at_once_on_an_empty_postgresql_and_are_one_mesh() {
    let Some(helm) = peers::kubernetes() else { return };
    let Some(postgres) = Postgres::start().await else { return };
    let api = ApiServer::start().await;
    api.put_all(cluster());
    // The tables are made by the one user, or by their owner in an init container of each replica.
    // What they share lies there too, or in a folder.
    let cases = [
        ("one", &[][..]),
        ("two", &["store.postgres.ownerSecret=owner"]),
        ("three", &["persistence.sharedKeysClaim=keys"]),
    ];
    for (database, more) in cases {
        postgres.query("postgres", &format!("CREATE DATABASE {database}"));
        let folder = tempfile::tempdir().expect("a folder");
        let owner = more.iter().any(|value| value.contains("ownerSecret"));
        let user = if owner { "runtime" } else { "postgres" };
        if user == "runtime" {
            postgres.query("postgres", "CREATE ROLE runtime LOGIN");
        }
        let shared = folder.path().join("shared");
        let values: Vec<&str> = ["values-ha.yaml"].iter().chain(more).copied().collect();
        let text = rendered(&helm, &values);
        assert_eq!(text.contains("migrate: true"), !owner, "{text}");
        let claimed = more.iter().any(|value| value.contains("Claim"));
        assert_eq!(text.contains("{sharedKeys: store}"), !claimed, "{text}");
        let mut replicas = Vec::new();
        for n in 0..3 {
            let own = folder.path().join(format!("replica-{n}"));
            let config = pod(&api, &own, &shared, &text);
            let url = own.join("keys/postgres.url");
            std::fs::rename(postgres.owners_url(database, user, &own), url).expect("a URL");
            if owner {
                let owner = postgres.owners_url(database, "postgres", &own);
                let mut migrate = Command::new(binary("signet-control-plane"));
                migrate.arg("--config").arg(&config).arg("--migrate").arg(owner);
                replicas.push((own.clone(), Process::start("schema", migrate, &own), Some(config)));
            } else {
                replicas.push((own.clone(), start("control-plane", &config, &own), None));
            }
        }
        for (own, process, config) in &mut replicas {
            if let Some(config) = config {
                assert!(process.wait().await.success(), "{}", process.log());
                *process = start("control-plane", config, own);
            }
        }
        let mut roots = std::collections::BTreeSet::new();
        for (own, process, _) in &mut replicas {
            ready(process, own).await;
            roots.insert(std::fs::read_to_string(own.join("data/control-plane/root.pem")).expect("roots"));
        }
        assert_eq!(roots.len(), 1, "one mesh");
        assert_eq!(postgres.query(database, "SELECT count(*) FROM replicas"), ["3"]);
        let kept = postgres.query(database, "SELECT count(*) FROM sealed_keys");
        assert_eq!(kept, [if claimed { "0" } else { "3" }], "root, rows and log");
        for (_, process, _) in &mut replicas {
            process.terminate();
        }
        for (_, process, _) in &mut replicas {
            assert!(process.wait().await.success());
        }
    }
}
