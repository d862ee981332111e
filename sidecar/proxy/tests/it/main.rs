//! The data plane over real sockets: two proxies in this process, an app behind one of them, and a
//! throwaway authority.

#![allow(unreachable_pub)]

mod support;

mod drain;
mod http1;
mod identity;
mod policy;
mod stream;
mod user;
