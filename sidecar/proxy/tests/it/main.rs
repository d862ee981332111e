//! The data plane over real sockets: two proxies in this process, an app behind one of them, and a
//! throwaway authority.

#![allow(unreachable_pub)]

mod support;

mod app_tokens;
mod attach;
mod calls;
mod drain;
mod east_west;
mod egress;
mod external;
mod federation;
mod governed;
mod handshakes;
mod hop_proof;
mod http1;
mod http2;
mod identity;
mod original;
mod passed;
mod permissive;
mod policy;
mod redirect;
mod redirect_ports;
mod shortage;
mod stream;
mod undeclared;
mod user;
mod user_headers;
