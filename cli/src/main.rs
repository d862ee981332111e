//! `signet`: what an operator types.
//!
//! Every command but `demo` is one call to the control plane's operator socket, shown as text or, with
//! `--json`, as the answer itself. `demo` runs a whole mesh on this machine.

mod audit;
mod authority;
mod authz;
mod demo;
mod federation;
mod mesh;
mod operator;
mod rotation;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "signet", version, about = "Operate a Signet mesh")]
struct Cli {
    /// The control plane's operator socket. Default: /run/signet/operator.sock, or the running demo's.
    #[arg(long, global = true)]
    socket: Option<PathBuf>,
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a small shop behind a mesh on this machine, and show what to try.
    Demo(demo::Options),
    /// What the control plane is, holds, and complains about.
    Status,
    /// The sidecars and gateways that are connected now.
    Sidecars,
    /// Let a workload join: a one-time token, and what its sidecar needs beside it.
    Join(authority::Join),
    /// The authority's log: what it issued and what it refused.
    #[command(subcommand)]
    Ca(authority::Ca),
    /// Other trust domains whose workloads are believed.
    #[command(subcommand)]
    Federation(federation::Federation),
    /// Why a request was refused.
    #[command(subcommand)]
    Authz(authz::Authz),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let context = operator::Context { socket: cli.socket, json: cli.json };
    let done = match cli.command {
        Command::Demo(options) => demo::run(options).await,
        Command::Status => mesh::status(&context).await,
        Command::Sidecars => mesh::sidecars(&context).await,
        Command::Join(join) => join.run(&context).await,
        Command::Ca(command) => command.run(&context).await,
        Command::Federation(command) => command.run(&context).await,
        Command::Authz(command) => command.run(&context).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet: {error:#}");
            ExitCode::FAILURE
        }
    }
}
