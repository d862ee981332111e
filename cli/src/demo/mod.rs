//! `signet demo`: a small shop behind a real mesh, on this machine, without root and without network.
//!
//! One control plane, six sidecars (one of them the gateway), five apps and a token issuer, each a
//! process of its own; apps listen on Unix sockets in a folder that only this user may enter. The demo
//! makes what an operator would make by hand (`plan` decides, `files` writes), starts it
//! (`processes`), says what to try, and tells of each certificate that rotates. With `--check` it
//! plays the scenario itself (`scenario`). Ending it ends all of it.

mod files;
mod http;
mod plan;
mod processes;
mod scenario;

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use signet_proto::v1::operator_client::OperatorClient;
use signet_proto::v1::{CreateJoinTokenRequest, IssuanceRecord, WatchIssuancesRequest};
use tokio::signal::unix::{SignalKind, signal};
use tonic::Streaming;
use tonic::transport::Channel;

use self::plan::Plan;
use self::processes::Processes;
use crate::authority::write_bundle;
use crate::operator::{self, print, table, when};

#[derive(Args)]
pub(crate) struct Options {
    /// Play the scenario, print each claim with what was observed, and exit with 1 if one fails.
    #[arg(long)]
    check: bool,
    /// Where the demo keeps its files. Emptied at the start.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Where a demo of this user lives unless told otherwise.
pub(crate) fn default_folder() -> PathBuf {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let uid = unsafe { libc::geteuid() };
    std::env::temp_dir().join(format!("signet-demo-{uid}"))
}

pub(crate) fn operator_socket(folder: &Path) -> PathBuf {
    folder.join("operator.sock")
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let folder = options.folder.unwrap_or_else(default_folder);
    let _lock = claim(&folder)?;
    let plan = Plan::new(folder)?;
    let mut processes = Processes::new(plan.folder.join("logs"))?;
    let outcome = tokio::select! {
        outcome = play(&plan, &mut processes, options.check) => outcome,
        () = interrupted() => print("\nstopping"),
    };
    processes.end().await;
    outcome
}

async fn play(plan: &Plan, processes: &mut Processes, check: bool) -> anyhow::Result<()> {
    let (client, rotations) = start(plan, processes).await?;
    if check {
        return scenario::check(plan, client, rotations, processes).await;
    }
    print(&introduction(plan))?;
    tell_rotations(rotations, processes).await
}

/// Brings everything up, in the order in which things need one another.
async fn start(
    plan: &Plan,
    processes: &mut Processes,
) -> anyhow::Result<(OperatorClient<Channel>, Streaming<IssuanceRecord>)> {
    files::write(plan)?;
    let sample = plan.binary("signet-sample")?;
    let issuer_url = plan.issuer_url();
    processes.start("issuer", &sample, &["issuer", "--listen", &plan.issuer, "--url", &issuer_url])?;
    for app in plan.apps() {
        let arguments: Vec<&str> = app.arguments.iter().map(String::as_str).collect();
        processes.start(&format!("app-{}", app.name), &sample, &arguments)?;
        processes.wait_for_file(&app.socket).await?;
    }
    print("  apps and token issuer are up")?;

    let config = plan.folder.join("control-plane.yaml");
    let control_plane = plan.binary("signet-control-plane")?;
    processes.start("control-plane", &control_plane, &["--config", files::text(&config)?])?;
    processes.wait_for_file(&plan.folder.join("control-plane/addresses.json")).await?;
    let mut client = operator::connect(&operator_socket(&plan.folder)).await?;
    print("  control plane is up: a new root, an issuer under it")?;

    let rotations = client.watch_issuances(WatchIssuancesRequest {}).await?.into_inner();
    let binary = plan.binary("signet-sidecar")?;
    for sidecar in &plan.sidecars {
        let request = CreateJoinTokenRequest {
            spiffe_id: plan.spiffe_id(sidecar),
            peer_class: sidecar.class().into(),
            ttl_seconds: 60,
        };
        let bundle = client.create_join_token(request).await?.into_inner();
        write_bundle(&bundle, &plan.home(sidecar).join("join.json"))?;
        let config = plan.home(sidecar).join("sidecar.yaml");
        processes.start(
            &format!("sidecar-{}", sidecar.name),
            &binary,
            &["--config", files::text(&config)?],
        )?;
    }
    for sidecar in &plan.sidecars {
        processes.wait_for_file(&plan.home(sidecar).join("data/addresses.json")).await?;
    }
    print("  sidecars and gateway have joined: one-time token in, two-minute certificate out")?;
    Ok((client, rotations))
}

fn introduction(plan: &Plan) -> String {
    let rows: Vec<_> = plan
        .sidecars
        .iter()
        .map(|sidecar| {
            vec![
                sidecar.name.to_owned(),
                plan.spiffe_id(sidecar),
                sidecar.serves_text(),
                sidecar.dials_text(),
            ]
        })
        .collect();
    let gateway = &plan.gateway;
    let token = |user: &str| format!("$(curl -s {}/{user})", plan.issuer_url());
    format!(
        "\n{}\n\n\
         Try it (from another terminal):\n\n\
         as alice, who may see orders; look at who each service saw\n  \
           curl -i -H \"Authorization: Bearer {alice}\" http://{gateway}/orders\n\n\
         as bob, who may not: 403 with a decision id, then ask why\n  \
           curl -i -H \"Authorization: Bearer {bob}\" http://{gateway}/orders\n  \
           {cli} authz explain <the id>\n\n\
         without a token: 401 with a challenge\n  \
           curl -i http://{gateway}/orders\n\n\
         with forged identity headers: they never arrive\n  \
           curl -i -H \"Authorization: Bearer {alice}\" -H 'Signet-User: forged' -H 'Txn_Token: forged' http://{gateway}/whoami\n\n\
         straight at a sidecar, in plaintext\n  \
           curl -i http://{web}/orders\n\n\
         from the intruder, who has an identity and no permission\n  \
           curl -i http://{intruder}/stock/apple\n\n\
         what the authority did\n  \
           {cli} ca log\n  \
           {cli} status\n\n\
         Certificates live two minutes here; each renewal is told below. Ctrl-C ends everything.\n\
         Logs: {logs}\n",
        table(&["WORKLOAD", "IDENTITY", "SERVES (mutual TLS)", "CALLS"], &rows),
        alice = token("alice"),
        bob = token("bob"),
        cli = plan.cli(),
        web = plan.web_inbound(),
        intruder = plan.intruder_inventory(),
        logs = plan.folder.join("logs").display(),
    )
}

async fn tell_rotations(
    mut rotations: Streaming<IssuanceRecord>,
    processes: &mut Processes,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            record = rotations.message() => match record.context("watching the authority")? {
                Some(it) if it.event == "renewed" => print(&format!(
                    "{}  rotated {}  serial {}  until {}", when(it.at), it.spiffe_id, it.serial, when(it.not_after)
                ))?,
                Some(_) => {}
                None => bail!("the control plane ended its stream"),
            },
            ended = processes.any_ended() => return Err(ended),
        }
    }
}

