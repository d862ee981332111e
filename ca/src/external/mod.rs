//! Roots that are not made here.
//!
//! By default the authority makes its root itself. It can stand under a root that is kept elsewhere instead, in one of
//! two ways. *External*: the root's key is never here. The authority makes a key and a request for a certificate
//! ([`request`]); somebody signs it under the root, offline, and hands the certificate back ([`import`]). *Folder*: a
//! certificate and its key lie in a folder, where somebody else (cert-manager, for one) replaces them; the folder is
//! looked at again and again ([`folder`]), whatever events were or were not seen. Whatever comes is read by [`chain`]
//! before it is believed, proves itself on a throwaway key, and enters the rotation like any other root: published,
//! acknowledged, active. In the journal such a root is one entry of kind root: the anchor that verifiers hold and,
//! where the two differ, the certificate of the key that signs issuers.

pub(crate) mod chain;
mod folder;
mod import;
mod reminder;
mod request;

use std::path::PathBuf;

pub use chain::RootChainError;
pub use folder::Look;
pub(crate) use folder::Seen;
pub use import::Imported;
pub use request::RootRequest;
pub(crate) use request::request;

use crate::rotation::machine::Roots;

/// Where the mesh's root comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RootSource {
    /// It is made here.
    #[default]
    Own,
    /// Its key is kept elsewhere, and signs what is asked for here.
    External,
    /// This folder has `tls.crt`, `tls.key` and `ca.crt`.
    Folder(PathBuf),
}

impl RootSource {
    pub(crate) fn roots(&self) -> Roots {
        match self {
            RootSource::Own => Roots::Made,
            RootSource::External => Roots::Requested,
            RootSource::Folder(_) => Roots::Given,
        }
    }
}
