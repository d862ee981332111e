//! The control plane from outside: real sockets, a real authority, real clients.

mod keys;
