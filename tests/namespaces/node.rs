//! A node as the CNI agent has it: folders of plugins and network configurations, a stand-in for the plugin that makes the
//! network, and what a container runtime does with all of that.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use signet_tests::apiserver::ApiServer;
use signet_tests::process::{Process, binary, until};

use crate::pods::Pods;

/// As the network's own plugin writes its configuration.
pub(crate) const LIST: &str = "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"net\",\n  \"plugins\": [\n    {\n      \"type\": \"stand-in\"\n    }\n  ]\n}\n";
/// What that plugin says of a pod.
const RESULT: &str =
    r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.77.0.9/24", "interface": 2}], "dns": {}}"#;

pub(crate) struct Node {
    pub(crate) folder: PathBuf,
    netns: String,
    server: String,
}

impl Node {
    /// In a folder that has the files by which `api` is reached from the network of the node.
    pub(crate) fn make(pods: &Pods, api: &ApiServer, folder: &Path) -> Self {
        api.configuration(folder, "");
        let node = Self {
            folder: folder.join("node"),
            netns: pods.outside.clone(),
            server: format!("https://{}", api.address),
        };
        for name in ["bin", "net.d", "netns"] {
            std::fs::create_dir_all(node.folder.join(name)).expect("a folder of the node");
        }
        for (number, netns) in [&pods.client, &pods.server].into_iter().enumerate() {
            let place = node.folder.join(format!("netns/cni-{number}"));
            symlink(format!("/var/run/netns/{netns}"), place).expect("a name");
        }
        let stand_in = node.folder.join("bin/stand-in");
        let script = format!("#!/bin/sh\ncat >/dev/null\n[ \"$CNI_COMMAND\" != ADD ] || echo '{RESULT}'\n");
        std::fs::write(&stand_in, script).expect("a plugin");
        std::fs::set_permissions(&stand_in, std::fs::Permissions::from_mode(0o755)).expect("a program");
        node.configure("10-net.conflist", LIST);
        api.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "signet-system"}}));
        api.put(daemonset());
        node
    }

    /// Writes a network configuration, as its owner does.
    pub(crate) fn configure(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join("net.d").join(name), text).expect("a configuration");
    }

    /// All files of the folder of configurations.
    pub(crate) fn configurations(&self) -> BTreeMap<String, String> {
        let entries = std::fs::read_dir(self.folder.join("net.d")).expect("a folder");
        entries
            .map(|entry| entry.expect("an entry").path())
            .map(|path| {
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                (name, std::fs::read_to_string(&path).unwrap_or_default())
            })
            .filter(|(name, _)| !name.starts_with('.'))
            .collect()
    }

    fn program(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns]).arg(program);
        command
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("run/agent.sock")
    }

    /// Starts the agent, in the network of the node.
    pub(crate) fn agent(&self, name: &str) -> Process {
        // As root with the chart's two capabilities, and no way to more.
        let mut command = self.program(Path::new("setpriv"));
        command.args(["--bounding-set=-all,+net_admin,+sys_admin", "--inh-caps=-all", "--no-new-privs"]);
        command.arg(binary("signet-cni"));
        command.args(["agent", "--node", "node1", "--daemonset", "signet-system/signet-cni"]);
        command.args(["--exclude-namespaces", "signet-system", "--api-server", &self.server]);
        let folder = self.folder.parent().expect("the test's folder");
        for (option, path) in [
            ("--bin-dir", self.folder.join("bin")),
            ("--conf-dir", self.folder.join("net.d")),
            ("--netns-dir", self.folder.join("netns")),
            ("--socket", self.socket()),
            ("--token-file", folder.join("api-token")),
            ("--ca-file", folder.join("api-ca.pem")),
        ] {
            command.arg(option).arg(path);
        }
        Process::start(name, command, folder)
    }

    /// Waits until the agent says that the plugin is in place.
    pub(crate) async fn ready(&self, agent: &mut Process) {
        until("the agent", || {
            agent.assert_runs();
            self.is_healthy().then_some(())
        })
        .await;
    }

    pub(crate) fn is_healthy(&self) -> bool {
        let mut command = Command::new(binary("signet-cni"));
        command.arg("health").arg("--socket").arg(self.socket());
        command.output().expect("signet-cni").status.success()
    }

    /// What a runtime does when a pod's network is to be made.
    pub(crate) async fn add(&self, netns: &str, pod: &Value) -> Result<Value, Value> {
        self.call("ADD", netns, &arguments(pod)).await
    }

    /// One act of a runtime: every plugin of the list that is in force, each with what the one before it said.
    pub(crate) async fn call(&self, command: &str, netns: &str, arguments: &str) -> Result<Value, Value> {
        let all = self.configurations();
        let (_, text) = all.iter().find(|(name, _)| name.ends_with(".conflist")).expect("a configuration");
        let list: Value = serde_json::from_str(text).expect("a list of plugins");
        let mut plugins = list["plugins"].as_array().expect("plugins").clone();
        if command == "DEL" {
            plugins.reverse();
        }
        let mut before = match command {
            "ADD" => Value::Null,
            _ => serde_json::from_str(RESULT).expect("a result"),
        };
        for mut plugin in plugins {
            let program = self.folder.join("bin").join(plugin["type"].as_str().expect("a type"));
            plugin["name"] = list["name"].clone();
            plugin["cniVersion"] = list["cniVersion"].clone();
            if !before.is_null() {
                plugin["prevResult"] = before.clone();
            }
            let mut process = self.program(&program);
            process.env("CNI_COMMAND", command).env("CNI_CONTAINERID", "c1").env("CNI_IFNAME", "eth0");
            process.env("CNI_NETNS", format!("/var/run/netns/{netns}")).env("CNI_ARGS", arguments);
            process.env("CNI_PATH", self.folder.join("bin"));
            let output = tokio::task::spawn_blocking(move || fed(process, &plugin.to_string()));
            let output = output.await.expect("the thread ended well");
            let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if !output.status.success() {
                return Err(said);
            }
            if command == "ADD" {
                before = said;
            }
        }
        Ok(before)
    }
}

fn fed(mut command: Command, input: &str) -> std::process::Output {
    use std::io::Write as _;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("a plugin");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("an input that is read");
    child.wait_with_output().expect("its output")
}

/// What a runtime says of a pod.
pub(crate) fn arguments(pod: &Value) -> String {
    let text = |field: &str| pod["metadata"][field].as_str().expect("a field").to_owned();
    let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID={uid}"
    )
}

/// What a runtime is to be said to have been told.
pub(crate) fn result() -> Value {
    serde_json::from_str(RESULT).expect("a result")
}

pub(crate) fn daemonset() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"namespace": "signet-system", "name": "signet-cni"}})
}
