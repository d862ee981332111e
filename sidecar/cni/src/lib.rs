//! Redirection by the node, for pods that may not have `NET_ADMIN` themselves.
//!
//! ```text
//!  container runtime ─ exec ─► plugin ─ socket ─► agent ─ setns ─► signet_redirect in the pod's network
//!                      stdin,           claim and │
//!                      environment      netns     └─ GET pod ─► API server
//! ```
//!
//! * [`plugin`]: what the runtime starts on the host, after the network's own plugins, for each pod that comes or goes. It
//!   knows of nothing but its configuration: it opens the pod's network namespace, hands that and the pod's name to the agent,
//!   and waits. [`wire`] is what the two say.
//! * [`agent`]: one per node, in a pod of a DaemonSet. It asks the API server which pod that is, goes by what injection has written into
//!   it, enters the namespace with a thread of its own and sets the rules. What was missed it mends.
//! * [`install`] and [`conflist`]: the plugin's file, and its entry in the network configuration that is in force.
//!
//! What it promises: nothing of an injected pod runs before the pod is redirected. The plugin sees to it in the normal case, and
//! where it was not asked, because the agent was not there yet or something else rewrote the configuration, the pod's first
//! container (`signet-check`) waits until the agent has done it. Pods of excluded namespaces need neither: a node boots without the agent.
//!
//! What it never does: enter a namespace because somebody named a path (the runtime's plugin hands over what it has opened), touch
//! the node's own network, or keep a pod from ending.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod agent;
pub mod conflist;
pub mod install;
pub mod plugin;
pub mod wire;

/// The plugin's type in network configurations, and the name of its file.
pub const TYPE: &str = "signet-cni";
