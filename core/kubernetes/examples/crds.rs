//! Writes what is made of the types: the definitions of the custom resources, a file each, and the pages of `docs/reference`.
//! Run from the repository's root.

use std::path::Path;

use signet_kubernetes::reference::Chart;

const DEFINITIONS: &str = "deploy/helm/signet-crds/templates";
const CHARTS: &str = "deploy/helm";
const NAMES: [&str; 2] = ["signet", "signet-gateway"];
const PAGES: &str = "docs/reference";

fn main() -> std::io::Result<()> {
    for definition in signet_kubernetes::crd::definitions() {
        std::fs::write(Path::new(DEFINITIONS).join(definition.file()), definition.yaml()?)?;
    }
    std::fs::create_dir_all(PAGES)?;
    let read = |chart: &str, file: &str| std::fs::read_to_string(Path::new(CHARTS).join(chart).join(file));
    let files = NAMES.map(|name| Ok((name, read(name, "values.yaml")?, read(name, "values.schema.json")?)));
    let files = files.into_iter().collect::<std::io::Result<Vec<_>>>()?;
    let charts: Vec<Chart<'_>> =
        files.iter().map(|(name, values, schema)| Chart { name, values, schema }).collect();
    for page in signet_kubernetes::reference::pages(&charts).map_err(std::io::Error::other)? {
        std::fs::write(Path::new(PAGES).join(page.file), page.text)?;
    }
    Ok(())
}
