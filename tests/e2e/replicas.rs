//! Three control planes in a cluster, as the chart's HA profile runs them: one PostgreSQL and nothing else in common, one
//! address before them. They are replaced one by one, and whichever leads is killed, while pods talk, renew and arrive.

use serde_json::{Value, json};
use signet_tests::Mesh;
use signet_tests::apiserver::{ApiServer, PodOf};
use signet_tests::apps::Echo;
use signet_tests::balancer::Balancer;
use signet_tests::client::get;
use signet_tests::mesh::{Sidecar, free_address};
use signet_tests::postgres::Postgres;
use signet_tests::process::{PATIENCE, until};

use crate::cluster::{object, permit, pod, port_of, slice};
use crate::lifecycle::Load;

const NAMES: [&str; 3] = ["cp", "second", "third"];

struct Scene {
    api: ApiServer,
    mesh: Mesh,
    doors: [Balancer; 2],
    entry: String,
    arrived: usize,
    _app: Echo,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn start(postgres: &Postgres) -> Scene {
        let (api, app) = (ApiServer::start().await, Echo::start().await);
        let folder = tempfile::tempdir().expect("a folder");
        let (entry, inbound) = (free_address(), free_address());
        let pods = [PodOf::new("server.shop"), PodOf::new("client.shop")];
        let ports = json!([{"name": "http", "port": 80, "targetPort": "http"}]);
        let spec = json!({"clusterIPs": ["10.96.0.7"], "selector": {"app": "server"}, "ports": ports});
        api.put_all([
            object("v1", "Namespace", "shop", json!({"labels": {"signet.mesh/inject": "enabled"}})),
            object("v1", "Service", "shop/server", json!({"spec": spec})),
            slice(Some(port_of(&inbound))),
            permit("/{rest=**}"),
        ]);
        pods.iter().for_each(|one| run(&api, one));
        let mut mesh = Mesh::builder()
            .svid_seconds(20)
            .log_level("info")
            .control_plane(&api.configuration(folder.path(), ""))
            .control_plane(&postgres.configuration())
            .control_plane("replica: {name: cp, sharedKeys: store}\n")
            .registry_from(&api.registry(folder.path(), ", leaseSeconds: 3"))
            .start()
            .await;
        for name in &NAMES[1..] {
            mesh.start_replica(name).await;
        }
        let doors = [Balancer::start().await, Balancer::start().await];
        mesh.entry = Some([doors[0].address.clone(), doors[1].address.clone()]);
        let mut scene = Scene { api, mesh, doors, entry, arrived: 0, _app: app, _folder: folder };
        NAMES.iter().for_each(|name| scene.put(name));
        let server = format!(
            "inbound: [{{service: server.shop, port: http, listen: '{inbound}', app: 'tcp:{}'}}]\n",
            scene._app.address
        );
        let client = format!("outbound: [{{listen: '{}', service: server.shop, port: http}}]\n", scene.entry);
        for (pod, config) in pods.iter().zip([server, client]) {
            let name = format!("{}.shop", pod.account);
            let token = scene.api.token(pod, "signet-ca");
            scene.mesh.arrive(Sidecar::new(&name, config), &token).await;
        }
        let entry = scene.entry.clone();
        let first = async {
            while get(&entry, "/", &[]).await.status() != 200 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, first).await.expect("a first answer");
        scene
    }

    fn put(&self, name: &str) {
        let addresses = self.mesh.addresses(name);
        for (door, listener) in self.doors.iter().zip(["bootstrap", "mesh"]) {
            door.put(name, addresses[listener].as_str().expect("an address"));
        }
    }

    fn take_out(&self, name: &str) {
        self.doors.iter().for_each(|door| door.take_out(name));
    }

    /// A pod that starts just now gets its certificate and hears of the mesh, and goes.
    async fn a_pod_arrives(&mut self) {
        self.arrived += 1;
        let one = PodOf::new("client.shop").named(&format!("client-more-{}", self.arrived));
        run(&self.api, &one);
        let listen = free_address();
        let config = format!("outbound: [{{listen: '{listen}', service: server.shop, port: http}}]\n");
        let token = self.api.token(&one, "signet-ca");
        let mut sidecar = Sidecar::new("client.shop", config);
        sidecar.name = format!("more-{}", self.arrived);
        let name = sidecar.name.clone();
        self.mesh.arrive(sidecar, &token).await;
        assert_eq!(get(&listen, "/", &[]).await.status(), 200, "{name}");
        let mut process = self.mesh.sidecars.remove(&name).expect("its sidecar");
        process.terminate();
        process.wait().await;
    }

