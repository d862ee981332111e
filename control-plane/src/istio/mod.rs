//! Istio's `CreateCertificate`, so that its clients get certificates of this mesh unchanged.
//!
//! A listener of its own, under names that those clients dial (`istiod.istio-system.svc`), server-authenticated; the
//! caller proves itself by a service account token of an audience of its own. What it gets is a key held by an
//! app: class `workload`, no DNS name, no voice in user context. From its request only the public key is taken.
//! A node proxy that the configuration lists may ask for the workloads of its own node, and for no others.

pub mod config;
mod request;

use rustls_pki_types::CertificateDer;
use signet_ca::{Issued, Outward};
use signet_proto::istio::istio_certificate_service_server::IstioCertificateService;
use signet_proto::istio::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::{Request, Response, Status};

use self::config::Istio;
use crate::attest::{Ask, Attestation, Denied, Want};
use crate::listen::bootstrap::Stranger;

/// A CSR with an RSA key and many names, and what stands beside it.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// The service.
#[derive(Clone)]
pub struct Certificates {
    pub attestation: Attestation,
    pub config: Istio,
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let stranger = request
            .extensions()
            .get::<Stranger>()
            .copied()
            .ok_or_else(|| Status::internal("a call without a connection"))?;
        // Who calls comes first, as in Istio: without a token nothing is said about the request.
        let token = request::bearer(request.metadata()).ok_or_else(unauthenticated)?;
        let asked =
            request::Asked::read(request.get_ref(), self.config.max_ttl, &self.attestation.trust_domain)?;
        let ask = Ask {
            token: &token,
            audience: &self.config.audience,
            csr_der: &asked.csr_der,
            address: stranger.address.ip(),
            want: Want::Apps {
                of: asked.of.as_ref(),
                ttl: asked.ttl,
                node_accounts: &self.config.trusted_node_accounts,
            },
        };
        let issued = self.attestation.issue(ask).await.map_err(|denied| status(&denied))?;
        let bundle = self
            .attestation
            .authority
            .trust_bundle()
            .map_err(|_| Status::unavailable("the authority cannot do this now; try again"))?;
        Ok(Response::new(IstioCertificateResponse { cert_chain: chain(&issued, bundle.roots()) }))
    }
}

/// One text for whatever is wrong with who the caller is.
fn unauthenticated() -> Status {
    Status::unauthenticated("request authenticate failure")
}

/// Every reason has its code; what is about the caller's own request says so, nothing else does.
fn status(denied: &Denied) -> Status {
    let refusal = match denied {
        Denied::Unavailable => return Status::unavailable("the token cannot be reviewed now; try again"),
        Denied::Authority(error) => match error.refusal() {
            Some(refusal) => refusal,
            None => return Status::unavailable("the authority cannot do this now; try again"),
        },
    };
    match refusal.outward() {
        Outward::Invalid => Status::invalid_argument(refusal.outward_message()),
        Outward::Precondition => Status::failed_precondition(refusal.outward_message()),
        Outward::Exhausted => Status::resource_exhausted(refusal.outward_message()),
        Outward::Unauthenticated | Outward::Denied => unauthenticated(),
    }
}

/// Leaf, then intermediates, each an element of its own; the last element holds every root.
fn chain<'a>(issued: &Issued, roots: impl Iterator<Item = &'a CertificateDer<'static>>) -> Vec<String> {
    let mut chain: Vec<String> = issued.chain.iter().map(|der| pem(der)).collect();
    chain.push(roots.map(|der| pem(der)).collect());
    chain
}

/// RFC 7468, with the newline at the end.
fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::with_capacity(text.len().saturating_add(128));
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use signet_ca::{AuthorityError, Refusal};
    use tonic::Code;

    use super::*;

    #[test]
    fn every_error_has_a_code_and_a_stranger_hears_one_text() {
        let refused = |refusal| status(&Denied::Authority(AuthorityError::Refused(refusal)));
        for (refusal, code) in [
            (Refusal::EvidenceAudience, Code::Unauthenticated),
            (Refusal::EvidenceRefused, Code::Unauthenticated),
            (Refusal::EvidenceUnbound, Code::Unauthenticated),
            (Refusal::Impersonation, Code::Unauthenticated),
            (Refusal::NotRegistered, Code::Unauthenticated),
            (Refusal::IdentityRevoked, Code::Unauthenticated),
            (Refusal::CsrBadSignature, Code::InvalidArgument),
            (Refusal::CsrRsa, Code::InvalidArgument),
            (Refusal::Lifetime, Code::InvalidArgument),
            (Refusal::KeyUsed, Code::FailedPrecondition),
            (Refusal::TooManyAttempts, Code::ResourceExhausted),
            (Refusal::EvidenceInFlight, Code::ResourceExhausted),
        ] {
            let status = refused(refusal);
            assert_eq!(status.code(), code, "{refusal:?}");
            if code == Code::Unauthenticated {
                assert_eq!(status.message(), "request authenticate failure", "{refusal:?}");
            }
        }
        assert_eq!(status(&Denied::Unavailable).code(), Code::Unavailable);
        let failed = AuthorityError::Interrupted("a secret cause".into());
        let said = status(&Denied::Authority(failed));
        assert_eq!(said.code(), Code::Unavailable);
        assert!(!said.message().contains("secret"));
    }

    #[test]
    fn pem_has_lines_of_64_and_ends_with_a_newline() {
        let text = pem(&[7; 100]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[1].len(), lines[3].len()), (64, 8));
        assert!(text.ends_with("-----END CERTIFICATE-----\n"));
        let back = <CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(text.as_bytes());
        assert_eq!(back.unwrap().as_ref(), [7; 100]);
    }
}
