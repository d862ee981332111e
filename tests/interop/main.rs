//! Clients, servers and verifiers that others wrote, against the mesh.

mod certificates;
mod envoy;
mod grpc;
mod load;
mod logins;
mod openid;
mod spiffe_python;
mod spiffe_rust;
mod tls;
mod workload;
