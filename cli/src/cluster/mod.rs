//! The way to a cluster: `kubectl` and `helm` as child processes.
//!
//! They know every way to say who one is (contexts, plugins, proxies), and what an operator may do by hand is what the
//! commands here may do. Nothing of a Secret is ever an argument, an environment variable or a line of output: it goes to
//! a child by its standard input.

pub(crate) mod charts;
pub(crate) mod helm;
pub(crate) mod kubectl;
mod program;

use std::path::PathBuf;

use clap::Args;

pub(crate) use kubectl::{Kubectl, Trouble};

/// What every command about a cluster takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Access {
    /// The control plane's namespace.
    #[arg(short, long, default_value = "signet-system")]
    pub(crate) namespace: String,
    /// The context of the kubeconfig.
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) kube_context: Option<String>,
    /// The kubeconfig, instead of kubectl's own.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The program kubectl.
    #[arg(long, value_name = "PATH", default_value = "kubectl")]
    pub(crate) kubectl: PathBuf,
}

impl Access {
    pub(crate) fn kubectl(&self) -> Kubectl {
        Kubectl::new(self)
    }
}

/// How a finding or a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}