    /// Which one writes statuses, by its Lease.
    fn holder(&self) -> Option<&'static str> {
        let like = object("coordination.k8s.io/v1", "Lease", "signet-system/signet-control-plane", json!({}));
        let lease = self.api.object(&like)?;
        let holder = lease["spec"]["holderIdentity"].as_str()?.to_owned();
        let (replica, _) = holder.rsplit_once('_')?;
        NAMES.into_iter().find(|name| *name == replica)
    }

    fn process(&mut self, name: &str) -> signet_tests::process::Process {
        match name {
            "cp" => self.mesh.control_plane.take(),
            other => self.mesh.replicas.remove(other),
        }
        .expect("a control plane")
    }

    async fn start_again(&mut self, name: &str) {
        match name {
            "cp" => self.mesh.start_control_plane().await,
            other => self.mesh.start_replica(other).await,
        }
        self.put(name);
    }

    /// What is written now is in force, and its writer is told so.
    async fn a_policy_comes_into_force(&self, name: &str) {
        let mut policy = permit("/{rest=**}");
        policy["metadata"]["name"] = json!(name);
        self.api.put(policy.clone());
        until(&format!("a status of {name}"), || accepted(&self.api.object(&policy)?)).await;
    }
}

fn accepted(object: &Value) -> Option<()> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().any(|it| it["status"] == "True").then_some(())
}

fn run(api: &ApiServer, one: &PodOf) {
    api.run(one);
    api.put(pod(one));
    api.put(object("v1", "ServiceAccount", &format!("shop/{}", one.account), json!({})));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_planes_are_replaced_and_killed_in_turn_and_no_request_or_certificate_is_lost() {
    let Some(postgres) = Postgres::start().await else { return };
    let mut scene = Scene::start(&postgres).await;
    let load = Load::start(&scene.entry, 2);

    // An upgrade: each goes out of the Service first, then it is ended, then there is a new one.
    for name in NAMES {
        scene.take_out(name);
        let mut old = scene.process(name);
        old.terminate();
        scene.a_pod_arrives().await;
        assert!(old.wait().await.success(), "{}", old.log());
        scene.start_again(name).await;
        scene.a_policy_comes_into_force(&format!("after-{name}")).await;
    }

    // Whoever writes statuses is killed, as often as there are control planes. Nobody says so beforehand: connections go to the one that is gone until a probe of it has failed.
    for round in 0..NAMES.len() {
        let name = until("somebody who writes", || scene.holder()).await;
        let mut dead = scene.process(name);
        dead.signal(libc::SIGKILL);
        let _ = dead.wait().await;
        scene.a_policy_comes_into_force(&format!("killed-{round}")).await;
        scene.take_out(name);
        assert_ne!(scene.holder(), Some(name), "another one writes");
        scene.a_pod_arrives().await;
        scene.start_again(name).await;
    }

    // Certificates of 20 s were replaced on the way, by whoever was there.
    let count = |of: &str| {
        let sql = format!("SELECT count(*) FROM log WHERE {of}");
        postgres.query("postgres", &sql)[0].parse::<u32>().expect("a number")
    };
    until("certificates that replaced others", || {
        let own = |name: &str| count(&format!("event = 'issued' AND spiffe_id LIKE '%/sa/{name}'"));
        (own("server") >= 4 && own("client") >= 4).then_some(())
    })
    .await;
    let (good, failures) = load.end().await;
    assert!(failures.is_empty(), "{} of {good} requests: {failures:?}", failures.len());
    let refused = postgres.query("postgres", "SELECT reason FROM log WHERE event = 'refused'");
    assert!(refused.is_empty(), "{refused:?}");
    let writers = postgres.query("postgres", "SELECT DISTINCT replica FROM log WHERE event = 'issued'");
    assert!(writers.len() > 1, "{writers:?}");
    scene.mesh.assert_unharmed();
}
