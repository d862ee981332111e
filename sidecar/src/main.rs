//! `signet-sidecar --config sidecar.yaml`, and `signet-sidecar redirect …`

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Parser, Subcommand};
use signet_sidecar::config::Config;
use signet_sidecar::handover::{Estate, EstateError, Origin, Predecessor};
use signet_sidecar::identity::IdentityError;
use signet_sidecar::join::Entry;
use signet_sidecar::redirect;
use signet_sidecar::run::{Outcome, RunError, Start, run};
use signet_sidecar::will::place;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Freed memory goes back within seconds, by a thread of its own; two arenas are enough for few threads and
/// keep a fresh process small. jemalloc reads this symbol before `main`.
#[allow(non_upper_case_globals, reason = "the name that jemalloc looks for")]
#[unsafe(export_name = "malloc_conf")]
pub static malloc_conf: &[u8; 73] =
    b"dirty_decay_ms:5000,muzzy_decay_ms:5000,background_thread:true,narenas:2\0";

const AFTER: &str = "Exit codes: 0 drained; 1 failed; 2 command line or configuration refused; \
                     3 join token refused; 4 a second signal cut the drain short.";

const REDIRECT_AFTER: &str = "Exit codes: 0 done, or all is as asked; 1 failed, or check found differences, or verify no redirection; \
                              2 options refused, or check could not look.";

/// Signet's data plane: a sidecar beside one workload, a gateway, or the agent of a host.
#[derive(Parser)]
#[command(
    name = "signet-sidecar",
    version,
    after_help = AFTER,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    /// The configuration file (sidecar.yaml).
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Read the configuration and the join bundle or the pod's files, say what is wrong, and end.
    #[arg(long)]
    check: bool,
    /// Go on where another process of this program stands, which is at the other end of standard input. Set by that process.
    #[arg(long, hide = true)]
    successor: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Netfilter rules that lead an app's connections through its sidecar.
    #[command(subcommand, after_help = REDIRECT_AFTER)]
    Redirect(redirect::run::Command),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match (&arguments.command, &arguments.config) {
        (Some(Command::Redirect(command)), _) => redirected(command),
        (None, Some(config)) => start(config, arguments.check, arguments.successor),
        (None, None) => Err((2, anyhow!("expected --config FILE or a command, got neither"))),
    };
    match ended {
        Ok(code) => code,
        Err((code, error)) => {
            // Our errors name their sources themselves.
            eprintln!("signet-sidecar: {error}");
            ExitCode::from(code)
        }
    }
}

/// What the process before hands over.
fn inherit() -> Result<(Estate, UnixStream), anyhow::Error> {
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let timely = stream.set_read_timeout(Some(std::time::Duration::from_secs(10)));
    let estate = timely.map_err(EstateError::Io).and_then(|()| Estate::receive(&stream));
    match estate {
        Ok(estate) => Ok((estate, stream)),
        Err(error) => Err(anyhow!("expected a process that hands over at standard input: {error}")),
    }
}

fn redirected(command: &redirect::run::Command) -> Result<ExitCode, (u8, anyhow::Error)> {
    match redirect::run::run(
        command,
        &redirect::host::Machine,
        &redirect::load,
        &mut std::io::stdout().lock(),
    ) {
        Ok(redirect::run::Done::AsAsked) => Ok(ExitCode::SUCCESS),
        Ok(redirect::run::Done::Differs) => Ok(ExitCode::from(1)),
        Err(error) => Err((error.code(command), error.into())),
    }
}

fn start(file: &Path, check: bool, successor: bool) -> Result<ExitCode, (u8, anyhow::Error)> {
    let refused = |error: signet_sidecar::config::ConfigError| (2, error.into());
    let config = Config::load(file).map_err(refused)?;
    if check {
        if let Entry::Pod(pod) = Entry::load(&config.identity).map_err(refused)? {
            pod.token().and(pod.roots()).map_err(|error| (2, error.into()))?;
        }
        eprintln!("{}: ok", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let failed = |error| (1, error);
    // Before the token, the first secret, is in memory.
    signet_daemon::harden()
        .map_err(|error| failed(anyhow!("cannot protect this process's memory: {error}")))?;
    let inherited = successor.then(inherit).transpose().map_err(failed)?;
    let entry = match (&inherited, &config.identity.join_bundle) {
        (Some((estate, _)), Some(_)) => place(&estate.header).map_err(|error| failed(error.into()))?,
        _ => Entry::load(&config.identity).map_err(refused)?,
    };
    let program = std::env::current_exe();
    let origin = program.ok().map(|program| Origin { program, config: file.to_owned() });
    let logs = signet_daemon::logs::init(config.log.format, config.log.level)
        .map_err(|error| failed(anyhow!("cannot set up logs: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(anyhow!("cannot start a runtime: {error}")))?;
    let outcome = runtime.block_on(async {
        signet_daemon::shutdown::ignore_hangup().map_err(RunError::Signals)?;
        let inherited = match inherited {
            Some((estate, stream)) => Some((estate, Predecessor::of(stream).map_err(RunError::Signals)?)),
            None => None,
        };
        Box::pin(run(config, Start { entry, origin, inherited }, Some(logs))).await
    });
    // Tasks end with the process; a lookup that hangs in the resolver is not waited for.
    runtime.shutdown_background();
    match outcome {
        Ok(Outcome::Drained) => Ok(ExitCode::SUCCESS),
        Ok(Outcome::CutShort) => Ok(ExitCode::from(4)),
        Err(RunError::Identity(error @ IdentityError::Refused { .. })) => Err((3, error.into())),
        Err(error) => Err((1, error.into())),
    }
}
