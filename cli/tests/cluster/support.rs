//! The program beside an API server.

use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;
use signet_tests::apiserver::ApiServer;
use signet_tests::peers;

pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    pub(crate) bin: PathBuf,
}

/// What every install needs to be told.
pub(crate) const VALUES: &str = "
trustDomain: example.com
images:
  controlPlane: registry.example.com/signet-control-plane:1
  sidecar: registry.example.com/signet-sidecar:1
  redirect: registry.example.com/signet-redirect:1
";

impl Cluster {
    /// None where helm and kubectl are not installed.
    pub(crate) async fn start() -> Option<Cluster> {
        let bin = peers::kubernetes()?;
        let server = ApiServer::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = server.kubeconfig(folder.path());
        std::fs::write(folder.path().join("values.yaml"), VALUES).expect("written");
        Some(Cluster { server, folder, kubeconfig, bin })
    }

    /// Runs the program with the tools of the set-up, at this cluster.
    pub(crate) async fn signet(&self, words: &str) -> Output {
        self.run(words, &[]).await
    }

    pub(crate) async fn run(&self, words: &str, more: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_signet"));
        command.current_dir(self.folder.path());
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{path}", self.folder.path().join("bin").display(), self.bin.display());
        // Nothing of the machine's own: caches and configurations are the test's.
        command.env("PATH", path).env("HOME", self.folder.path()).env_remove("KUBECONFIG");
        command.args(words.split_whitespace()).args(more).arg("--kubeconfig").arg(&self.kubeconfig);
        command.stdin(std::process::Stdio::null());
        command.output().await.expect("signet")
    }

    /// All objects of a kind.
    pub(crate) fn all(&self, path: &str) -> Vec<Value> {
        self.server.objects(path)
    }
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

pub(crate) fn names(objects: &[Value]) -> Vec<String> {
    objects.iter().map(|it| it["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}
