//! JWT-SVIDs for the app: kept for half of their life, so that an app may ask for each call that it makes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use signet_identity::SpiffeId;
use signet_proto::v1;
use signet_proto::v1::identity_client::IdentityClient;
use signet_workload::{JwtSvid, Refused};
use tonic::Code;

use crate::clock;
use crate::control::plane::ControlPlane;
use crate::identity::{MAX_ANSWER, call, said};

/// Sets of audiences that are remembered. A caller that invents more costs itself the memory of the others.
const MAX_KEPT: usize = 256;
/// A token that ends sooner is of no use to anybody.
const MIN_LEFT: i64 = 10;

struct Kept {
    token: JwtSvid,
    /// Until then it is handed out; later only where there is no other.
    fresh_until: i64,
    expires_at: i64,
}

/// See the module's story.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<Vec<String>, Kept>>);

impl Tokens {
    /// A token for these audiences. Where the control plane cannot be reached, one that has not ended will do.
    pub(crate) async fn get(
        &self,
        own: &SpiffeId,
        mut audiences: Vec<String>,
        ask: impl AsyncFnOnce(&[String]) -> Result<v1::IssuedJwtSvid, Refused>,
    ) -> Result<JwtSvid, Refused> {
        audiences.sort();
        if let Some(token) = self.kept(&audiences, |kept| kept.fresh_until) {
            return Ok(token);
        }
        match ask(&audiences).await.and_then(|issued| believe(issued, own)) {
            Ok(kept) => {
                let token = kept.token.clone();
                self.keep(audiences, kept);
                Ok(token)
            }
            Err(Refused::Unavailable(why)) => {
                let last = self.kept(&audiences, |kept| kept.expires_at.saturating_sub(MIN_LEFT));
                last.ok_or(Refused::Unavailable(why))
            }
            Err(refused) => Err(refused),
        }
    }

    /// None of them is handed out any more.
    pub(crate) fn forget(&self) {
        self.all().clear();
    }

    fn kept(&self, audiences: &[String], until: impl Fn(&Kept) -> i64) -> Option<JwtSvid> {
        let all = self.all();
        let kept = all.get(audiences)?;
        (clock::now() < until(kept)).then(|| kept.token.clone())
    }

    fn keep(&self, audiences: Vec<String>, kept: Kept) {
        let mut all = self.all();
        if all.len() >= MAX_KEPT {
            let now = clock::now();
            all.retain(|_, kept| now < kept.fresh_until);
            if all.len() >= MAX_KEPT {
                all.clear();
            }
        }
        all.insert(audiences, kept);
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<String>, Kept>> {
        // Every change is a single one of the map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for one of a sidecar's own identity.
pub(crate) async fn of_our_own(
    plane: &Arc<ControlPlane>,
    own: &SpiffeId,
    audiences: &[String],
) -> Result<v1::IssuedJwtSvid, Refused> {
    let (_, link) = plane.link().await.map_err(|error| Refused::Unavailable(error.to_string()))?;
    let origin = link.origin();
    let mut client = IdentityClient::with_origin(link, origin).max_decoding_message_size(MAX_ANSWER);
    let request = v1::IssueJwtSvidRequest { audiences: audiences.to_vec(), spiffe_id: own.to_string() };
    call(client.issue_jwt_svid(request)).await.map_err(|status| refused(&status))
}

/// The authority's no, in the socket's words.
pub(crate) fn refused(status: &tonic::Status) -> Refused {
    let why = said(status);
    tracing::warn!(target: "signet::workload", code = ?status.code(), reason = why, "no JWT-SVID for the app");
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => Refused::Denied(why),
        Code::InvalidArgument => Refused::Invalid(why),
        Code::ResourceExhausted => Refused::Exhausted(why),
        _ => Refused::Unavailable(why),
    }
}

fn believe(issued: v1::IssuedJwtSvid, own: &SpiffeId) -> Result<Kept, Refused> {
    let unavailable = |why: String| Refused::Unavailable(why);
    let now = clock::now();
    if issued.spiffe_id != own.as_str() || issued.expires_at <= now {
        return Err(unavailable("the control plane's answer is another's token, or has ended".to_owned()));
    }
    let half = issued.expires_at.saturating_sub(now) / 2;
    Ok(Kept {
        token: JwtSvid { spiffe_id: own.clone(), token: issued.token, hint: String::new() },
        fresh_until: now.saturating_add(half),
        expires_at: issued.expires_at,
    })
}
