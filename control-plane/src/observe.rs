//! Gauges that follow state: the registry's health and the issuers' keys.

use tokio::sync::watch;

use crate::issuers::Keys;
use crate::metrics::Metrics;
use crate::registry::State;

/// Keeps the gauges current until a source is gone.
pub(crate) async fn follow(
    mut registry: watch::Receiver<State>,
    mut keys: watch::Receiver<Keys>,
    metrics: Metrics,
) {
    loop {
        show_registry(&registry.borrow_and_update(), &metrics);
        show_keys(&keys.borrow_and_update(), &metrics);
        let changed = tokio::select! {
            changed = registry.changed() => changed,
            changed = keys.changed() => changed,
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
