//! The incremental protocol: only what the client does not have.
//!
//! Subscriptions come and go with any request. What a client was told it is not told again, whether it took it or not,
//! until it changes, or until the client subscribes to it anew. A name that means nothing to this caller is told as
//! removed, once, and is told of when it comes to mean something.

use std::collections::{BTreeMap, BTreeSet};

use signet_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use tonic::Status;

use super::secret;
use super::world::{MAX_NAMES, check_names};
use super::{Protocol, TYPE_URL, check_type, hex, names, nonce, note_nack};
use crate::api::digest;
use crate::provider::Served;

/// The name that stands for everything.
const WILDCARD: &str = "*";

#[derive(Default)]
pub(super) struct Delta {
    begun: bool,
    everything: bool,
    names: BTreeSet<String>,
    pools: bool,
    /// Name to version, as the client was told or says that it has; `None` where it was told that there is none.
    told: BTreeMap<String, Option<String>>,
    pub(super) nonce: String,
}

impl Protocol for Delta {
    type Asked = DeltaDiscoveryRequest;
    type Told = DeltaDiscoveryResponse;

    fn asked(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        check_type(&request.type_url)?;
        let subscribed = check_names(request.resource_names_subscribe)?;
        let unsubscribed = check_names(request.resource_names_unsubscribe)?;
        if !self.begun {
            self.pools = request.node.as_ref().is_some_and(secret::pools);
            // A first request that names nothing means everything, as it did before there was a wildcard.
            self.everything = subscribed.is_empty();
            if request.initial_resource_versions.len() > MAX_NAMES {
                return Err(Status::invalid_argument(format!("expected at most {MAX_NAMES} versions")));
            }
            self.told = request.initial_resource_versions.into_iter().map(|(n, v)| (n, Some(v))).collect();
        } else {
            // Subscribing anew is asking anew.
            subscribed.iter().for_each(|name| drop(self.told.remove(name)));
        }
        if let Some(error) = &request.error_detail
            && request.response_nonce == self.nonce
        {
            note_nack(error, &self.nonce);
        }
        for name in unsubscribed {
            if name == WILDCARD {
                self.everything = false;
            }
            self.names.remove(&name);
            if !self.everything {
                self.told.remove(&name);
            }
        }
        for name in subscribed {
            if name == WILDCARD {
                self.everything = true;
            } else {
                self.names.insert(name);
            }
        }
        if self.names.len() > MAX_NAMES {
            return Err(Status::invalid_argument(format!("expected at most {MAX_NAMES} subscriptions")));
        }
        self.begun = true;
        Ok(())
    }

    fn tell(&mut self, served: &Served) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let mut wanted = self.names.clone();
        if self.everything {
            wanted.extend(names::everything(served));
        }
        let mut resources = Vec::new();
        let mut removed = Vec::new();
        for name in &wanted {
            match secret::write(served, name, self.pools) {
                Some(written) => {
                    if self.told.get(name) != Some(&Some(written.version.clone())) {
                        self.told.insert(name.clone(), Some(written.version.clone()));
                        resources.push(Resource {
                            version: written.version,
                            resource: Some(written.any),
                            name: written.name,
                        });
                    }
                }
                None => {
                    if self.told.get(name) != Some(&None) {
                        self.told.insert(name.clone(), None);
                        removed.push(name.clone());
                    }
                }
            }
        }
        // Of everything, what is no longer there; and what the client has but never asked for.
        let gone = self.told.keys().filter(|name| !wanted.contains(*name)).cloned().collect::<Vec<_>>();
        for name in gone {
            if self.told.remove(&name).is_some_and(|version| version.is_some()) {
                removed.push(name);
            }
        }
        if resources.is_empty() && removed.is_empty() {
            return Ok(None);
        }
        self.nonce = nonce();
        let all = self.told.iter().filter_map(|(name, version)| Some((name, version.as_ref()?)));
        let version = digest(all.flat_map(|(name, version)| [name.as_bytes(), version.as_bytes()]));
        Ok(Some(DeltaDiscoveryResponse {
            system_version_info: hex(version.get(..8).unwrap_or_default()),
            resources,
            type_url: TYPE_URL.to_owned(),
            nonce: self.nonce.clone(),
            removed_resources: removed,
        }))
    }
}
