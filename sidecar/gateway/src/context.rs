//! From an authenticated caller on a route to a transaction token.

use std::net::IpAddr;

use signet_model::Route;
use signet_proxy::state::Keys;
use signet_token::txn::{Request, Tctx};
use signet_token::{MintError, Minted};

use crate::auth::Caller;

/// Mints for this caller. Claims travel only if both the issuer's and the route's lists name them.
pub(crate) fn mint(
    caller: &Caller,
    route: &Route,
    method: &str,
    address: Option<IpAddr>,
    keys: &Keys,
    now: u64,
) -> Result<Minted, MintError> {
    let minter = keys.minter.as_ref().ok_or(MintError::NoDelegation)?;
    // Sidecars would refuse everything that it mints; or somebody is revoked whom this version cannot tell from others.
    if keys.refuse_users.is_some() || keys.revoked_delegations.contains(minter.terms().thumbprint()) {
        return Err(MintError::NoDelegation);
    }
    let wanted = |name: &String| route.txn.claims.iter().any(|claim| claim.as_str() == name);
    let claims = caller.token.claims.iter().filter(|(name, _)| wanted(name));
    let mut rctx = caller.rctx.clone();
    rctx.req_ip = address.map(|address| address.to_canonical().to_string());
    let request = Request {
        issuer: minter.issuer().to_owned(),
        alias: caller.token.alias.to_string(),
        subject: caller.token.subject.clone(),
        scopes: caller.token.scopes.clone(),
        ttl: route.txn.ttl.seconds(),
        tctx: Tctx {
            route: route.name.to_string(),
            method: method.to_owned(),
            claims: claims.map(|(name, value)| (name.clone(), value.clone())).collect(),
            ..Tctx::default()
        },
        rctx,
    };
    minter.mint(request, now)
}
