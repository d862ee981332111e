//! `helm`: what renders the charts, applies them and remembers what was applied.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::Access;
use super::program::{ProgramError, run};

/// Older ones lack what is called here.
const OLDEST: (u64, u64) = (3, 15);

pub(crate) struct Helm {
    program: PathBuf,
    to: Vec<OsString>,
}

/// Values of a chart, as they are given: files first, so that what is said on the command line wins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) set: Vec<String>,
}

impl Values {
    fn arguments(&self) -> Vec<OsString> {
        let mut all = Vec::new();
        for file in &self.files {
            all.push("--values".into());
            all.push(file.into());
        }
        for pair in &self.set {
            all.push("--set".into());
            all.push(pair.into());
        }
        all
    }
}

impl Helm {
    /// Refuses one that is too old to be of use.
    pub(crate) fn new(program: &Path, access: &Access) -> anyhow::Result<Self> {
        let mut to: Vec<OsString> = vec!["--namespace".into(), access.namespace.as_str().into()];
        for (flag, value) in [
            ("--kube-context", access.kube_context.as_ref().map(OsString::from)),
            ("--kubeconfig", access.kubeconfig.as_ref().map(OsString::from)),
        ] {
            if let Some(value) = value {
                to.push(flag.into());
                to.push(value);
            }
        }
        let helm = Self { program: program.to_owned(), to };
        let version = helm.version()?;
        match numbers(&version) {
            Some(found) if found >= OLDEST => Ok(helm),
            _ => bail!(
                "{}: expected helm {}.{} or newer, found {version}",
                program.display(),
                OLDEST.0,
                OLDEST.1
            ),
        }
    }

    fn version(&self) -> Result<String, ProgramError> {
        let out = run("helm", &self.program, &["version", "--template", "{{.Version}}"], None)?;
        Ok(String::from_utf8_lossy(&out).trim().to_owned())
    }

    fn call(&self, more: Vec<OsString>) -> Result<Vec<u8>, ProgramError> {
        let all: Vec<OsString> = more.into_iter().chain(self.to.iter().cloned()).collect();
        run("helm", &self.program, &all, None)
    }

    /// The manifests. Asks no cluster.
    pub(crate) fn template(&self, release: &str, chart: &Path, values: &Values) -> anyhow::Result<String> {
        let mut all: Vec<OsString> = vec!["template".into(), release.into(), chart.into()];
        all.extend(values.arguments());
        String::from_utf8(self.call(all)?).context("helm template: expected text")
    }

    /// Makes a release, or another revision of it.
    pub(crate) fn apply(&self, release: &str, chart: &Path, values: &Values) -> Result<(), ProgramError> {
        let mut all: Vec<OsString> = vec!["upgrade".into(), release.into(), chart.into()];
        all.extend(["--install", "--reset-values", "--output", "json"].map(OsString::from));
        all.extend(values.arguments());
        self.call(all).map(drop)
    }

    /// The state of a release, such as `deployed`; none where there is none.
    pub(crate) fn status(&self, release: &str) -> anyhow::Result<Option<String>> {
        match self.call(vec!["status".into(), release.into(), "--output".into(), "json".into()]) {
            Ok(body) => {
                let found: Value = serde_json::from_slice(&body).context("helm status: expected JSON")?;
                let status = found.pointer("/info/status").and_then(Value::as_str).unwrap_or("unknown");
                Ok(Some(status.to_owned()))
            }
            Err(ProgramError::Failed { said, .. }) if said.contains("not found") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The values that a release was given.
    pub(crate) fn values(&self, release: &str) -> Result<Vec<u8>, ProgramError> {
        self.call(["get", "values", release, "--output", "json"].map(OsString::from).to_vec())
    }

    /// The manifests of a release.
    pub(crate) fn manifest(&self, release: &str) -> anyhow::Result<String> {
        let body = self.call(["get", "manifest", release].map(OsString::from).to_vec())?;
        String::from_utf8(body).context("helm get manifest: expected text")
    }

    pub(crate) fn uninstall(&self, release: &str) -> Result<(), ProgramError> {
        self.call(["uninstall", release].map(OsString::from).to_vec()).map(drop)
    }
}

fn numbers(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(numbers("v3.9.4").unwrap() < OLDEST && numbers("v3.15.0+g1").unwrap() >= OLDEST);
        assert!(numbers("v4.2.3+g43e8b7f").unwrap() > OLDEST);
        assert_eq!(numbers("unknown"), None);
    }
}
