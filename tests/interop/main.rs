//! Clients, servers and verifiers that others wrote, against the mesh.

mod agent;
mod authz;
mod certificates;
mod envoy;
mod envoy_at_an_agent;
mod federation;
mod grpc;
mod istio;
mod load;
mod logins;
mod openid;
mod recipes;
mod spiffe_python;
mod spiffe_rust;
mod tls;
mod workload;
