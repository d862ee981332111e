//! The plugin, as the CNI specification has it (versions 0.1.0 to 1.1.0): started for one act, with its configuration at
//! standard input and the rest in the environment; its answer at standard output.
//!
//! It is chained behind the plugins that make the network, and passes on what they said, to the byte. It keeps nothing, so
//! that `DEL` and `GC` have nothing to do and never fail: rules go with their namespace, and a pod ends whatever becomes of the mesh.
//! `STATUS` says nothing of the agent: a runtime that took its absence for a network that is not ready would not start the
//! agent's own pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::wire::{self, Action, Failure, Question};

/// Every version that there is: what others said is passed on and never looked into.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// What a configuration that names no version is of.
const OLDEST: &str = "0.1.0";

/// Codes of the specification.
mod code {
    pub(super) const VERSION: u32 = 1;
    pub(super) const ENVIRONMENT: u32 = 4;
    pub(super) const DECODE: u32 = 6;
    pub(super) const CONFIGURATION: u32 = 7;
}

/// Its own fields of the network configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The agent's.
    pub socket: PathBuf,
    /// Namespaces whose pods are never in the mesh, and start without the agent.
    pub exclude_namespaces: BTreeSet<String>,
    /// What becomes of all other pods while the agent is away.
    #[serde(default)]
    pub when_away: WhenAway,
    /// How long the agent may take.
    #[serde(default = "patience")]
    pub timeout_seconds: u64,
}

/// What becomes of a pod that nobody can be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WhenAway {
    /// It does not start; the kubelet tries again.
    #[default]
    Refuse,
    /// It starts. One that is injected waits in its first container until the agent has redirected it.
    Pass,
}

pub(crate) fn patience() -> u64 {
    30
}

/// What the plugins before this one made.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chained<'a> {
    #[serde(borrow, default)]
    prev_result: Option<&'a RawValue>,
}

/// What the runtime says beside the configuration.
pub struct Call<'a> {
    /// A variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Standard input.
    pub input: &'a str,
}

/// The text for standard output, and whether it is an error.
pub type Printed = Result<String, String>;

/// Does what is asked.
pub fn run(call: &Call<'_>) -> Printed {
    let version = version(call.input);
    let done = answer(call, &version);
    done.map_err(|failure| {
        let text =
            json!({"cniVersion": version, "code": failure.code, "msg": failure.message, "details": ""});
        text.to_string()
    })
}

/// The version that answers are of: that of the question, even where nothing else of it can be read.
fn version(input: &str) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        #[serde(default)]
        cni_version: String,
    }
    let asked = serde_json::from_str::<Versioned>(input).map(|it| it.cni_version).unwrap_or_default();
    if asked.is_empty() { OLDEST.to_owned() } else { asked }
}

fn answer(call: &Call<'_>, version: &str) -> Result<String, Failure> {
    let command = (call.variable)("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        return Ok(json!({"cniVersion": version, "supportedVersions": VERSIONS}).to_string());
    }
    if !VERSIONS.contains(&version) {
        let expected = VERSIONS.join(", ");
        return Err(Failure::new(
            code::VERSION,
            format!("cniVersion: expected one of {expected}, got {version:?}"),
        ));
    }
    match command.as_str() {
        "ADD" => {
            let before = chained(call.input)?;
            pod(call, &settings(call.input)?, Action::Add)?;
            Ok(before.to_owned())
        }
        "CHECK" => {
            chained(call.input)?;
            pod(call, &settings(call.input)?, Action::Check)?;
            Ok(String::new())
        }
        "DEL" | "GC" => Ok(String::new()),
        "STATUS" => settings(call.input).map(|_| String::new()),
        other => {
            let expected = "ADD, CHECK, DEL, GC, STATUS or VERSION";
            Err(Failure::new(code::ENVIRONMENT, format!("CNI_COMMAND: expected {expected}, got {other:?}")))
        }
    }
}

fn settings(input: &str) -> Result<Settings, Failure> {
    serde_json::from_str(input).map_err(|error| {
        Failure::new(code::CONFIGURATION, format!("expected the entry of signet-cni: {error}"))
    })
}

/// What the plugins before this one said, as they said it.
fn chained(input: &str) -> Result<&str, Failure> {
    let read: Chained<'_> = serde_json::from_str(input)
        .map_err(|error| Failure::new(code::DECODE, format!("expected a network configuration: {error}")))?;
    let expected = "expected prevResult: signet-cni comes after the plugins that make the network";
    read.prev_result.map(RawValue::get).ok_or_else(|| Failure::new(code::CONFIGURATION, expected))
}

/// Has the agent look after a pod, if it is one that may be in the mesh.
fn pod(call: &Call<'_>, settings: &Settings, action: Action) -> Result<(), Failure> {
    let all = (call.variable)("CNI_ARGS").unwrap_or_default();
    let arguments: BTreeMap<&str, &str> = all.split(';').filter_map(|pair| pair.split_once('=')).collect();
    let argument = |name: &str| arguments.get(name).copied().unwrap_or_default();
    let namespace = argument("K8S_POD_NAMESPACE");
    // No pod of Kubernetes, or one that is never in the mesh.
    if namespace.is_empty() || settings.exclude_namespaces.contains(namespace) {
        return Ok(());
    }
    for name in ["K8S_POD_NAME", "K8S_POD_UID"] {
        if argument(name).is_empty() {
            let expected = format!("CNI_ARGS: expected {name} of the container runtime, got none");
            return Err(Failure::new(code::ENVIRONMENT, expected));
        }
    }
    let place = (call.variable)("CNI_NETNS").unwrap_or_default();
    let network = network(&place).map_err(|error| {
        let expected = format!("CNI_NETNS: expected the network namespace of a pod, got {place:?}: {error}");
        Failure::new(code::ENVIRONMENT, expected)
    })?;
    let question = Question {
        action,
        namespace: namespace.to_owned(),
        name: argument("K8S_POD_NAME").to_owned(),
        uid: argument("K8S_POD_UID").to_owned(),
        container: (call.variable)("CNI_CONTAINERID").unwrap_or_default(),
    };
    match wire::ask(
        &settings.socket,
        &question,
        Some(&network),
        Duration::from_secs(settings.timeout_seconds),
    ) {
        Ok(answer) => answer,
        Err(_) if settings.when_away == WhenAway::Pass && action == Action::Add => Ok(()),
        Err(error) => Err(Failure::new(
            Failure::AGAIN,
            format!(
                "Signet's CNI agent on this node does not answer at {}: {error}; whether the pod is to be redirected cannot be known without it. \
                 Look at the pods of the DaemonSet signet-cni",
                settings.socket.display()
            ),
        )),
    }
}

/// A pod's, which is never the one that this process is in: that is the node's.
fn network(place: &str) -> io::Result<File> {
    let file = File::open(place)?;
    let own = std::fs::metadata("/proc/self/ns/net")?;
    let its = file.metadata()?;
    match (own.dev(), own.ino()) == (its.dev(), its.ino()) {
        false => Ok(file),
        true => Err(io::Error::other("it is the node's own")),
    }
}

#[cfg(test)]
mod tests;
