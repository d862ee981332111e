//! The name server through real sockets, before a resolver that does as a test says.

mod floods;
mod forwarding;
mod mesh;
mod support;
