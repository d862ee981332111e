//! `appApi`: where the app exchanges transaction tokens, and gets the keys to verify them.

use serde::{Deserialize, Serialize};

use super::{ListenAddress, SocketMode};

/// The listener for the app alone; there is none unless this is set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AppApi {
    /// A loopback address, or a socket.
    pub listen: ListenAddress,
    /// Of a socket, who can connect at all; absent: everybody where `allowedUids` says whom to serve, otherwise our own user.
    #[serde(default)]
    pub mode: Option<SocketMode>,
    /// Of a socket, who is served, by the kernel's word; absent: whoever can connect.
    #[serde(default)]
    pub allowed_uids: Option<Vec<u32>>,
}

impl AppApi {
    /// What is wrong with it: the field, what was expected and what came.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str, String)> {
        if self.allowed_uids.as_ref().is_some_and(Vec::is_empty) {
            let got = "an empty list, which serves nobody".to_owned();
            return Err(("appApi.allowedUids", "at least one uid, or no list", got));
        }
        let ListenAddress::Tcp(address) = &self.listen else { return Ok(()) };
        if !address.ip().is_loopback() {
            let expected = "a loopback address, or `unix:/absolute/path`: it is for the app beside us alone";
            return Err(("appApi.listen", expected, address.to_string()));
        }
        if self.allowed_uids.is_some() || self.mode.is_some() {
            let expected = "a socket (`unix:/absolute/path`) with mode or allowedUids: the kernel names no caller of an address";
            return Err(("appApi.listen", expected, address.to_string()));
        }
        Ok(())
    }

    /// The socket's mode as a number.
    pub fn mode_bits(&self) -> u32 {
        let default = if self.allowed_uids.is_some() { SocketMode::Everybody } else { SocketMode::Owner };
        self.mode.unwrap_or(default).bits()
    }
}
