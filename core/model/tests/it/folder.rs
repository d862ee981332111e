//! The folder loader, on real folders.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use signet_model::{MAX_FILE_BYTES, Options, Registry, RegistryErrors, parse_folder};
use tempfile::TempDir;

fn workload(name: &str) -> String {
    format!(
        "apiVersion: signet.mesh/v1alpha1\nkind: Workload\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{class: sidecar}}\n"
    )
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    chmod(dir.path(), 0o755);
    for (name, text) in files {
        write(&dir.path().join(name), text);
    }
    dir
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    chmod(path, 0o644);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn load(dir: &TempDir) -> Result<Registry, RegistryErrors> {
    parse_folder(dir.path(), &Options::default())
}

fn names(registry: &Registry) -> Vec<String> {
    registry.workloads().map(|w| w.name.name.to_string()).collect()
}

#[test]
fn every_yaml_file_is_read_and_nothing_else() {
    let dir = folder(&[
        ("a.yaml", &workload("a")),
        ("b.yml", &workload("b")),
        ("c.yaml.bak", "not: a resource"),
        (".hidden.yaml", "not: a resource"),
        ("README", "text"),
    ]);
    fs::create_dir(dir.path().join("sub")).unwrap();
    assert_eq!(names(&load(&dir).unwrap()), ["a", "b"]);
}

#[test]
fn one_bad_file_refuses_all_and_every_bad_file_is_named() {
    let bad = workload("a").replace("class: sidecar", "class: boss");
    let dir = folder(&[("a.yaml", &bad), ("b.yaml", "kind: [\n"), ("c.yaml", &workload("c"))]);
    let errors = load(&dir).unwrap_err();
    let files: Vec<_> =
        errors.iter().map(|e| e.file.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(files, ["a.yaml", "b.yaml"], "{errors}");
    assert_eq!((errors.0[0].line, errors.0[0].field.as_str()), (Some(4), "spec.class"));
    assert!(errors.0[1].reason.contains("expected YAML"), "{errors}");
}

#[test]
fn objects_of_one_name_in_two_files_are_refused() {
    let dir = folder(&[("a.yaml", &workload("a")), ("b.yaml", &workload("a"))]);
    let errors = load(&dir).unwrap_err();
    assert!(errors.0[0].file.ends_with("b.yaml") && errors.0[0].reason.contains("a.yaml:1"), "{errors}");
}

#[test]
fn what_others_may_write_is_not_read() {
    for mode in [0o664, 0o646, 0o666, 0o622] {
        let dir = folder(&[("a.yaml", &workload("a"))]);
        chmod(&dir.path().join("a.yaml"), mode);
        let errors = load(&dir).unwrap_err();
        assert!(errors.0[0].reason.contains(&format!("mode {mode:04o}")), "{errors}");
    }
    for mode in [0o775, 0o757, 0o1777] {
        let dir = folder(&[("a.yaml", &workload("a"))]);
        chmod(dir.path(), mode);
        assert!(load(&dir).unwrap_err().to_string().contains("only the owner may write"), "{mode:o}");
    }
}

#[test]
fn a_link_is_judged_by_what_it_points_at() {
    let dir = folder(&[]);
    let elsewhere = folder(&[("real", &workload("a"))]);
    symlink(elsewhere.path().join("real"), dir.path().join("a.yaml")).unwrap();
    assert_eq!(names(&load(&dir).unwrap()), ["a"]);
    chmod(&elsewhere.path().join("real"), 0o666);
    load(&dir).unwrap_err();
    fs::remove_file(elsewhere.path().join("real")).unwrap();
    assert!(load(&dir).unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn a_mounted_config_map_is_read_and_its_update_seen() {
    let dir = folder(&[]);
    let version = |name: &str, content: &str| {
        let real = dir.path().join(name);
        fs::create_dir(&real).unwrap();
        chmod(&real, 0o755);
        write(&real.join("mesh.yaml"), &workload(content));
        symlink(name, dir.path().join("..new")).unwrap();
        fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    };
    version("..2026_1", "one");
    symlink("..data/mesh.yaml", dir.path().join("mesh.yaml")).unwrap();
    assert_eq!(names(&load(&dir).unwrap()), ["one"]);
    version("..2026_2", "two");
    assert_eq!(names(&load(&dir).unwrap()), ["two"]);
}

#[test]
fn what_is_too_long_or_no_text_or_no_file_is_refused() {
    let long = format!("{}{}", workload("a"), "#".repeat(MAX_FILE_BYTES as usize));
    assert!(load(&folder(&[("a.yaml", &long)])).unwrap_err().to_string().contains("divide the file"));
    let dir = folder(&[]);
    fs::write(dir.path().join("a.yaml"), b"\xff\xfe").unwrap();
    chmod(&dir.path().join("a.yaml"), 0o644);
    assert!(load(&dir).unwrap_err().to_string().contains("expected UTF-8"));
    let dir = folder(&[]);
    fs::create_dir(dir.path().join("a.yaml")).unwrap();
    assert!(load(&dir).unwrap_err().to_string().contains("expected a file"));
    let missing = parse_folder(Path::new("/nonexistent/registry"), &Options::default()).unwrap_err();
    assert!(missing.to_string().contains("cannot be read"));
}

#[test]
fn an_alias_bomb_and_deep_nesting_are_errors_and_not_a_hang() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let item = format!("*a{},", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{item}]\n"));
    }
    load(&folder(&[("a.yaml", &bomb)])).unwrap_err();
    load(&folder(&[("a.yaml", &"[".repeat(100_000))])).unwrap_err();
    load(&folder(&[("a.yaml", &"{a: ".repeat(20_000))])).unwrap_err();
}
