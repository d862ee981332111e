//! Clients, servers and verifiers that others wrote, against the mesh.

mod federation;
mod grpc;
mod load;
mod openid;
mod tls;
