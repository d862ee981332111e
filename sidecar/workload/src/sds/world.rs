//! State of the world: each response holds every secret that was asked for.
//!
//! A response is told when the names changed or what they mean did; neither an acknowledgement nor a refusal brings
//! another one. An answer to anything but the last response is old, and nothing follows from it. A name that this
//! caller may not have ends the stream: the client would wait for it for ever.

use std::collections::BTreeSet;

use signet_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tonic::Status;

use super::secret::{self, Written};
use super::{Protocol, TYPE_URL, check_type, hex, names, nonce, note_nack};
use crate::api::digest;
use crate::provider::Served;

/// Names in one request. A caller has a handful of identities.
pub(super) const MAX_NAMES: usize = 256;
/// A SPIFFE ID's bound.
pub(super) const MAX_NAME: usize = 2048;

#[derive(Default)]
pub(super) struct World {
    begun: bool,
    /// Empty: everything.
    names: BTreeSet<String>,
    pools: bool,
    /// The last response, until the next.
    told: Option<Told>,
    /// What it was is to be told whether or not it changed.
    anew: bool,
}

struct Told {
    nonce: String,
    version: String,
}

impl Protocol for World {
    type Asked = DiscoveryRequest;
    type Told = DiscoveryResponse;

    fn asked(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        check_type(&request.type_url)?;
        let names = check_names(request.resource_names)?;
        if let Some(node) = request.node.as_ref().filter(|_| !self.begun) {
            self.pools = secret::pools(node);
        }
        if let Some(told) = &self.told {
            if request.response_nonce != told.nonce {
                return Ok(());
            }
            if let Some(error) = &request.error_detail {
                note_nack(error, &told.nonce);
            }
        }
        if !self.begun || self.names != names {
            self.names = names;
            self.anew = true;
        }
        self.begun = true;
        Ok(())
    }

    fn tell(&mut self, served: &Served) -> Result<Option<DiscoveryResponse>, Status> {
        let names: Vec<String> = match self.names.is_empty() {
            true => names::everything(served),
            false => self.names.iter().cloned().collect(),
        };
        let (mut secrets, mut unknown) = (Vec::new(), Vec::new());
        for name in &names {
            match secret::write(served, name, self.pools) {
                Some(written) => secrets.push(written),
                None => unknown.push(format!("{name:?}")),
            }
        }
        if !unknown.is_empty() {
            return Err(Status::invalid_argument(format!(
                "workload is not authorized for the requested identities [{}]",
                unknown.join(" ")
            )));
        }
        let version = version(&secrets);
        if !self.anew && self.told.as_ref().is_some_and(|told| told.version == version) {
            return Ok(None);
        }
        self.anew = false;
        let told = Told { nonce: nonce(), version };
        let response = DiscoveryResponse {
            version_info: told.version.clone(),
            resources: secrets.into_iter().map(|written| written.any).collect(),
            type_url: TYPE_URL.to_owned(),
            nonce: told.nonce.clone(),
        };
        self.told = Some(told);
        Ok(Some(response))
    }
}

fn version(secrets: &[Written]) -> String {
    let parts = secrets.iter().flat_map(|written| [written.name.as_bytes(), written.version.as_bytes()]);
    hex(digest(parts).get(..8).unwrap_or_default())
}

/// Bounded before anything is kept of them.
pub(super) fn check_names(names: Vec<String>) -> Result<BTreeSet<String>, Status> {
    if names.len() > MAX_NAMES {
        return Err(Status::invalid_argument(format!(
            "expected at most {MAX_NAMES} names, got {}",
            names.len()
        )));
    }
    if let Some(long) = names.iter().map(String::len).find(|length| *length > MAX_NAME) {
        return Err(Status::invalid_argument(format!(
            "expected names of at most {MAX_NAME} bytes, got one of {long}"
        )));
    }
    Ok(names.into_iter().collect())
}
