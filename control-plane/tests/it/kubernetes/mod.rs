//! Pods that prove themselves by their service account's token, against an API server that replays and fails.

mod attacks;
mod doors;
mod fast;
mod faults;
mod recorded;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use signet_ca::{Clock, Refusal};
use signet_control_plane::attest::config::{Kubernetes as Config, Mode};
use signet_control_plane::attest::kubernetes::{Failure, Kubernetes, Proven};
use signet_control_plane::attest::metrics::Metrics;
use signet_control_plane::listen::bootstrap::Limits;
use signet_proto::v1;
use signet_tests::apiserver::{ApiServer, PodOf};
use tonic::Status;

use crate::harness::{Member, Plane, REGISTRY, WEB, attest_by, csr};

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A clock that stands.
pub(crate) struct Standing(pub(crate) i64);

impl Clock for Standing {
    fn unix_seconds(&self) -> i64 {
        self.0
    }
}

/// The attestor alone, with its files in a folder of its own.
pub(crate) struct Cluster {
    pub(crate) api: ApiServer,
    pub(crate) kubernetes: Kubernetes,
    pub(crate) folder: tempfile::TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Cluster {
        Self::start_with(signet_tests::issuer::now(), |_| ()).await
    }

    pub(crate) async fn start_with(now: i64, change: impl FnOnce(&mut Config)) -> Cluster {
        let api = ApiServer::start().await;
        let folder = tempfile::tempdir().unwrap();
        // Writes the files.
        api.configuration(folder.path(), "");
        let mut config = Config {
            cluster: "main".into(),
            server: ("127.0.0.1".into(), api.address.port()),
            token_file: folder.path().join("api-token"),
            ca_file: folder.path().join("api-ca.pem"),
            audience: "signet-ca".into(),
            mode: Mode::Review,
            check_address: false,
            allow_unregistered: false,
        };
        change(&mut config);
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let kubernetes = Kubernetes::new(config, Arc::new(Standing(now)), metrics);
        Cluster { api, kubernetes, folder }
    }

    pub(crate) async fn attest(&self, token: &str) -> Result<Proven, Failure> {
        self.attest_for(token, "signet-ca").await
    }

    pub(crate) async fn attest_for(&self, token: &str, audience: &str) -> Result<Proven, Failure> {
        crate::harness::soon(self.kubernetes.attest(token, audience, LOOPBACK, |_| false)).await
    }
}

pub(crate) fn reason(result: Result<Proven, Failure>) -> Refusal {
    match result {
        Err(Failure::Refused(refusal, _)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// A control plane that believes the pods of a cluster.
pub(crate) async fn plane(api: &ApiServer, registry: &str, more: &str) -> Plane {
    let lines = |folder: &Path| api.configuration(folder, more);
    Plane::start_as(Limits::default(), registry, lines).await
}

pub(crate) async fn listed_plane(api: &ApiServer) -> Plane {
    plane(api, REGISTRY, "").await
}

pub(crate) fn kubernetes(token: String) -> v1::attest_request::Evidence {
    v1::attest_request::Evidence::Kubernetes(v1::KubernetesEvidence { token })
}

/// Comes to the bootstrap door with this token.
pub(crate) async fn come(plane: &mut Plane, token: String) -> Result<v1::IssuedSvid, Status> {
    let bundle = plane.token(WEB, "sidecar").await;
    attest_by(&bundle, kubernetes(token), csr(&rcgen::KeyPair::generate().unwrap())).await
}

/// Joins as a pod does.
pub(crate) async fn join(plane: &mut Plane, api: &ApiServer, pod: &PodOf) -> Member {
    let bundle = plane.token(WEB, "sidecar").await;
    let key = rcgen::KeyPair::generate().unwrap();
    let issued = attest_by(&bundle, kubernetes(api.token(pod, "signet-ca")), csr(&key)).await.unwrap();
    Member::new(&bundle, issued, &key)
}

/// The reason of the last record of the issuance log.
pub(crate) async fn last_reason(plane: &mut Plane) -> String {
    last_record(plane).await.reason
}

pub(crate) async fn last_record(plane: &mut Plane) -> v1::IssuanceRecord {
    let asked = plane.operator.list_issuances(v1::ListIssuancesRequest { limit: 1 });
    asked.await.unwrap().into_inner().records.pop().unwrap()
}
