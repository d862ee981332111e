//! `signet-sidecar redirect`: the rules are `signet_redirect`'s; here is what a sidecar's configuration says to them.

use std::path::Path;

pub use signet_redirect::*;

use self::options::{Listeners, Transparent};
use crate::config::Config;

/// What the file of `--config` has a sidecar listen on.
///
/// # Errors
/// What is wrong with it.
pub fn load(file: &Path) -> Result<Listeners, String> {
    Config::load(file).map(|config| listeners(&config)).map_err(|error| error.to_string())
}

/// What this configuration has a sidecar listen on.
#[must_use]
pub fn listeners(config: &Config) -> Listeners {
    let transparent = config
        .transparent
        .as_ref()
        .map(|it| Transparent { outbound: it.outbound.clone(), inbound: it.inbound.clone() });
    let direct = config.inbound.iter().map(|inbound| inbound.listen);
    let direct = direct.chain(config.metrics.as_ref().map(|metrics| metrics.listen));
    let direct = direct.chain(config.probes.as_ref().map(|probes| probes.listen));
    let dns = config.dns.as_ref().map(|dns| dns.listen.clone());
    Listeners { transparent, dns, direct: direct.collect() }
}