async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Makes the folder this demo's own: a directory of this user's, mode 0700, locked for as long as the
/// returned file is open, and empty.
fn claim(folder: &Path) -> anyhow::Result<fs::File> {
    // SAFETY: umask has no preconditions; nothing else of this process runs yet.
    unsafe { libc::umask(0o077) };
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("creating {}", folder.display())),
    }
    let found = fs::symlink_metadata(folder)?;
    // SAFETY: geteuid has no preconditions and cannot fail.
    let uid = unsafe { libc::geteuid() };
    ensure!(
        found.is_dir() && found.uid() == uid,
        "{}: expected a folder of this user; name another one with --folder",
        folder.display()
    );
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).open(folder.join("lock"))?;
    // SAFETY: the descriptor is open for as long as `lock` lives.
    let locked = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0;
    ensure!(locked, "a demo is running already in {}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some("lock") => {}
            _ if path.is_dir() => fs::remove_dir_all(&path)?,
            _ => fs::remove_file(&path)?,
        }
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_demo_in_the_same_folder_is_refused_and_a_later_one_starts_empty() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("demo");
        let lock = claim(&folder).unwrap();
        fs::write(folder.join("left-over"), "x").unwrap();
        assert!(claim(&folder).unwrap_err().to_string().contains("running already"));
        drop(lock);
        let _lock = claim(&folder).unwrap();
        assert!(!folder.join("left-over").exists());
    }

    #[test]
    fn a_folder_that_is_a_link_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        assert!(claim(&link).is_err());
    }
}
