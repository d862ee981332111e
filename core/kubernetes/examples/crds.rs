//! Writes the definitions of the custom resources into a folder, a file each.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder: PathBuf =
        std::env::args_os().nth(1).unwrap_or_else(|| "deploy/helm/signet-crds/templates".into()).into();
    for definition in signet_kubernetes::crd::definitions() {
        std::fs::write(folder.join(definition.file()), definition.yaml()?)?;
    }
    Ok(())
}
