//! The charts in this program, put into a folder for helm.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

mod files {
    include!(concat!(env!("OUT_DIR"), "/charts.rs"));
}

/// The charts, in the order in which they are installed.
pub(crate) const CRDS: &str = "signet-crds";
pub(crate) const SIGNET: &str = "signet";

/// A folder of our own alone, that goes with the value.
pub(crate) struct Charts(PathBuf);

impl Charts {
    pub(crate) fn unpack() -> anyhow::Result<Self> {
        let charts = Self(folder()?);
        for (name, bytes) in files::FILES {
            charts.write(name, bytes)?;
        }
        Ok(charts)
    }

    pub(crate) fn chart(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Puts a file beside the charts, for helm to read.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        let at = || format!("writing {}", path.display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(at)?;
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(at)?;
        file.write_all(bytes).with_context(at)?;
        Ok(path)
    }
}

impl Drop for Charts {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Made anew with a name that nobody guesses, since `/tmp` is everybody's.
fn folder() -> anyhow::Result<PathBuf> {
    use ring::rand::SecureRandom as _;
    let mut drawn = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut drawn).map_err(|_| anyhow!("no random numbers"))?;
    let name = format!("signet-charts-{:032x}", u128::from_be_bytes(drawn));
    let path: &Path = &std::env::temp_dir();
    let path = path.join(name);
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700).create(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}

/// The version of the chart, which is this program's.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_charts_are_in_the_program_and_of_its_version_and_leave_nothing_behind() {
        let charts = Charts::unpack().unwrap();
        for name in [CRDS, SIGNET, "signet-gateway"] {
            let text = std::fs::read_to_string(charts.chart(name).join("Chart.yaml")).unwrap();
            assert!(text.contains(&format!("\nversion: {VERSION}\n")), "{text}");
            assert!(text.contains(&format!("\nappVersion: {VERSION}\n")), "{text}");
        }
        assert!(charts.chart(SIGNET).join("values.schema.json").exists());
        let folder = charts.0.clone();
        drop(charts);
        assert!(!folder.exists());
    }
}
