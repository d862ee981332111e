//! A real Envoy on a host without Kubernetes, a process of a user of its own. The agent of the host says who it is, by what
//! the kernel says of it; it then calls a sidecar and is called by one, and neither goes on when the registry or an
//! operator takes its identity away.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use signet_proto::v1::RevokeRequest;
use signet_proto::v1::revoke_request::What;
use signet_tests::apps::Echo;
use signet_tests::client::try_send;
use signet_tests::leave_out;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::{PATIENCE, Process};

use crate::envoy::{envoy, eventually_ok, example, fit, port, serial, start_by};
use crate::workload::{APP, SERVER};

/// Nobody's user on any machine.
const UID: u32 = 41_001;

/// A host with its agent, an Envoy that calls `server.shop` and serves `app.shop`, and the sidecars of its peers.
struct Host {
    mesh: Mesh,
    envoy: Process,
    /// Where Envoy takes plaintext for `server.shop`.
    out: String,
    /// Where the sidecar of `caller.shop` takes plaintext for `app.shop`.
    entry: String,
    registration: String,
    _app: Echo,
    _programs: tempfile::TempDir,
}

impl Host {
    /// None, and a word about it, where it cannot be.
    async fn start(svid_seconds: u32) -> Option<Self> {
        let program = envoy()?;
        // SAFETY: takes nothing, cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            leave_out("another user's processes need root");
            return None;
        }
        // A place that every user reaches.
        let programs = tempfile::tempdir().expect("a folder");
        let own = programs.path().join("envoy");
        std::fs::copy(program, &own).expect("a copy of Envoy");
        for path in [programs.path(), &own] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        }
        let registration = format!(
            "kind: Registration\nmetadata: {{name: app}}\nspec: {{unix: {{agents: [ns/hosts/sa/host-a], uid: {UID}, \
             path: {}}}, identity: ns/shop/sa/app}}\n",
            own.display()
        );
        let app = Echo::start().await;
        let [inbound, listener, entry, out] =
            [free_address(), free_address(), free_address(), free_address()];
        let mesh = Mesh::builder()
            .svid_seconds(svid_seconds)
            .registry(
                "kind: Workload\nmetadata: {namespace: shop, name: app}\nspec: {class: sidecar, workloadApi: true}\n",
            )
            .registry(service("server", "shop", "main", "http", &inbound))
            .registry(permit("app-may", "shop", "server", "ns/shop/sa/app", ""))
            .registry(service("app", "shop", "main", "http", &listener))
            .sidecar(Sidecar::new(
                "server.shop",
                format!(
                    "inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{}'}}]\n",
                    app.address
                ),
            ))
            .sidecar(Sidecar::new(
                "caller.shop",
                format!("outbound: [{{listen: '{entry}', service: app.shop, port: main}}]\n"),
            ))
            .sidecar(Sidecar::agent("host-a.hosts"))
            .start()
            .await;
        mesh.write_registry("app.yaml", &registration);

        let socket = mesh.workload_socket("host-a").display().to_string();
        let config = fit(
            &example("envoy.yaml"),
            &[
                ("port_value: 10000", &format!("port_value: {}", port(&out))),
                ("port_value: 15008", &format!("port_value: {}", port(&inbound))),
                ("orders.shop.signet.internal", "server.shop.signet.internal"),
                ("spiffe://example.com/ns/shop/sa/orders", SERVER),
                ("/run/signet/workload.sock", &socket),
            ],
        );
        let at = format!("port_value: {}", port(&listener));
        let served = fit(&example("envoy-listener.yaml"), &[("port_value: 15443", &at)]);
        let served: Vec<String> = served.lines().map(|line| format!("      {line}")).collect();
        let both = format!("  listeners:\n    -\n{}\n", served.join("\n"));
        let config = fit(&config, &[("  listeners:\n", &both)]);

        // Ways for this user: to the socket, and to a file of its own.
        std::fs::set_permissions(mesh.path("."), std::fs::Permissions::from_mode(0o711)).expect("a way");
        let admin = mesh.path("envoy.admin");
        std::fs::write(&admin, "").expect("a file for Envoy");
        std::os::unix::fs::chown(&admin, Some(UID), Some(UID)).expect("handing it over");
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={UID}"), format!("--regid={UID}")]);
        command.arg("--clear-groups").arg(own);
        let envoy = start_by(command, &mesh, "envoy", &config);
        Some(Self { mesh, envoy, out, entry, registration, _app: app, _programs: programs })
    }

    async fn both_ways_work(&self) {
        let seen = eventually_ok(&self.out, "/from-envoy", &[]).await;
        assert!(seen.contains(&format!("URI={APP}")), "{seen}");
        assert_eq!(eventually_ok(&self.entry, "/", &[]).await, "served by an Envoy");
    }

    /// Waits until neither way works; what was said at the end.
    async fn both_ways_end(&self) {
        for address in [&self.out, &self.entry] {
            let end = Instant::now() + PATIENCE;
            while try_send("GET", address, "/", &[], "").await.is_ok_and(|answer| answer.status() == 200) {
                assert!(Instant::now() < end, "Envoy goes on without an identity");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Both fail, and not by chance.
    async fn neither_way_works(&self) {
        for address in [&self.out, &self.entry] {
            for _ in 0..5 {
                let answer = try_send("GET", address, "/", &[], "").await;
                assert!(!answer.is_ok_and(|answer| answer.status() == 200), "{address} works once more");
            }
        }
    }
}

#[tokio::test]
async fn an_envoy_is_who_the_agent_says_follows_rotations_and_ends_with_its_registration() {
    let Some(mut host) = Host::start(15).await else { return };
    host.both_ways_work().await;
    let first = serial(&host.mesh, "envoy").await.expect("Envoy's certificate");
    let end = Instant::now() + PATIENCE;
    while serial(&host.mesh, "envoy").await.is_none_or(|serial| serial == first) {
        assert!(Instant::now() < end, "Envoy goes by the same certificate");
        host.both_ways_work().await;
    }
    // Taken back: nothing more is issued, and what it has ends.
    let nobody = "kind: Workload\nmetadata: {namespace: shop, name: nobody}\nspec: {class: sidecar}\n";
    host.mesh.write_registry("app.yaml", nobody);
    host.both_ways_end().await;
    host.neither_way_works().await;
    host.mesh.write_registry("app.yaml", &host.registration);
    host.both_ways_work().await;
    host.envoy.assert_runs();
    host.mesh.assert_unharmed();
}

#[tokio::test]
async fn an_envoy_is_refused_at_once_when_the_agent_that_vouches_for_it_is_revoked() {
    let Some(mut host) = Host::start(3600).await else { return };
    host.both_ways_work().await;
    let agent = What::SpiffeId("spiffe://test.signet/ns/hosts/sa/host-a".to_owned());
    let request = RevokeRequest { what: Some(agent), reason: "the host was broken into".into() };
    host.mesh.operator().await.revoke(request).await.expect("a revocation");
    // Its certificate would be good for the better part of an hour.
    host.both_ways_end().await;
    host.neither_way_works().await;
    host.envoy.assert_runs();
}
