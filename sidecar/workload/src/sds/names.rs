//! Which secret a name means. Each name is resolved on its own, so an alias and what it stands for may be asked for
//! together and are both answered.

use signet_identity::{SpiffeId, TrustBundle, TrustDomain};

use crate::provider::{Identity, Served};

/// The caller's first identity.
pub(crate) const DEFAULT: &str = "default";
/// The roots of the caller's own trust domain.
pub(crate) const ROOT_CA: &str = "ROOTCA";
/// The roots of every trust domain; only where the client can keep them apart.
pub(crate) const ALL: &str = "ALL";

/// What a name means.
pub(crate) enum Meaning<'s> {
    Identity(&'s Identity),
    Roots(&'s TrustBundle),
    AllRoots,
}

/// What `name` means to this caller; `None` if it means nothing that this caller may have. `pools` says that the client
/// cannot keep trust domains apart: what would need that has no meaning to it.
pub(crate) fn meaning<'s>(served: &'s Served, name: &str, pools: bool) -> Option<Meaning<'s>> {
    let roots = |domain: &TrustDomain| served.bundles.x509.get(domain).map(|bundle| Meaning::Roots(bundle));
    match name {
        DEFAULT => served.identities.first().map(Meaning::Identity),
        ROOT_CA => roots(own_domain(served)?),
        ALL => (!pools).then_some(Meaning::AllRoots),
        name => {
            let id = SpiffeId::parse(name).ok()?;
            if id.is_root() {
                return roots(id.trust_domain());
            }
            served.identities.iter().find(|identity| *identity.id() == id).map(Meaning::Identity)
        }
    }
}

/// The names of everything that a caller may have: what an empty list of names means. Aliases are not among them.
pub(crate) fn everything(served: &Served) -> Vec<String> {
    let identities = served.identities.iter().map(|identity| identity.id().to_string());
    let roots = served.bundles.x509.iter().map(|bundle| format!("spiffe://{}", bundle.trust_domain()));
    identities.chain(roots).collect()
}

fn own_domain(served: &Served) -> Option<&TrustDomain> {
    served.identities.first().map(|identity| identity.id().trust_domain())
}
