//! Between the authority's words and the protocol's.

use signet_ca::{AuthorityError, BackupError, Issued, JwtSvid, Outward, Record, Refusal, StoreError};
use signet_proto::v1;
use tonic::{Code, Status};

use crate::attest::Denied;
use crate::world::AuthorityState;

/// What the caller hears. A refusal says what it may; a failure of ours says nothing of its cause.
pub(crate) fn status(error: &AuthorityError) -> Status {
    let Some(refusal) = error.refusal() else {
        return Status::unavailable("the authority cannot do this now; try again");
    };
    let code = match refusal.outward() {
        Outward::Invalid => Code::InvalidArgument,
        Outward::Unauthenticated => Code::Unauthenticated,
        Outward::Denied => Code::PermissionDenied,
        Outward::Precondition => Code::FailedPrecondition,
        Outward::Exhausted => Code::ResourceExhausted,
    };
    Status::new(code, refusal.outward_message())
}

/// What a pod hears: one text for all that is wrong with who it is or what it shows.
pub(crate) fn denied(denied: &Denied) -> Status {
    let error = match denied {
        Denied::Authority(error) => error,
        Denied::Unavailable => {
            return Status::unavailable("the evidence cannot be judged now; try again");
        }
    };
    match error.refusal().map(Refusal::outward) {
        Some(Outward::Denied | Outward::Unauthenticated) => {
            Status::unauthenticated("the evidence is not accepted")
        }
        _ => status(error),
    }
}

/// A token as it travels.
pub(crate) fn jwt_svid(svid: JwtSvid) -> v1::IssuedJwtSvid {
    v1::IssuedJwtSvid {
        token: svid.token,
        spiffe_id: svid.spiffe_id.to_string(),
        issued_at: svid.issued_at,
        expires_at: svid.expires_at,
    }
}

/// The operator may know why.
pub(crate) fn operator_status(error: &AuthorityError) -> Status {
    let status = status(error);
    match error.refusal() {
        Some(refusal) => Status::new(status.code(), refusal.detail()),
        None if matches!(error, AuthorityError::Backup(BackupError::NotConfigured)) => {
            Status::failed_precondition(error.to_string())
        }
        None if is_damage(error) => Status::data_loss(error.to_string()),
        None => Status::new(status.code(), error.to_string()),
    }
}

/// The store is not what the authority wrote: trying again does not help.
fn is_damage(error: &AuthorityError) -> bool {
    let AuthorityError::Store(error) = error else { return false };
    let mut error = error;
    while let StoreError::Shared(inner) = error {
        error = inner;
    }
    matches!(
        error,
        StoreError::Chain(_)
            | StoreError::Tampered { .. }
            | StoreError::Corrupt { .. }
            | StoreError::Revocations { .. }
            | StoreError::RevocationsSetBack { .. }
    )
}

pub(crate) fn issued(issued: &Issued, authority: &AuthorityState) -> v1::IssuedSvid {
    v1::IssuedSvid { bundle: Some(crate::delivery::bundle(authority)), ..svid(issued) }
}

/// The same without the bundle.
pub(crate) fn svid(issued: &Issued) -> v1::IssuedSvid {
    v1::IssuedSvid {
        spiffe_id: issued.spiffe_id.to_string(),
        chain_der: issued.chain.iter().map(|der| der.to_vec()).collect(),
        not_before: issued.not_before,
        not_after: issued.not_after,
        renew_at: issued.renew_at,
        bundle: None,
    }
}

pub(crate) fn record(record: &Record) -> v1::IssuanceRecord {
    v1::IssuanceRecord {
        sequence: record.sequence,
        at: record.at,
        event: record.event.to_string(),
        spiffe_id: record.spiffe_id.clone(),
        peer_class: record.class.clone(),
        serial: record.serial.clone(),
        not_after: record.not_after.unwrap_or(0),
        reason: record.reason.clone(),
        actor: record.actor.clone(),
        hash: hex(&record.hash),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
