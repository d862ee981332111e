//! `signet-cni`: without arguments the plugin, as a container runtime starts it; otherwise the agent and what belongs to it.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use signet_cni::{agent, install, plugin};

/// Longer than any network configuration.
const MOST: u64 = 4 * 1024 * 1024;

/// Redirection by the node: the agent of Signet's CNI plugin.
#[derive(Parser)]
#[command(name = "signet-cni", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the plugin of this node, and keep it in place.
    Agent(Box<agent::Options>),
    /// Whether the agent behind a socket does its work.
    Health {
        /// Its socket.
        #[arg(long, value_name = "FILE", default_value = "/run/signet-cni/agent.sock")]
        socket: PathBuf,
        /// Whether it answers at all.
        #[arg(long)]
        alive: bool,
    },
    /// Take the plugin away from a node on which an agent left it behind.
    Remove {
        /// The folder of the node's network configurations.
        #[arg(long, value_name = "FOLDER", default_value = "/etc/cni/net.d")]
        conf_dir: PathBuf,
        /// The folder of the node's CNI plugins.
        #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin")]
        bin_dir: PathBuf,
    },
}

fn main() -> ExitCode {
    // Of the specification: a plugin is told by the environment alone.
    if std::env::args_os().len() == 1 && std::env::var_os("CNI_COMMAND").is_some() {
        return as_plugin();
    }
    let done = match Arguments::parse().command {
        Command::Agent(options) => agent::run(&options),
        Command::Health { socket, alive } => agent::health(&socket, alive),
        Command::Remove { conf_dir, bin_dir } => install::remove(&conf_dir)
            .and_then(|()| install::remove_program(&bin_dir))
            .map_err(anyhow::Error::from),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet-cni: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn as_plugin() -> ExitCode {
    let mut input = String::new();
    // What cannot be read is no configuration, and said to be none.
    let _ = std::io::stdin().lock().take(MOST).read_to_string(&mut input);
    let variable = |name: &str| std::env::var(name).ok();
    let (text, code) = match plugin::run(&plugin::Call { variable: &variable, input: &input }) {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(text) => (text, ExitCode::FAILURE),
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
