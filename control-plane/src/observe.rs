//! Gauges that follow state: the registry's health, the issuers' keys, federated bundles.

use tokio::sync::watch;

use crate::federation::Federated;
use crate::issuers::Keys;
use crate::metrics::Metrics;
use crate::registry::State;

/// Keeps the gauges current until a source is gone.
pub(crate) async fn follow(
    mut registry: watch::Receiver<State>,
    mut keys: watch::Receiver<Keys>,
    mut federated: watch::Receiver<Federated>,
    metrics: Metrics,
) {
    loop {
        show_registry(&registry.borrow_and_update(), &metrics);
        show_keys(&keys.borrow_and_update(), &metrics);
        show_federated(&federated.borrow_and_update(), &metrics);
        let changed = tokio::select! {
            changed = registry.changed() => changed,
            changed = keys.changed() => changed,
            changed = federated.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn show_registry(state: &State, metrics: &Metrics) {
    metrics.registry_valid.set(i64::from(state.errors.is_empty()));
    metrics.registry_loaded_at.set(state.loaded_at);
    let counted = metrics.registry_refused.get();
    metrics.registry_refused.inc_by(state.refused.saturating_sub(counted));
}

fn show_federated(federated: &Federated, metrics: &Metrics) {
    // A trust domain that left the registry leaves its series too.
    metrics.federation_confirmed_at.reset();
    metrics.federation_roots.reset();
    metrics.federation_up.reset();
    for (domain, state) in federated.iter() {
        let labels = [domain.as_str()];
        let roots =
            state.held.as_ref().and_then(|held| held.document.roots()).map_or(0, |it| it.roots().count());
        let up = state.confirmed_at != 0 && state.error.is_empty();
        metrics.federation_up.with_label_values(&labels).set(i64::from(up));
        metrics.federation_confirmed_at.with_label_values(&labels).set(state.confirmed_at);
        metrics.federation_roots.with_label_values(&labels).set(i64::try_from(roots).unwrap_or(i64::MAX));
    }
}

fn show_keys(keys: &Keys, metrics: &Metrics) {
    // An issuer that left the registry leaves its series too.
    metrics.jwks_keys.reset();
    metrics.jwks_fetched_at.reset();
    metrics.jwks_up.reset();
    for (alias, state) in keys.iter() {
        let up = state.jwks.is_some() && state.error.is_empty();
        metrics.jwks_up.with_label_values(&[alias]).set(i64::from(up));
        metrics.jwks_fetched_at.with_label_values(&[alias]).set(state.fetched_at);
        metrics.jwks_keys.with_label_values(&[alias]).set(i64::try_from(state.keys).unwrap_or(i64::MAX));
    }
}
