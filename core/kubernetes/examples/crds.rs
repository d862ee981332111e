//! Writes what is made of the types: the definitions of the custom resources, a file each, and the pages of `docs/reference`.
//! Run from the repository's root.

use std::path::Path;

const DEFINITIONS: &str = "deploy/helm/signet-crds/templates";
const CHART: &str = "deploy/helm/signet";
const PAGES: &str = "docs/reference";

fn main() -> std::io::Result<()> {
    for definition in signet_kubernetes::crd::definitions() {
        std::fs::write(Path::new(DEFINITIONS).join(definition.file()), definition.yaml()?)?;
    }
    std::fs::create_dir_all(PAGES)?;
    let chart = |file: &str| std::fs::read_to_string(Path::new(CHART).join(file));
    let pages = signet_kubernetes::reference::pages(&chart("values.yaml")?, &chart("values.schema.json")?);
    for page in pages.map_err(std::io::Error::other)? {
        std::fs::write(Path::new(PAGES).join(page.file), page.text)?;
    }
    Ok(())
}
