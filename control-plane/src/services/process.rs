//! Processes: what an agent may have for the processes of its host, as far as the registry gives it.

use signet_ca::{Asked, Judge, Refusal, Vouched};
use signet_identity::SpiffeId;
use signet_model::{ProcessFacts, WorkloadId};
use signet_proto::v1;
use tonic::{Request, Response, Status};

use super::identity::Peers;
use super::{caller, convert};

/// Processes in one request: they wait for each other, and everybody else waits for them.
const MOST: usize = 32;
/// Room for as many of the greatest requests and facts that are read.
pub const MAX_MESSAGE: usize = MOST * 16 * 1024;
/// Groups of one process; the kernel allows more, no host has them.
const MAX_GROUPS: usize = 1024;
/// A program's path, and a name of a user or a group.
const MAX_TEXT: usize = 1024;
/// The name of a Registration is a DNS label.
const MAX_NAME: usize = 63;

#[tonic::async_trait]
impl v1::processes_server::Processes for Peers {
    async fn issue_x509(
        &self,
        request: Request<v1::IssueProcessX509Request>,
    ) -> Result<Response<v1::IssueProcessX509Response>, Status> {
        let caller = caller(&request)?;
        let leaf = caller.chain.first().ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let processes = request.into_inner().processes;
        if !(1..=MOST).contains(&processes.len()) {
            return Err(Status::invalid_argument(format!(
                "processes: expected 1 to {MOST}, got {}",
                processes.len()
            )));
        }
        let (mut asked, mut readable) = (Vec::new(), Vec::new());
        for v1::ProcessX509 { csr_der, registration, facts } in &processes {
            let judge = self.judge(registration.clone(), facts.clone());
            readable.push(judge.map(|judge| asked.push(Asked { csr: csr_der, judge })));
        }
        let issued = self.authority.issue_vouched(leaf, asked, self.registrar.clone());
        let mut issued = issued.await.map_err(|error| convert::status(&error))?.into_iter();
        let outcomes = readable.into_iter().map(|readable| {
            let outcome = readable.and_then(|()| match issued.next() {
                Some(Ok(issued)) => Ok(convert::svid(&issued)),
                Some(Err(error)) => Err(convert::status(&error)),
                None => Err(Status::internal("nothing is known of this process")),
            });
            outcome.map_or_else(refused, v1::process_x509_outcome::Outcome::Issued)
        });
        let outcomes = outcomes.map(|it| v1::ProcessX509Outcome { outcome: Some(it) }).collect();
        Ok(Response::new(v1::IssueProcessX509Response { outcomes }))
    }

    async fn issue_jwt(
        &self,
        request: Request<v1::IssueProcessJwtRequest>,
    ) -> Result<Response<v1::IssuedJwtSvid>, Status> {
        let caller = caller(&request)?;
        let leaf = caller.chain.first().ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let v1::IssueProcessJwtRequest { audiences, registration, facts } = request.into_inner();
        let judge = self.judge(registration, facts)?;
        let svid = self
            .authority
            .sign_vouched_jwt(leaf, audiences, judge, self.registrar.clone())
            .await
            .map_err(|error| convert::status(&error))?;
        Ok(Response::new(convert::jwt_svid(svid)))
    }
}

impl Peers {
    /// Judges by the registry of the moment at which it is asked.
    fn judge(&self, registration: String, facts: Option<v1::ProcessFacts>) -> Result<Judge, Status> {
        let facts = read(facts.unwrap_or_default())?;
        if registration.len() > MAX_NAME {
            return Err(Status::invalid_argument("registration: expected the name of a Registration"));
        }
        let (registry, trust_domain) = (self.registry.clone(), self.trust_domain.clone());
        Ok(std::sync::Arc::new(move |agent: &SpiffeId| {
            let registry = std::sync::Arc::clone(&registry.borrow().registry);
            let agent = WorkloadId::of(agent, &trust_domain).ok_or(Refusal::NotItsProcess)?;
            let (entry, processes) = registry
                .vouched_by(&agent)
                .find(|(entry, _)| entry.name.as_str() == registration)
                .ok_or(Refusal::NotItsProcess)?;
            if !processes.takes(&facts) {
                return Err(Refusal::ProcessFacts);
            }
            let spiffe_id =
                entry.spec.identity.spiffe_id(&trust_domain).map_err(|_| Refusal::IdentityShape)?;
            Ok(Vouched { spiffe_id, words: format!("process by registration {registration}: {facts}") })
        }))
    }
}

fn refused(status: Status) -> v1::process_x509_outcome::Outcome {
    v1::process_x509_outcome::Outcome::Refused(v1::ProcessRefusal {
        code: status.code().into(),
        message: status.message().to_owned(),
    })
}

/// What was said of a process, within bounds.
fn read(said: v1::ProcessFacts) -> Result<ProcessFacts, Status> {
    let v1::ProcessFacts { uid, gid, user, group, supplementary_gids, path, sha256 } = said;
    if supplementary_gids.len() > MAX_GROUPS {
        return Err(Status::invalid_argument("facts: expected at most 1024 supplementary groups"));
    }
    if [&user, &group, &path].iter().any(|text| text.len() > MAX_TEXT) {
        return Err(Status::invalid_argument("facts: expected texts of at most 1024 bytes"));
    }
    let sha256 = match sha256.len() {
        0 => None,
        _ => Some(
            <[u8; 32]>::try_from(sha256.as_slice())
                .map_err(|_| Status::invalid_argument("facts: expected a SHA-256 of 32 bytes"))?,
        ),
    };
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(ProcessFacts {
        uid,
        gid,
        user: text(user),
        group: text(group),
        supplementary_gids,
        path: text(path),
        sha256,
    })
}
