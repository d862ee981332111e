//! Clients, servers and verifiers that others wrote, against the mesh.

mod grpc;
mod istio;
mod load;
mod openid;
mod tls;
