//! What the crate promises, each as a sentence: access tokens, key sets, transaction tokens, and the
//! known ways in which others were fooled.

mod access;
mod attacks;
mod cache;
mod delegations;
mod exchanges;
mod fuzzed;
mod id_tokens;
mod jwt_svids;
mod keys;
mod logouts;
mod mutations;
mod remembered;
mod support;
mod transactions;
mod vectors;
