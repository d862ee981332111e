//! `signet-control-plane --config control-plane.yaml`

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use clap::Parser;
use signet_control_plane::config::{Config, RegistrySource};
use signet_control_plane::listen::bootstrap::Limits;
use signet_control_plane::run;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

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
    #[arg(long, required_unless_present = "place_key")]
    config: Option<PathBuf>,
    /// Check the configuration and the registry, and exit.
    #[arg(long)]
    check: bool,
    /// Bring the schema of `store.postgres` up to date, let its user work with it, and exit. The file holds a URL of
    /// the tables' owner; without one, the configured user is the owner.
    #[arg(long, value_name = "URL_FILE", num_args = 0..=1)]
    migrate: Option<Option<PathBuf>>,
    /// Copy a key from a mounted Secret, which is root's and its group's, to a file that is ours alone, and exit. As
    /// often as there are keys.
    #[arg(long, value_name = "FROM=TO", conflicts_with_all = ["config", "check", "migrate"])]
    place_key: Vec<String>,
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
    if !arguments.place_key.is_empty() {
        return arguments.place_key.iter().try_for_each(|pair| place(pair));
    }
    let file = arguments.config.as_ref().ok_or_else(|| anyhow!("--config: expected a file, got none"))?;
    let config = Config::load(file)?;
    if arguments.check {
        let RegistrySource::Folder(folder) = &config.registry else {
            eprintln!(
                "{}: good; the cluster's objects say in their status what is wrong with them",
                file.display()
            );
            return Ok(());
        };
        let options = run::registry_options(&config);
        signet_model::parse_folder(folder, &options)
            .map_err(|errors| anyhow!("the registry is refused:\n{errors}"))?;
        eprintln!("{}: good, and so is its registry", file.display());
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
            eprintln!("{}: the schema is up to date", file.display());
            Ok(())
        }
    }
}

/// Longer is no key and no URL.
const MAX_KEY: u64 = 64 * 1024;

fn place(pair: &str) -> anyhow::Result<()> {
    let (from, to) = pair
        .split_once('=')
        .filter(|(from, to)| !from.is_empty() && !to.is_empty())
        .ok_or_else(|| anyhow!("--place-key: expected FROM=TO, two files, got {pair:?}"))?;
    signet_daemon::harden().map_err(|error| anyhow!("the process cannot be hardened: {error}"))?;
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut key = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_KEY)?.saturating_add(1)));
    let file = File::open(from).map_err(|error| anyhow!("{from}: {error}"))?;
    file.take(MAX_KEY.saturating_add(1)).read_to_end(&mut key).map_err(|error| anyhow!("{from}: {error}"))?;
    match u64::try_from(key.len())? {
        0 => Err(anyhow!("{from}: expected a key, found an empty file")),
        1..=MAX_KEY => Ok(signet_daemon::write_private(Path::new(to), &key)?),
        _ => Err(anyhow!("{from}: expected at most {MAX_KEY} bytes, found more")),
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
