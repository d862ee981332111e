//! `signet`: what an operator types.
//!
//! Every command but `demo`, `dev`, `login` and those about clusters and files is one call to the control plane, by its
//! operator socket or as the person who logged in, shown as text or, with `--json`, as the answer itself. `demo` runs a
//! whole mesh on this machine; `install`, `upgrade`, `uninstall`, `check` and `analyze` speak to a cluster by kubectl and helm.

mod analyze;
mod approvals;
mod audit;
mod authority;
mod authz;
mod backup;
mod chain;
mod check;
mod cluster;
mod demo;
mod dev;
mod federation;
mod handshakes;
mod inject;
mod install;
mod login;
mod mesh;
mod operator;
mod place;
mod policies;
mod recover;
mod roots;
mod rotation;
mod spread;
mod tls;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "signet", version, about = "Operate a Signet mesh")]
struct Cli {
    /// Come by the control plane's operator socket. Default, where nobody is logged in:
    /// /run/signet/operator.sock, or the running demo's.
    #[arg(long, global = true, conflicts_with = "login")]
    socket: Option<PathBuf>,
    /// Come as the person who logged in. The default where somebody is.
    #[arg(long, global = true)]
    login: bool,
    /// The command line's own configuration. Default: ~/.config/signet/config.yaml, which may be missing.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
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
    /// Log in with your company's account: a certificate for an hour.
    Login(login::Login),
    /// Forget the key and certificate of the login.
    Logout,
    /// Who the control plane takes you for, and what you may do.
    Whoami,
    /// What the machines of operators need for `signet login`, as their configuration file.
    LoginSettings(login::LoginSettings),
    /// Calls that need a second person.
    #[command(subcommand)]
    Approvals(approvals::Approvals),
    /// What the control plane is, holds, and complains about.
    Status,
    /// The sidecars and gateways that are connected now.
    Sidecars,
    /// Handshakes that failed lately: of the control plane, or of a sidecar or gateway.
    Handshakes(handshakes::Handshakes),
    /// Let a workload join: a one-time token, and what its sidecar needs beside it.
    Join(authority::Join),
    /// The authority's log: what it issued and what it refused.
    #[command(subcommand)]
    Ca(authority::Ca),
    /// Other trust domains whose workloads are believed.
    #[command(subcommand)]
    Federation(federation::Federation),
    /// Why a request was refused, and whether one would be.
    #[command(subcommand)]
    Authz(authz::Authz),
    /// What an app would see in a mesh, for whoever writes one without a mesh.
    #[command(subcommand)]
    Dev(dev::Dev),
    /// Make the control plane of a mesh in a cluster: both charts, the namespace and the seal key.
    Install(install::Install),
    /// Bring the control plane of a cluster to this program's version, or give it other values.
    Upgrade(install::Upgrade),
    /// Take the control plane out of a cluster, and what it made there.
    Uninstall(install::Uninstall),
    /// Whether a cluster is ready for Signet (--pre), and whether what runs there is as it should be. Exit code 0: nothing
    /// is wrong, 1: something is, 2: something could not be looked at.
    Check(check::Check),
    /// What is written and does nothing, does something else than it seems, or will be refused: in files, or in a
    /// cluster. Exit code 1: something was found, 2: it could not be looked at.
    Analyze(analyze::Analyze),
    /// Make the pods of manifests members of the mesh, as the cluster's webhook does.
    Inject(inject::Inject),
    /// Give manifests back as they were before they were injected.
    Uninject(inject::Uninject),
    /// Policies in a folder, before anybody goes by them.
    #[command(subcommand)]
    Policy(policies::PolicyCommand),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let context =
        operator::Context { socket: cli.socket, login: cli.login, config: cli.config, json: cli.json };
    let done = match cli.command {
        Command::Demo(options) => demo::run(options).await,
        Command::Login(login) => login.run(&context).await,
        Command::Logout => login::logout(&context),
        Command::Whoami => login::whoami(&context).await,
        Command::LoginSettings(settings) => settings.run(&context).await,
        Command::Approvals(command) => command.run(&context).await,
        Command::Status => mesh::status(&context).await,
        Command::Sidecars => mesh::sidecars(&context).await,
        Command::Handshakes(handshakes) => handshakes.run(&context).await,
        Command::Join(join) => join.run(&context).await,
        Command::Ca(command) => command.run(&context).await,
        Command::Federation(command) => command.run(&context).await,
        Command::Authz(command) => command.run(&context).await,
        Command::Dev(command) => command.run(&context).await,
        Command::Install(install) => install.run().await,
        Command::Upgrade(upgrade) => upgrade.run().await,
        Command::Uninstall(uninstall) => uninstall.run().await,
        Command::Check(check) => check.run(&context).await,
        Command::Analyze(analyze) => analyze.run(&context),
        Command::Inject(inject) => inject.run(),
        Command::Uninject(uninject) => uninject.run(),
        Command::Policy(command) => command.run(&context),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<policies::Exit>() => {
            ExitCode::from(error.downcast_ref::<policies::Exit>().map_or(1, |exit| exit.0))
        }
        Err(error) => {
            eprintln!("signet: {error:#}");
            ExitCode::FAILURE
        }
    }
}
