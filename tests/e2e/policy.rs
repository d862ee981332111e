//! Policies from a file to a socket: conditions, guard rails and exceptions, and what the command says of them.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use signet_tests::client::{get, send};
use signet_tests::mesh::Mesh;
use signet_tests::process::binary;
use tokio::time::{sleep, timeout};

use crate::pair::Pair;

/// The command with this control plane's socket.
fn signet(mesh: &Mesh, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("signet"));
    command.arg("--socket").arg(mesh.operator_socket("cp")).args(arguments);
    command.output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Asks until the answer has this status: the registry's folder is watched, and sidecars are told.
async fn until(entry: &str, path: &str, headers: &[(&str, &str)], status: u16) {
    let asked = async {
        while send("GET", entry, path, headers, "").await.status() != status {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(Duration::from_secs(30), asked).await.is_ok(), "{path} never came to {status}");
}

fn seconds() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[tokio::test]
async fn a_condition_a_guard_rail_and_its_exception_decide_as_they_are_written() {
    let mut pair = Pair::start("http").await;
    pair.mesh.write_registry(
        "conditions.yaml",
        "kind: MeshPolicy\nmetadata: {namespace: shop, name: no-drafts}\nspec:\n  effect: forbid\n  \
         to: {paths: ['/notes/{id}']}\n  when: context.request.params.id like \"draft-*\"\n",
    );
    until(&pair.entry, "/notes/draft-1", &[], 403).await;
    assert_eq!(get(&pair.entry, "/notes/1", &[]).await.status(), 200);

    // A guard rail over the namespace's own permit, which spares the client for a few seconds.
    let end = signet_model::Moment::from_unix(seconds() + 8).unwrap();
    pair.mesh.write_registry(
        "rail.yaml",
        &format!(
            "kind: GuardRail\nmetadata: {{name: closed}}\nspec:\n  namespaces: [shop]\n  forbid: {{to: {{methods: [GET]}}}}\n  exceptions:\n    \
             - owner: team-client\n      reason: moving\n      until: {end}\n      from: {{workloads: [ns/shop/sa/client]}}\n      \
             when: context.request.headers has \"x-moving\"\n"
        ),
    );
    until(&pair.entry, "/open", &[], 403).await;
    assert_eq!(send("GET", &pair.entry, "/open", &[("x-moving", "yes")], "").await.status(), 200);
    assert_eq!(send("POST", &pair.entry, "/open", &[], "").await.status(), 200);
    let listed = json(&signet(&pair.mesh, &["--json", "authz", "exceptions"]));
    assert_eq!(listed[0]["policy"], "guard-rail/closed");
    assert_eq!((&listed[0]["owner"], &listed[0]["state"]), (&"team-client".into(), &"in force".into()));

    let can = |header: &[&str]| {
        let mut arguments =
            vec!["--json", "authz", "can", "--as", "ns/shop/sa/client", "--service", "server.shop"];
        arguments.extend(header);
        arguments.extend(["GET", "/open"]);
        signet(&pair.mesh, &arguments)
    };
    let denied = can(&[]);
    assert_eq!(denied.status.code(), Some(3));
    assert_eq!(json(&denied)["deciding"][0]["policy"], "guard-rail/closed");
    let allowed = can(&["--header", "X-Moving: yes"]);
    assert_eq!(allowed.status.code(), Some(0), "{}", String::from_utf8_lossy(&allowed.stderr));

    // The control plane goes; the exception ends all the same.
    drop(pair.mesh.control_plane.take());
    until(&pair.entry, "/open", &[("x-moving", "yes")], 403).await;
    assert!(seconds() >= end.unix());
    pair.mesh.assert_unharmed();
}

#[tokio::test]
async fn what_was_decided_is_decided_again_by_a_changed_folder() {
    let pair = Pair::start_with(Mesh::builder().decision_samples(20), "http").await;
    let changed = pair.mesh.path("changed");
    std::fs::create_dir(&changed).unwrap();
    let folder = |rest: &str| {
        let text = format!(
            "apiVersion: signet.mesh/v1alpha1\nkind: Service\nmetadata: {{namespace: shop, name: server}}\nspec: {{ports: [{{name: main, port: 80, protocol: http}}]}}\n\
             ---\napiVersion: signet.mesh/v1alpha1\nkind: MeshPolicy\nmetadata: {{namespace: shop, name: only-posts}}\nspec:\n  effect: permit\n{rest}"
        );
        write(&changed.join("all.yaml"), &text);
    };
    folder("  to: {methods: [POST]}\n");
    let simulate = || {
        let folder = changed.to_str().unwrap();
        signet(&pair.mesh, &["--json", "authz", "simulate", "--since", "1h", "-f", folder, "--exit-code"])
    };
    // Samples travel in batches: asked until one has arrived.
    let told = timeout(Duration::from_secs(60), async {
        loop {
            assert_eq!(get(&pair.entry, "/a", &[]).await.status(), 200);
            assert_eq!(send("POST", &pair.entry, "/b", &[], "").await.status(), 200);
            let output = simulate();
            if !output.stdout.is_empty() {
                let told = json(&output);
                if told["flipped"].as_u64() > Some(0) && told["unchanged"].as_u64() > Some(0) {
                    assert_eq!(output.status.code(), Some(3));
                    return told;
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("samples arrive");
    let decisions = told["decisions"].as_array().unwrap();
    let gets: Vec<&Value> =
        decisions.iter().filter(|it| it["request"].as_str().unwrap().starts_with("GET")).collect();
    assert!(gets.iter().all(|it| it["was"] == "allow" && it["becomes"] == "deny"), "{gets:?}");
    let posts = decisions.iter().filter(|it| it["request"].as_str().unwrap().starts_with("POST"));
    assert!(posts.into_iter().all(|it| it["becomes"] == "allow"));
    // What nobody looked at then, nobody knows now.
    folder("  when: context.request.headers has \"x-tenant\"\n");
    let told = json(&simulate());
    assert_eq!(told["undecidable"], told["decisions"].as_array().unwrap().len());
    assert!(told["decisions"][0]["reason"].as_str().unwrap().contains("`x-tenant` was not recorded"));
}

fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(path.parent().unwrap(), std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn a_policy_that_the_registry_refuses_says_where_in_its_condition_and_changes_nothing() {
    let pair = Pair::start("http").await;
    pair.mesh.write_registry(
        "broken.yaml",
        "kind: MeshPolicy\nmetadata: {namespace: shop, name: typo}\nspec:\n  effect: forbid\n  when: |\n    true &&\n    context.users == 3\n",
    );
    let said = timeout(Duration::from_secs(30), async {
        loop {
            let status = signet(&pair.mesh, &["status"]);
            let told = String::from_utf8_lossy(&status.stdout).into_owned();
            if told.contains("spec.when") {
                return told;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the control plane complains");
    assert!(
        said.contains("expected now, request or user of `context`, got `users`, at line 2, column 9"),
        "{said}"
    );
    assert_eq!(get(&pair.entry, "/", &[]).await.status(), 200);
}
