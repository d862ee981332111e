//! `signet-sidecar --config sidecar.yaml`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::Parser;
use signet_sidecar::config::Config;
use signet_sidecar::identity::IdentityError;
use signet_sidecar::join::Entry;
use signet_sidecar::run::{Outcome, RunError, run};

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

/// Signet's data plane: a sidecar beside one workload, a gateway, or the agent of a host.
#[derive(Parser)]
#[command(name = "signet-sidecar", version, after_help = AFTER)]
struct Arguments {
    /// The configuration file (sidecar.yaml).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Read the configuration and the join bundle or the pod's files, say what is wrong, and end.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(&arguments) {
        Ok(code) => code,
        Err((code, error)) => {
            // Our errors name their sources themselves.
            eprintln!("signet-sidecar: {error}");
            ExitCode::from(code)
        }
    }
}

fn start(arguments: &Arguments) -> Result<ExitCode, (u8, anyhow::Error)> {
    let refused = |error: signet_sidecar::config::ConfigError| (2, error.into());
    let config = Config::load(&arguments.config).map_err(refused)?;
    if arguments.check {
        if let Entry::Pod(pod) = Entry::load(&config.identity).map_err(refused)? {
            pod.token().and(pod.roots()).map_err(|error| (2, error.into()))?;
        }
        eprintln!("{}: ok", arguments.config.display());
        return Ok(ExitCode::SUCCESS);
    }
    let failed = |error| (1, error);
    // Before the token, the first secret, is in memory.
    signet_daemon::harden()
        .map_err(|error| failed(anyhow!("cannot protect this process's memory: {error}")))?;
    let entry = Entry::load(&config.identity).map_err(refused)?;
    let logs = signet_daemon::logs::init(config.log.format, config.log.level)
        .map_err(|error| failed(anyhow!("cannot set up logs: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(anyhow!("cannot start a runtime: {error}")))?;
    let outcome = runtime.block_on(async {
        signet_daemon::shutdown::ignore_hangup().map_err(RunError::Signals)?;
        run(config, entry, Some(logs)).await
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
