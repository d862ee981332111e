//! The sidecar: one process beside each workload, at the edge as a gateway, or on a host as its agent.
//!
//! ```text
//!  sidecar.yaml ─ config          join ─ identity ──► credentials ─┐
//!                                                                  ├─► signet_proxy::state ─► workers
//!  control plane ─ control::{plane, stream, delivery} ─► publish ──┘
//! ```
//!
//! * [`config`]: what this process is told. [`join`]: how it finds the authority the first
//!   time; [`pod`]: what the kubelet gives it instead.
//! * [`identity`]: the first certificate and its renewal; [`credentials`]: what is in force now.
//! * [`control`]: the delivery stream; [`publish`]: from what was delivered to what the data plane reads.
//! * [`workload`]: the app's own certificate and tokens, where it may have some.
//! * [`agent`]: certificates and tokens for the processes of a host, in the role `agent`.
//! * [`app_api`]: where the app exchanges transaction tokens.
//! * [`gateway`]: the edge's configuration and its right to mint; [`edge_tls`]: its certificates for callers from outside.
//! * [`names`]: the app's name server, where DNS is captured.
//! * [`status`], [`admin`], [`metrics`]: what probes and people see. [`scrape`]: the app's metrics beside ours.
//! * [`redirect`]: the netfilter rules that lead an app's connections here; commands of their own, not the process.
//! * [`run`]: the process from start to drain. [`handover`]: to a successor, for a planned restart.
//!
//! Everything here runs on one thread of its own; the data plane ([`signet_proxy`]) has its workers and only
//! reads what is published. When the control plane is gone, everything goes on with what is known, until
//! certificates end.
//!
//! Exit codes: 0 drained; 1 failed (an address taken, the data folder unusable); 2 the command line or the
//! configuration is refused; 3 the join token is refused; 4 a second signal cut the drain short.

pub mod admin;
pub mod agent;
pub mod app_api;
pub mod backoff;
pub mod candidate;
pub mod clock;
pub mod config;
pub mod control;
pub mod credentials;
pub mod doors;
pub mod edge_tls;
pub mod gateway;
pub mod handover;
pub mod identity;
pub mod join;
pub mod metrics;
pub mod names;
pub mod pod;
pub mod probes;
pub mod publish;
pub mod redirect;
pub mod run;
pub mod scrape;
pub mod status;
pub mod will;
pub mod workload;
