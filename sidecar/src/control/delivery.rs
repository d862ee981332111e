//! What the control plane has told us: resources by name, applied delta by delta. Pure.
//!
//! A delta is applied as a whole before anybody sees any of it. A resource that cannot be read keeps the
//! version that was there before and is named in the answer; a policy that cannot be read is taken, because
//! its target must deny and not go on under an older, laxer one. Everything is kept while the control plane
//! is gone, and a new stream begins with the versions that are here ([`Deliveries::haves`]).

use std::collections::{BTreeMap, BTreeSet};

use signet_proto::v1;

use super::convert::{self, Item};

/// More resources than a mesh of ours can send to one sidecar: a control plane gone wild costs memory once.
const MAX_RESOURCES: usize = 50_000;

/// What is known, and what we asked for.
#[derive(Debug, Default)]
pub struct Deliveries {
    held: BTreeMap<String, Held>,
    /// Names whose latest version was rejected, with the reason.
    rejected: BTreeMap<String, String>,
    first: bool,
}

#[derive(Debug)]
struct Held {
    version: String,
    item: Item,
}

/// Which parts of the data plane's state a delta touched.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Settings of the mesh.
    pub mesh: bool,
    /// Roots.
    pub bundles: bool,
    /// Who is no longer believed.
    pub revocations: bool,
    /// Token roots and issuers.
    pub keys: bool,
    /// The gateway's configuration.
    pub gateway: bool,
    /// Whether our app may have certificates of its own.
    pub workload: bool,
    /// What an agent may vouch for.
    pub processes: bool,
    /// Revocation lists for apps and processes.
    pub revocation_lists: bool,
    /// Services that we dial, by `name.namespace`: new, changed or gone.
    pub services: BTreeSet<String>,
    /// Places outside, likewise.
    pub external: BTreeSet<String>,
    /// Services whose routes changed, likewise.
    pub routes: BTreeSet<String>,
    /// Services that we serve, likewise.
    pub inbound: BTreeSet<String>,
    /// Who is asked about requests to them, likewise.
    pub providers: BTreeSet<String>,
}

impl Changed {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn note(&mut self, name: &str) {
        match name.split_once('/') {
            Some(("service", service)) => {
                self.services.insert(service.to_owned());
            }
            Some(("external", place)) => {
                self.external.insert(place.to_owned());
            }
            Some(("routes", service)) => {
                self.routes.insert(service.to_owned());
            }
            Some(("inbound", service)) => {
                self.inbound.insert(service.to_owned());
            }
            Some(("provider", provider)) => {
                self.providers.insert(provider.to_owned());
            }
            Some(("bundle", _)) => self.bundles = true,
            Some(("issuer", _)) => self.keys = true,
            Some(("gateway", _)) => self.gateway = true,
            _ if name == "mesh" => self.mesh = true,
            _ if name == "revocations" => self.revocations = true,
            _ if name == "token-roots" => self.keys = true,
            _ if name == "workload" => self.workload = true,
            _ if name == "processes" => self.processes = true,
            _ if name == "revocation-lists" => self.revocation_lists = true,
            _ => {}
        }
    }
}

impl Deliveries {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a first delta was applied, so that what is not here is not there either.
    pub fn is_started(&self) -> bool {
        self.first
    }

    /// What a new stream is told that we have.
    pub fn haves(&self) -> Vec<v1::Have> {
        let have =
            |(name, held): (&String, &Held)| v1::Have { name: name.clone(), version: held.version.clone() };
        self.held.iter().map(have).collect()
    }

    /// Applies a delta, and the answer to it.
    pub fn apply(&mut self, delta: v1::Delta) -> (Changed, v1::from_sidecar::Message) {
        let mut changed = Changed::default();
        let mut rejected = Vec::new();
        for name in &delta.removed {
            self.rejected.remove(name);
            if self.held.remove(name).is_some() {
                changed.note(name);
            }
        }
        for resource in delta.upserts {
            let name = resource.name.clone();
            let read = convert::resource(&resource).and_then(|item| {
                if self.held.len() >= MAX_RESOURCES && !self.held.contains_key(&name) {
                    return Err(format!("more than {MAX_RESOURCES} resources"));
                }
                Ok(item)
            });
            match read {
                Ok(item) => {
                    let unreadable = match &item {
                        Item::Inbound(inbound) => inbound.unreadable.join("; "),
                        Item::Service(service) => service.unreadable.join("; "),
                        Item::Provider(asked) => asked
                            .provider
                            .as_ref()
                            .err()
                            .map(|why| format!("{why}; what it would be asked about is refused"))
                            .unwrap_or_default(),
                        Item::Revocations(revocations) => revocations.unenforced().unwrap_or_default(),
                        _ => String::new(),
                    };
                    self.held.insert(name.clone(), Held { version: resource.version, item });
                    changed.note(&name);
                    if unreadable.is_empty() {
                        self.rejected.remove(&name);
                    } else {
                        rejected.push((name, unreadable));
                    }
                }
                Err(reason) => rejected.push((name, reason)),
            }
        }
        self.first = true;
        self.rejected.extend(rejected.iter().cloned());
        let answer = if rejected.is_empty() {
            v1::from_sidecar::Message::Ack(v1::Ack { nonce: delta.nonce })
        } else {
            let rejected = rejected.into_iter().map(|(name, reason)| v1::Rejected { name, reason }).collect();
            v1::from_sidecar::Message::Nack(v1::Nack { nonce: delta.nonce, rejected })
        };
        (changed, answer)
    }

    /// One resource by its name.
    pub fn get(&self, name: &str) -> Option<&Item> {
        self.held.get(name).map(|held| &held.item)
    }

    /// Every resource.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.held.values().map(|held| &held.item)
    }

    /// Name to version of every resource, for the admin socket.
    pub fn versions(&self) -> BTreeMap<&str, &str> {
        self.held.iter().map(|(name, held)| (name.as_str(), held.version.as_str())).collect()
    }

    /// What was not taken, by name, with the reason.
    pub fn rejected(&self) -> &BTreeMap<String, String> {
        &self.rejected
    }
}

#[cfg(test)]
mod tests;
