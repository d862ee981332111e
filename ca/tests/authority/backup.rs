//! Copies that are made while the authority works: whole ones only, of one moment, without what opens them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use signet_ca::{Backup, BackupConfig, BackupError, CopyMismatch, Recovery};

use crate::*;

fn with_copies(config: &mut AuthorityConfig, keep: usize) {
    let dir = config.data_dir.parent().unwrap().join("copies");
    config.backup = Some(BackupConfig { dir, keep, also: vec!["issuer-keys.json".into()] });
}

async fn copying_mesh(keep: usize) -> Mesh {
    mesh_with(|config| with_copies(config, keep)).await
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path);
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Puts a copy where a data directory is, and the seal key, which is kept elsewhere, beside it.
fn put(copy: &Path, seal: &Path) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let done = std::process::Command::new("cp").arg("-a").arg(copy).arg(dir.path().join("data")).status();
    assert!(done.unwrap().success());
    std::fs::copy(seal, dir.path().join("seal.key")).unwrap();
    dir
}

async fn start(dir: &Path, clock: &Arc<TestClock>) -> Result<Authority, AuthorityError> {
    let mut config = config(dir);
    config.seal.create_if_missing = false;
    Authority::open(config, clock.clone()).await
}

#[track_caller]
fn mismatch(opened: Result<Authority, AuthorityError>) -> String {
    match opened {
        Err(AuthorityError::Copy(
            error @ (CopyMismatch::List { .. } | CopyMismatch::Missing { .. } | CopyMismatch::Changed { .. }),
        )) => error.to_string(),
        other => panic!("expected a refusal of the copy, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_made_while_certificates_are_issued_and_keys_rotate_start_and_know_all_that_was_answered() {
    // A database is copied by its own means.
    if server().is_some() {
        return;
    }
    let mesh = Arc::new(copying_mesh(100).await);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let workers: Vec<_> = (0..3)
        .map(|worker| {
            let (mesh, stop) = (Arc::clone(&mesh), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::SeqCst) {
                    let held = mesh.join(&format!("load-{worker}-{count}")).await;
                    mesh.renew(&held, &key()).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut copies: Vec<(Backup, Issued)> = Vec::new();
    for number in 0..6 {
        let answered = mesh.join(&format!("before-{number}")).await;
        if number % 2 == 1 {
            mesh.authority.rotate(signet_ca::Kind::Token, "uid:0").await.unwrap();
        }
        copies.push((mesh.authority.backup("uid:0").await.unwrap(), answered));
    }
    stop.store(true, Ordering::SeqCst);
    let mut issued = 0;
    for worker in workers {
        issued += worker.await.unwrap();
    }
    assert!(issued > 6, "the load was {issued} certificates");
    mesh.authority.verify_chain().await.unwrap();
    for (copy, answered) in &copies {
        let dir = put(&copy.folder, &mesh.dir.path().join("seal.key"));
        let restored = start(dir.path(), &mesh.clock).await.unwrap_or_else(|error| panic!("{error}"));
        let verified = restored.verify_chain().await.unwrap();
        assert!(verified.records >= copy.log_sequence);
        let records = restored.records(10_000).await.unwrap();
        let at = records.iter().find(|record| record.sequence == copy.log_sequence).unwrap();
        let then = mesh.authority.records(10_000).await.unwrap();
        let was = then.iter().find(|record| record.sequence == copy.log_sequence).unwrap();
        assert_eq!(at.hash, was.hash, "the copy ends where its list says");
        // It renews what was answered before it was asked for, and nothing that came later is in it.
        restored.renew(&answered.chain[0], &csr(&key()), anybody()).await.unwrap();
        let after = &copies.last().unwrap().1;
        if after.serial != answered.serial {
            assert_eq!(
                refusal(restored.renew(&after.chain[0], &csr(&key()), anybody()).await),
                Refusal::SerialUnknown
            );
        }
        let recovered = restored.recover(Recovery::default(), "disk lost", "uid:0").await.unwrap();
        assert!(recovered.lineages > 0);
        restored.close().await;
    }
}

#[tokio::test]
async fn whoever_reads_the_folder_of_copies_finds_no_seal_key_no_token_and_nothing_that_others_may_open() {
    // In development the seal key may lie in the data directory, even under a name that would be copied.
    for seal in ["seal.key", "issuer-keys.json"] {
        let mesh = mesh_with(|config| {
            with_copies(config, 7);
            let mut sealed = SealConfig::key_file(config.data_dir.join(seal));
            sealed.create_if_missing = true;
            config.seal = sealed;
        })
        .await;
        let token = mesh.token("web").await;
        let made = mesh.authority.backup("uid:0").await.unwrap();
        let secret = std::fs::read(mesh.dir.path().join("data").join(seal)).unwrap();
        let copies = mesh.dir.path().join("copies");
        let (mut whole, mut count) = (Vec::new(), 0_u64);
        for path in files(&copies).into_iter().chain([copies.clone()]) {
            let mode = path.metadata().unwrap().permissions().mode() & 0o7777;
            if path.is_dir() {
                assert_eq!(mode, 0o700, "{}", path.display());
            } else {
                assert_eq!(mode, 0o600, "{}", path.display());
                whole.extend(std::fs::read(&path).unwrap());
                count += u64::from(path.starts_with(&made.folder));
            }
        }
        assert_eq!(count, made.files + 1, "and the list");
        let holds = |secret: &[u8]| whole.windows(secret.len()).any(|window| window == secret);
        assert!(holds(b"SIGNETS1") && holds(b"demo.signet"), "the files were read");
        assert!(!holds(&secret), "the seal key");
        assert!(!holds(token.text.expose().as_bytes()), "a join token");
        assert!(!names(&made.folder).iter().any(|name| name == seal), "the seal key");
    }
}

#[tokio::test]
async fn a_copy_of_which_a_file_is_missing_changed_or_another_copys_is_not_begun_with() {
    let mesh = copying_mesh(7).await;
    mesh.join("web").await;
    let first = mesh.authority.backup("uid:0").await.unwrap();
    mesh.join("orders").await;
    mesh.clock.pass(60);
    let second = mesh.authority.backup("uid:0").await.unwrap();
    let seal = mesh.dir.path().join("seal.key");

    let dir = put(&second.folder, &seal);
    std::fs::remove_file(dir.path().join("data/replica")).unwrap();
    let said = mismatch(start(dir.path(), &mesh.clock).await);
    assert!(said.contains("replica is missing") && said.contains("restore the whole copy again"), "{said}");

    if second.store {
        // A store that forgets what came after the first copy, under the list of the second.
        let dir = put(&second.folder, &seal);
        std::fs::copy(first.folder.join("authority.db"), dir.path().join("data/authority.db")).unwrap();
        let said = mismatch(start(dir.path(), &mesh.clock).await);
        assert!(said.contains("authority.db is not the file"), "{said}");
        // Asking again does not help.
        mismatch(start(dir.path(), &mesh.clock).await);
    }

    let dir = put(&second.folder, &seal);
    let list = dir.path().join("data/copy.json");
    let forged = std::fs::read_to_string(&list).unwrap().replace("logSequence\\\":", "logSequence\\\":1");
    std::fs::write(&list, forged).unwrap();
    let said = mismatch(start(dir.path(), &mesh.clock).await);
    assert!(said.contains("copy.json is not the list of a copy of this mesh"), "{said}");
}

#[tokio::test]
async fn once_started_a_restored_directory_is_like_any_other() {
    let mesh = copying_mesh(7).await;
    let made = mesh.authority.backup("uid:0").await.unwrap();
    let dir = put(&made.folder, &mesh.dir.path().join("seal.key"));
    if !made.store {
        return;
    }
    for _ in 0..2 {
        let restored = start(dir.path(), &mesh.clock).await.unwrap();
        restored.create_join_token(id("web"), PeerClass::Sidecar, None, "uid:0").await.unwrap();
        assert!(!dir.path().join("data/copy.json").exists());
        restored.close().await;
    }
}

#[tokio::test]
async fn what_a_crash_or_a_failure_left_is_never_taken_for_a_copy_and_is_cleared_away() {
    let mesh = copying_mesh(7).await;
    let copies = mesh.dir.path().join("copies");
    let left = copies.join(".20251231T235959Z.partial");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("row-mac.sealed"), "half").unwrap();
    // A failure in the middle: what should be a file is none.
    let replica = mesh.dir.path().join("data/replica");
    let kept = std::fs::read(&replica).unwrap();
    std::fs::remove_file(&replica).unwrap();
    std::fs::create_dir(&replica).unwrap();
    let error = mesh.authority.backup("uid:0").await.unwrap_err();
    assert!(matches!(&error, AuthorityError::Backup(BackupError::File(_))), "{error}");
    assert!(error.to_string().contains("is not a regular file"), "{error}");
    assert_eq!(names(&copies), ["lock"]);
    assert_eq!(mesh.authority.backup_age(), None);
    let written = |records: &[signet_ca::Record]| {
        records.iter().filter(|record| record.event == signet_ca::Event::BackedUp).count()
    };
    assert_eq!(written(&mesh.authority.records(100).await.unwrap()), 0);
    std::fs::remove_dir(&replica).unwrap();
    std::fs::write(&replica, kept).unwrap();
    std::fs::set_permissions(&replica, std::fs::Permissions::from_mode(0o600)).unwrap();

    let made = mesh.authority.backup("oidc:corp|1").await.unwrap();
    assert_eq!(names(&copies), [made.name.as_str(), "lock"]);
    let records = mesh.authority.records(100).await.unwrap();
    assert_eq!(written(&records), 1);
    let said = records.iter().find(|record| record.event == signet_ca::Event::BackedUp).unwrap();
    assert_eq!(said.actor, "oidc:corp|1");
    assert!(said.reason.starts_with(&format!("{}: {} files", made.name, made.files)), "{}", said.reason);
    mesh.clock.pass(90);
    assert_eq!(mesh.authority.backup_age(), Some(90));
    let mesh = mesh.reopen_with(|config| with_copies(config, 7)).await.unwrap();
    assert_eq!(mesh.authority.backup_age(), Some(90), "after a restart, too");
}

#[tokio::test]
async fn the_newest_copies_stay_and_what_others_put_into_the_folder_is_left_alone() {
    let mesh = copying_mesh(3).await;
    let copies = mesh.dir.path().join("copies");
    let stranger = copying_mesh(3).await;
    let foreign = stranger.authority.backup("uid:0").await.unwrap();
    let (theirs, empty) = (copies.join("20240101T000000Z"), copies.join("20240101T000001Z"));
    let moved =
        std::process::Command::new("cp").arg("-a").arg(&foreign.folder).arg(&theirs).status().unwrap();
    assert!(moved.success());
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(copies.join("20240101T000002Z"), "a file").unwrap();
    let mut made = Vec::new();
    for number in 0..5 {
        // Two of them in one second, and once the clock is set back.
        mesh.clock.pass([0, 0, 10, -3600, 7200][number]);
        let copy = mesh.authority.backup("uid:0").await.unwrap();
        assert!(copy.folder.join("copy.json").exists(), "{number}: the one just made is there");
        made.push(copy);
    }
    assert_eq!(made[1].name, format!("{}-02", made[0].name), "nothing is written over");
    let left = names(&copies);
    assert!(theirs.exists() && empty.exists() && copies.join("20240101T000002Z").exists());
    let ours: Vec<&Backup> = made.iter().filter(|copy| left.contains(&copy.name)).collect();
    assert_eq!(ours.len(), 3, "{left:?}");
    assert!(ours.iter().any(|copy| copy.name == made[4].name));
    assert!(!left.iter().any(|name| name.ends_with(".partial")), "{left:?}");
    let removed: Vec<&String> = made.iter().flat_map(|copy| &copy.removed).collect();
    assert_eq!(removed.len(), 2);
}

#[tokio::test]
async fn a_folder_that_others_may_enter_or_that_another_control_plane_uses_takes_no_copies() {
    let mesh = copying_mesh(7).await;
    let copies = mesh.dir.path().join("copies");
    std::fs::set_permissions(&copies, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = mesh.authority.backup("uid:0").await.unwrap_err();
    assert!(error.to_string().contains("chmod 0700"), "{error}");
    std::fs::set_permissions(&copies, std::fs::Permissions::from_mode(0o700)).unwrap();
    let lock =
        std::fs::File::options().create(true).truncate(false).write(true).open(copies.join("lock")).unwrap();
    lock.lock().unwrap();
    let error = mesh.authority.backup("uid:0").await.unwrap_err();
    assert!(matches!(error, AuthorityError::Backup(BackupError::FolderTaken { .. })), "{error}");
    drop(lock);
    // A link that leads elsewhere is no folder.
    std::fs::rename(&copies, mesh.dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(mesh.dir.path().join("elsewhere"), &copies).unwrap();
    let error = mesh.authority.backup("uid:0").await.unwrap_err();
    assert!(error.to_string().contains("is not a directory"), "{error}");
}

#[tokio::test]
async fn without_a_configured_folder_the_answer_says_what_to_configure() {
    let mesh = mesh().await;
    let error = mesh.authority.backup("uid:0").await.unwrap_err();
    assert!(error.to_string().contains("backup.dir"), "{error}");
}

#[tokio::test]
async fn a_copy_says_whether_the_store_is_in_it() {
    let mesh = copying_mesh(7).await;
    let made = mesh.authority.backup("uid:0").await.unwrap();
    let names = names(&made.folder);
    assert_eq!(made.store, server().is_none());
    assert_eq!(names.contains(&"authority.db".to_owned()), made.store, "{names:?}");
    assert!(
        !names
            .iter()
            .any(|name| name.ends_with("-wal") || name.ends_with("-shm") || name.ends_with("-journal"))
    );
    for name in ["audit.sealed", "row-mac.sealed", "replica", "copy.json"] {
        assert!(names.iter().any(|it| it == name), "{name}: {names:?}");
    }
    let records = mesh.authority.records(10).await.unwrap();
    let said = records.iter().find(|record| record.event == signet_ca::Event::BackedUp).unwrap();
    assert_eq!(said.reason.ends_with("without the database"), !made.store, "{}", said.reason);
}
