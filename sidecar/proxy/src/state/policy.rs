//! Who may call us: a compiled policy set for each served service, and the mesh's settings.

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use signet_policy::PolicySet;

use crate::authz::Provider;

/// Settings of the whole mesh.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeshSettings {
    /// What happens where no policy speaks, and to outbound destinations that nobody knows. False denies.
    pub default_allow: bool,
    /// What happens to a call to a place outside the mesh that is not listed. False is deny.
    pub egress_allow: bool,
    /// The longest life of an opaque stream.
    pub max_connection_age: Option<Duration>,
    /// How old our view may be for it to vouch for a peer whose SVID has ended. Zero: only while news arrives.
    pub max_staleness: Duration,
}

/// The policy of one served service.
pub struct Served {
    /// Compiled policies.
    pub policies: PolicySet,
    /// How many permitted requests a second are recorded.
    pub samples: u32,
    /// Aliases of the issuers whose JWTs the service takes in the `original` mode; empty is all.
    pub issuer_aliases: Vec<Arc<str>>,
}

/// The policy snapshot.
#[derive(Clone, Default)]
pub struct Policy {
    /// Grows with each change.
    pub generation: u64,
    /// Settings of the whole mesh.
    pub mesh: MeshSettings,
    served: HashMap<Arc<str>, Arc<Served>>,
    /// Who else is asked, by `name.namespace`.
    providers: HashMap<Arc<str>, Arc<Provider>>,
}

impl Policy {
    /// The next snapshot, with this policy for one service; `None` removes it, and the service denies.
    #[must_use]
    pub fn with_served(&self, service: &str, served: Option<Served>) -> Self {
        let mut next = Policy { generation: self.generation + 1, ..self.clone() };
        match served {
            Some(served) => next.served.insert(service.into(), Arc::new(served)),
            None => next.served.remove(service),
        };
        next
    }

    /// The next snapshot, with these mesh settings.
    #[must_use]
    pub fn with_mesh(&self, mesh: MeshSettings) -> Self {
        Policy { generation: self.generation + 1, mesh, ..self.clone() }
    }

    /// The next snapshot, with these as who is asked; `None` removes one, and what it would be asked about is refused.
    #[must_use]
    pub fn with_providers<'a>(
        &self,
        providers: impl IntoIterator<Item = (&'a str, Option<Arc<Provider>>)>,
    ) -> Self {
        let mut next = Policy { generation: self.generation + 1, ..self.clone() };
        for (name, provider) in providers {
            match provider {
                Some(provider) => next.providers.insert(name.into(), provider),
                None => next.providers.remove(name),
            };
        }
        next
    }

    /// Who is asked under this name.
    pub fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.get(name)
    }

    /// Whether time alone may change what was decided.
    pub fn depends_on_time(&self) -> bool {
        self.served.values().any(|served| served.policies.depends_on_time())
    }

    /// The policy of a service. `None` means that it has not arrived: everything is denied.
    pub fn of(&self, service: &str) -> Option<&Arc<Served>> {
        self.served.get(service)
    }
}
