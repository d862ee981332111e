//! Bad input at every port, as an outsider, a compromised app and a compromised sidecar send it. Each is
//! answered with its protocol's own error, counted under a typed reason, and harms nobody.

mod authority;
mod framing;
mod handshake;
mod insider;
mod outsider;
mod scene;
