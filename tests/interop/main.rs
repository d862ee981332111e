//! Clients, servers and verifiers that others wrote, against the mesh.

mod certificates;
mod envoy;
mod federation;
mod grpc;
mod istio;
mod load;
mod logins;
mod openid;
mod spiffe_python;
mod spiffe_rust;
mod tls;
mod workload;
