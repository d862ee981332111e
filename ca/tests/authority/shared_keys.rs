//! Keys that control planes share, kept sealed in their store.

use std::os::unix::fs::PermissionsExt as _;

use signet_ca::{Event, Kind, SharedKeys};

use crate::*;

fn private(path: &Path) {
    std::fs::create_dir(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// A control plane of `name` on the store of `dir`, with a data directory of its own and the seal key of all.
fn own(dir: &Path, name: &str) -> AuthorityConfig {
    let data = dir.join(name);
    if !data.exists() {
        private(&data);
    }
    let mut config = config(dir);
    config.data_dir = data;
    config.shared_keys = SharedKeys::Store;
    config.replica = Some(name.to_owned());
    config
}

fn with_seal(dir: &Path) {
    let key = dir.join("seal.key");
    std::fs::write(&key, [7; 32]).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn start(config: AuthorityConfig) -> Result<Authority, AuthorityError> {
    Authority::open(config, Arc::new(signet_ca::SystemClock)).await
}

fn rows(dir: &Path, sql: &str) -> Vec<String> {
    let server = server().unwrap();
    let answer = server.sql(&server.database(dir), sql);
    answer.lines().map(str::to_owned).collect()
}

fn kept(dir: &Path) -> Vec<String> {
    rows(dir, "SELECT name FROM sealed_keys ORDER BY name")
}

fn sealed_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".sealed"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_shares_nothing_so_keys_cannot_be_shared_in_it() {
    if server().is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let error = start(own(dir.path(), "one")).await.unwrap_err().to_string();
    assert!(error.contains("replica.sharedKeys") && error.contains("store.postgres"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_with_nothing_in_common_but_a_database_make_one_mesh_and_replace_its_root() {
    if server().is_none() {
        return;
    }
    for round in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        with_seal(dir.path());
        let mut starts = tokio::task::JoinSet::new();
        for n in 0..3 {
            starts.spawn(start(own(dir.path(), &format!("r{n}"))));
        }
        let all: Vec<Authority> = starts.join_all().await.into_iter().map(Result::unwrap).collect();
        for one in &all {
            assert_eq!((one.root_pem(), one.mesh()), (all[0].root_pem(), all[0].mesh()), "round {round}");
        }
        let keys = kept(dir.path());
        // Keys that were made at the same moment as others, for nothing, are gone.
        let roots = keys.iter().filter(|name| name.starts_with("root-")).count();
        assert_eq!(roots, 1, "{keys:?}");
        let others: Vec<_> = keys.iter().filter(|name| !name.starts_with("root-")).collect();
        assert_eq!(others, ["audit.sealed", "row-mac.sealed"]);
        for n in 0..3 {
            let names = sealed_in(&dir.path().join(format!("r{n}")));
            let own = |name: &String| ["issuer-", "token-", "jwt-"].iter().any(|kind| name.starts_with(kind));
            assert!(names.len() == 3 && names.iter().all(own), "each has its own keys only: {names:?}");
        }
        // Whoever came after the first says so in its log.
        let mut joined = 0;
        for one in &all {
            let records = one.records(100).await.unwrap();
            joined += records.iter().filter(|record| record.event == Event::ReplicaJoined).count();
        }
        assert_eq!(joined, 2, "all but the one that made the mesh");

        // One replaces the root, and each of the others signs under the new one.
        let leader = leader_of(&all).await;
        leader.rotate(Kind::Root, "uid:0").await.unwrap();
        leader.maintain().await.unwrap();
        assert_eq!(kept(dir.path()).iter().filter(|name| name.starts_with("root-")).count(), roots + 1);
        for one in &all {
            one.verify_chain().await.unwrap();
            one.close().await;
        }
    }
}

async fn leader_of(all: &[Authority]) -> &Authority {
    for one in all {
        if one.leading().await.is_some() {
            return one;
        }
    }
    panic!("nobody leads")
}

#[tokio::test]
async fn a_data_directory_that_is_lost_costs_its_own_keys_only() {
    if server().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    with_seal(dir.path());
    let first = start(own(dir.path(), "first")).await.unwrap();
    let (mesh, root) = (first.mesh(), first.root_pem());
    first.close().await;
    drop(first);
    std::fs::remove_dir_all(dir.path().join("first")).unwrap();
    let second = start(own(dir.path(), "second")).await.unwrap();
    assert_eq!((second.mesh(), second.root_pem()), (mesh, root));
    second.self_issue(vec![]).await.unwrap();
}

#[tokio::test]
async fn what_one_control_plane_kept_in_its_directory_is_brought_into_the_store_once() {
    if server().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    with_seal(dir.path());
    let alone = |config: &mut AuthorityConfig| config.shared_keys = SharedKeys::DataDir;
    let mut before = own(dir.path(), "first");
    alone(&mut before);
    let first = start(before).await.unwrap();
    let (mesh, root) = (first.mesh(), first.root_pem());
    first.close().await;
    drop(first);
    assert!(kept(dir.path()).is_empty());

    // Somebody else comes before the keys do: it makes no other mesh.
    let error = start(own(dir.path(), "early")).await.unwrap_err().to_string();
    assert!(error.contains("row-mac.sealed is missing although the store of a mesh"), "{error}");
    assert!(kept(dir.path()).is_empty(), "{:?}", kept(dir.path()));

    let files = sealed_in(&dir.path().join("first"));
    let copies = tempfile::tempdir().unwrap();
    for name in &files {
        std::fs::copy(dir.path().join("first").join(name), copies.path().join(name)).unwrap();
    }
    let first = start(own(dir.path(), "first")).await.unwrap();
    assert_eq!((first.mesh(), first.root_pem()), (mesh, root.clone()));
    assert_eq!(kept(dir.path()).len(), 3);
    let shared =
        |name: &String| !name.starts_with("issuer") && !name.starts_with("token") && !name.starts_with("jwt");
    assert!(!sealed_in(&dir.path().join("first")).iter().any(shared));
    let second = start(own(dir.path(), "second")).await.unwrap();
    assert_eq!(second.root_pem(), root);
    first.close().await;
    drop(first);

    // A crash left some of the files: they are the same mesh's, and go.
    for name in files.iter().filter(|name| shared(name)) {
        std::fs::copy(copies.path().join(name), dir.path().join("first").join(name)).unwrap();
    }
    let first = start(own(dir.path(), "first")).await.unwrap();
    assert!(!sealed_in(&dir.path().join("first")).iter().any(shared));
    first.close().await;
    drop(first);

    // What somebody put into the store under a root's name, or took out of it, costs nobody the root.
    let root = files.iter().find(|name| name.starts_with("root-")).unwrap();
    for change in [
        format!("UPDATE sealed_keys SET content = 'junk' WHERE name = '{root}'"),
        format!(
            "UPDATE sealed_keys SET content = (SELECT content FROM sealed_keys WHERE name = 'audit.sealed') WHERE name = '{root}'"
        ),
        format!("DELETE FROM sealed_keys WHERE name = '{root}'"),
    ] {
        for name in files.iter().filter(|name| shared(name)) {
            std::fs::copy(copies.path().join(name), dir.path().join("first").join(name)).unwrap();
        }
        rows(dir.path(), &change);
        if change.starts_with("UPDATE") {
            start(own(dir.path(), "first")).await.unwrap_err();
            assert!(sealed_in(&dir.path().join("first")).contains(root), "{change}");
            rows(dir.path(), &format!("DELETE FROM sealed_keys WHERE name = '{root}'"));
        }
        start(own(dir.path(), "first")).await.unwrap().close().await;
        assert!(kept(dir.path()).contains(root), "it is brought back");
    }

    // The files of another mesh are no reason to change anything.
    let elsewhere = tempfile::tempdir().unwrap();
    with_seal(elsewhere.path());
    let mut other = own(elsewhere.path(), "other");
    alone(&mut other);
    start(other).await.unwrap().close().await;
    for name in sealed_in(&elsewhere.path().join("other")).iter().filter(|name| shared(name)) {
        std::fs::copy(elsewhere.path().join("other").join(name), dir.path().join("first").join(name))
            .unwrap();
    }
    let held = sealed_in(&dir.path().join("first"));
    let error = start(own(dir.path(), "first")).await.unwrap_err().to_string();
    assert!(error.contains("another mesh's") && error.contains("replica.sharedKeys"), "{error}");
    assert_eq!(sealed_in(&dir.path().join("first")), held, "nothing was taken away");
    assert_eq!(kept(dir.path()).len(), 3);
}

#[tokio::test]
async fn whoever_writes_to_the_database_can_change_no_key_without_being_noticed() {
    if server().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    with_seal(dir.path());
    start(own(dir.path(), "one")).await.unwrap().close().await;
    let refused = async |sql: &str| {
        for table in ["sealed_keys", "founded"] {
            rows(dir.path(), &format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}"));
        }
        rows(dir.path(), sql);
        let error = start(own(dir.path(), "one")).await.unwrap_err().to_string();
        for table in ["sealed_keys", "founded"] {
            let back = format!(
                "DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table}; DROP TABLE kept_{table}"
            );
            rows(dir.path(), &back);
        }
        error
    };
    // Nothing of a key is in what is kept there.
    let plain = rows(
        dir.path(),
        "SELECT count(*) FROM sealed_keys WHERE encode(content, 'escape') NOT LIKE 'SIGNETS1%'",
    );
    assert_eq!(plain, ["0"]);
    let flip = "UPDATE sealed_keys SET content = set_byte(content, 70, get_byte(content, 70) # 1)";
    let error = refused(flip).await;
    assert!(
        error.contains("was changed since it was sealed") && error.contains("in PostgreSQL at"),
        "{error}"
    );
    let error = refused(
        "UPDATE sealed_keys SET content = (SELECT content FROM sealed_keys WHERE name = 'audit.sealed') \
         WHERE name = 'row-mac.sealed'",
    )
    .await;
    assert!(error.contains("the file of another role"), "{error}");
    let error = refused("DELETE FROM sealed_keys").await;
    assert!(error.contains("is missing although"), "{error}");
    let error = refused("DELETE FROM sealed_keys; DELETE FROM founded").await;
    assert!(error.contains("row-mac.sealed is missing although"), "its own keys are witnesses: {error}");
    let error = refused("DELETE FROM sealed_keys WHERE name LIKE 'audit%'").await;
    assert!(error.contains("audit.sealed is missing"), "{error}");
    start(own(dir.path(), "one")).await.unwrap();
}

#[tokio::test]
async fn a_copy_holds_the_shared_keys_too() {
    if server().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    with_seal(dir.path());
    let mut config = own(dir.path(), "one");
    config.backup = Some(signet_ca::BackupConfig { dir: dir.path().join("copies"), keep: 2, also: vec![] });
    let one = start(config).await.unwrap();
    let copy = one.backup("uid:0").await.unwrap();
    assert_eq!(sealed_in(&copy.folder.join("shared")), kept(dir.path()));
    assert!(!copy.store);
}
