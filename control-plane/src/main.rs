//! `signet-control-plane --config control-plane.yaml`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use clap::Parser;
use signet_control_plane::config::{Config, RegistrySource};
use signet_control_plane::listen::bootstrap::Limits;
use signet_control_plane::run;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// As in the sidecar: freed memory goes back within seconds. jemalloc reads this symbol before `main`.
#[allow(non_upper_case_globals, reason = "the name that jemalloc looks for")]
#[unsafe(export_name = "malloc_conf")]
pub static malloc_conf: &[u8; 73] =
    b"dirty_decay_ms:5000,muzzy_decay_ms:5000,background_thread:true,narenas:2\0";

/// Signet's control plane: the authority, the registry, delivery to sidecars.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
    /// Check the configuration and the registry, and exit.
    #[arg(long)]
    check: bool,
    /// Bring the schema of `store.postgres` up to date, let its user work with it, and exit. The file holds a URL of
    /// the tables' owner; without one, the configured user is the owner.
    #[arg(long, value_name = "URL_FILE", num_args = 0..=1)]
    migrate: Option<Option<PathBuf>>,
}

fn main() -> ExitCode {
    match start(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Our errors say all in one message; a backtrace would bury it.
            eprintln!("signet-control-plane: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config)?;
    if arguments.check {
        let RegistrySource::Folder(folder) = &config.registry else {
            eprintln!(
                "{}: good; the cluster's objects say in their status what is wrong with them",
                arguments.config.display()
            );
            return Ok(());
        };
        let options = run::registry_options(&config);
        signet_model::parse_folder(folder, &options)
            .map_err(|errors| anyhow!("the registry is refused:\n{errors}"))?;
        eprintln!("{}: good, and so is its registry", arguments.config.display());
        return Ok(());
    }
    signet_daemon::logs::init(config.log.format, config.log.level)?;
    // Before the first key is in memory.
    signet_daemon::harden().map_err(|error| anyhow!("the process cannot be hardened: {error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match &arguments.migrate {
        None => runtime.block_on(serve(config)),
        Some(url_file) => {
            runtime.block_on(run::migrate(&config, url_file.as_deref()))?;
            eprintln!("{}: the schema is up to date", arguments.config.display());
            Ok(())
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let (trigger, shutdown) = signet_daemon::shutdown::channel();
    trigger.on_signals()?;
    let mut reload = signal(SignalKind::hangup())?;
    let running = match run::start(&config, Limits::default(), shutdown).await {
        Err(run::StartError::Ended) => return Ok(()),
        started => started?,
    };
    let look = Arc::clone(&running.look);
    tokio::spawn(async move {
        while reload.recv().await.is_some() {
            tracing::info!(target: "signet::run", "SIGHUP: looking at the registry now");
            look.notify_one();
        }
    });
    running.serve().await;
    Ok(())
}
