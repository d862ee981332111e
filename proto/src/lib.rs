//! Signet's own protocol, generated from `signet/v1/*.proto`, and the public ones that it serves: the SPIFFE Workload
//! API ([`spiffe`]), Envoy's secret discovery ([`envoy`]) and Istio's certificates ([`istio`]); and the one that it asks,
//! Envoy's external authorisation. They are written from their public contracts, no more than is needed.
//!
//! Nothing here is written by hand, but that messages with a key or a token in them neither print nor stay in memory:
//! conversions to the domain's types live in one `convert.rs` of
//! each consumer, so that a change to the wire shows up in one file per side.

#![allow(clippy::all, clippy::disallowed_methods, unreachable_pub)]

mod secret;

/// What the `.proto` files say, as a `FileDescriptorSet`: for those who must know of every call that there is.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/signet.v1.bin"));

pub mod v1 {
    tonic::include_proto!("signet.v1");
}

/// How clients of Istio's authority ask for a certificate; served beside our own protocol.
pub mod istio {
    tonic::include_proto!("istio.v1.auth");
}

/// The SPIFFE Workload API. It has no package: its calls are `/SpiffeWorkloadAPI/<call>`.
pub mod spiffe {
    tonic::include_proto!("_");
}

/// Envoy's packages, nested as generated code refers to them.
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod extensions {
        pub mod transport_sockets {
            pub mod tls {
                pub mod v3 {
                    tonic::include_proto!("envoy.extensions.transport_sockets.tls.v3");
                }
            }
        }
    }
    pub mod service {
        pub mod auth {
            pub mod v3 {
                tonic::include_proto!("envoy.service.auth.v3");
            }
        }
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
        pub mod secret {
            pub mod v3 {
                tonic::include_proto!("envoy.service.secret.v3");
            }
        }
    }
    pub mod r#type {
        pub mod v3 {
            tonic::include_proto!("envoy.r#type.v3");
        }
    }
}

/// Google's packages that Envoy's refer to.
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}
