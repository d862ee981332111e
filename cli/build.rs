//! The two charts as they are in the repository, inside the program: `signet install` needs nothing beside it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where"));
    let charts = root.join("../deploy/helm").canonicalize().expect("the charts");
    println!("cargo:rerun-if-changed={}", charts.display());
    let mut files = Vec::new();
    walk(&charts, &mut files);
    let mut code = String::from("pub(super) const FILES: &[(&str, &[u8])] = &[\n");
    for file in files {
        println!("cargo:rerun-if-changed={}", file.display());
        let name = file.strip_prefix(&charts).expect("within").to_str().expect("a name in UTF-8");
        writeln!(code, "    ({name:?}, include_bytes!({:?})),", file.display().to_string()).expect("written");
    }
    code.push_str("];\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where")).join("charts.rs");
    std::fs::write(out, code).expect("the list of files");
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { walk(&path, into) } else { into.push(path) }
    }
}
