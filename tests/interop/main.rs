//! Clients, servers and verifiers that others wrote, against the mesh.

mod grpc;
mod load;
mod logins;
mod openid;
mod tls;
