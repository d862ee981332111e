//! What can go wrong with an act of the authority: it refuses, or it fails.

use crate::check::CheckError;
use crate::config::ConfigError;
use crate::files::FileError;
use crate::hierarchy::HierarchyError;
use crate::issue::SignError;
use crate::refusal::Refusal;
use crate::seal::SealError;
use crate::store::StoreError;

/// An act that was not done. [`Refused`](AuthorityError::Refused) is the caller's matter and displays only
/// what the caller may hear; every other one is ours.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{0}")]
    Refused(Refusal),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Hierarchy(#[from] HierarchyError),
    #[error("the certificate is not taken: {0}")]
    External(crate::external::RootChainError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error("the token key: {0}")]
    TokenKey(#[from] signet_token::KeyError),
    #[error(transparent)]
    Delegation(#[from] signet_token::DelegationError),
    #[error("the certificate made for the control plane cannot be used: {0}")]
    OwnSvid(#[from] signet_identity::OwnSvidError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("another process has {path} open: one data directory serves one control plane")]
    AlreadyOpen { path: std::path::PathBuf },
    #[error("no copy was made: {0}")]
    Backup(#[from] crate::backup::BackupError),
    #[error("the data directory was restored from a copy: {0}")]
    Copy(#[from] crate::backup::manifest::CopyMismatch),
    #[error("the act was interrupted: {0}")]
    Interrupted(String),
}

impl AuthorityError {
    /// The typed reason, if this is a refusal.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            AuthorityError::Refused(refusal) => Some(*refusal),
            _ => None,
        }
    }
}
