//! `workloadApi`: the socket from which the app gets an identity of its own.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Role;

/// The workload socket; there is none unless this is set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadApi {
    /// Its path.
    pub socket: PathBuf,
    /// Who can connect at all; absent: everybody where `allowedUids` says whom to serve and in the role
    /// `agent`, otherwise our own user.
    #[serde(default)]
    pub mode: Option<SocketMode>,
    /// Who is served, by the kernel's word; absent: whoever can connect.
    #[serde(default)]
    pub allowed_uids: Option<Vec<u32>>,
}

/// The mode of a socket: who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum SocketMode {
    /// Our own user.
    #[serde(rename = "0600")]
    Owner,
    /// Our group too.
    #[serde(rename = "0660")]
    Group,
    /// Everybody whom the folder lets in.
    #[serde(rename = "0666")]
    Everybody,
}

impl WorkloadApi {
    /// The socket's mode as a number.
    pub fn mode_bits(&self, role: Role) -> u32 {
        // An agent tells everybody apart, and serves whom the registry names.
        let open = self.allowed_uids.is_some() || role == Role::Agent;
        let default = if open { SocketMode::Everybody } else { SocketMode::Owner };
        self.mode.unwrap_or(default).bits()
    }
}

impl SocketMode {
    pub(super) fn bits(self) -> u32 {
        match self {
            SocketMode::Owner => 0o600,
            SocketMode::Group => 0o660,
            SocketMode::Everybody => 0o666,
        }
    }
}
