//! What a TokenExchange refers to: workloads that have an app, issuers, and claims that those list.

use super::Check;
use crate::{Issuer, TokenExchange, WorkloadClass, WorkloadId};

impl Check<'_> {
    pub(super) fn exchanges(&mut self) {
        for exchange in self.registry.token_exchanges() {
            let mut problems: Vec<(String, String)> = Vec::new();
            let spec = &exchange.spec;
            let to = spec.defer.iter().flat_map(|defer| &defer.to).enumerate();
            let listed =
                spec.workloads.iter().enumerate().map(|(at, id)| (format!("spec.workloads[{at}]"), id));
            for (field, id) in listed.chain(to.map(|(at, id)| (format!("spec.defer.to[{at}]"), id))) {
                problems.extend(self.without_app(id).map(|reason| (field, reason)));
            }
            let actors = spec.actors.iter().flat_map(|actors| &actors.issuers).enumerate();
            let issuers = spec.issuers.iter().enumerate().map(|(at, of)| (format!("spec.issuers[{at}]"), of));
            for (field, alias) in
                issuers.chain(actors.map(|(at, of)| (format!("spec.actors.issuers[{at}]"), of)))
            {
                if self.registry.issuer(alias.as_str()).is_none() {
                    let known =
                        self.registry.issuers().map(|it| format!("`{}`", it.name)).collect::<Vec<_>>();
                    let reason = format!("expected an Issuer ({}), got `{alias}`", known.join(", "));
                    problems.push((field, reason));
                }
            }
            problems.extend(self.unlisted_claims(exchange));
            for (field, reason) in problems {
                self.add(&self.origins.exchanges, &exchange.name, field, reason);
            }
        }
    }

    fn without_app(&self, id: &WorkloadId) -> Option<String> {
        let class = self.registry.workload(id).map(|workload| workload.spec.class);
        (class != Some(WorkloadClass::Sidecar)).then(|| {
            format!(
                "expected a workload with a sidecar, got `{id}`: add a Workload `{}` of class sidecar in namespace `{}`",
                id.account, id.namespace
            )
        })
    }

    fn unlisted_claims(&self, exchange: &TokenExchange) -> Vec<(String, String)> {
        let issuers = exchange.spec.issuers.iter().filter_map(|alias| self.registry.issuer(alias.as_str()));
        let issuers: Vec<&Issuer> = issuers.collect();
        let claims = exchange.spec.claims.iter().enumerate();
        let unlisted = claims.flat_map(|(at, claim)| {
            issuers.iter().filter(|issuer| !issuer.spec.claims.contains(claim)).map(move |issuer| {
                let reason = format!(
                    "expected a claim that Issuer `{}` lists under spec.claims, got `{claim}`",
                    issuer.name
                );
                (format!("spec.claims[{at}]"), reason)
            })
        });
        unlisted.collect()
    }
}
