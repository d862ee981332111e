//! A certificate for what a pod shows: its token and the roots, both as they are at that moment.

use std::sync::Arc;

use signet_identity::{TrustBundle, bootstrap_client_config_with_roots, server_name};
use signet_proto::v1;
use signet_proto::v1::bootstrap_client::BootstrapClient;
use tonic::Code;

use super::{Identity, IdentityError, MAX_ANSWER, Term, call, said};
use crate::candidate::Candidate;
use crate::control::link::{Link, Target};
use crate::pod::PodError;

impl Identity {
    /// One certificate for our token as it is now, and a new key: a certificate that got lost on its way to us
    /// is nobody's.
    pub(super) async fn attest_pod(&self, event: &'static str) -> Result<Term, IdentityError> {
        let Some(pod) = &self.pod else {
            return Err(IdentityError::Answer("this process is no pod".to_owned()));
        };
        let read = pod.clone();
        // Small files in memory, but files all the same.
        let files = tokio::task::spawn_blocking(move || Ok::<_, PodError>((read.token()?, read.roots()?)));
        let (token, roots) = files.await.map_err(|error| IdentityError::Answer(error.to_string()))??;
        let candidate = Candidate::new()?;
        let target = Target {
            address: pod.bootstrap_address.clone(),
            server_name: server_name(&pod.control_plane),
            tls: bootstrap_client_config_with_roots(self.with_delivered(roots))?,
            // The verifier has checked everything, and this connection never resumes.
            check: Arc::new(|_| Ok(())),
            told: self.credentials.told(),
        };
        let link = Link::dial(&target).await?;
        let origin = link.origin();
        let mut client = BootstrapClient::with_origin(link, origin).max_decoding_message_size(MAX_ANSWER);
        let evidence = v1::KubernetesEvidence { token: token.as_str().to_owned() };
        let request = v1::AttestRequest {
            csr_der: candidate.csr_der().to_vec(),
            evidence: Some(v1::attest_request::Evidence::Kubernetes(evidence)),
        };
        let issued = call(client.attest(request)).await.map_err(|status| match status.code() {
            code @ (Code::Unauthenticated
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::FailedPrecondition) => IdentityError::NotAttested {
                address: pod.bootstrap_address.clone(),
                code,
                reason: said(&status),
            },
            code => IdentityError::Unavailable { code, reason: said(&status) },
        })?;
        self.take(issued, &candidate, event)
    }

    /// The roots of the file, and those that the control plane delivered since: the file may be behind.
    fn with_delivered(&self, file: TrustBundle) -> TrustBundle {
        let domain = file.trust_domain().clone();
        let delivered = self.credentials.current().map(|tls| tls.generation.bundles().clone());
        let delivered = delivered.and_then(|bundles| bundles.get(&domain).cloned());
        let roots = file.roots().chain(delivered.iter().flat_map(|bundle| bundle.roots())).cloned();
        TrustBundle::new(domain, roots.collect::<Vec<_>>()).unwrap_or(file)
    }
}
