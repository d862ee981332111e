//! The API server, by `kubectl get --raw` and its like: paths and JSON, as the control plane uses them, so that no version of
//! kubectl has to know a kind.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use super::Access;
use super::program::{ProgramError, run, run_both};

/// How long a request may take.
const TIMEOUT: &str = "--request-timeout=30s";
/// Objects of one page.
const PAGE: usize = 500;

/// Cheap to copy.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    program: PathBuf,
    to: Vec<OsString>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Exists(String),
    #[error("{0}")]
    Program(#[from] ProgramError),
    #[error("{path}: expected JSON, got something else")]
    NoJson { path: String },
}

impl Trouble {
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Trouble::NotFound(_))
    }
}

fn classed(error: ProgramError) -> Trouble {
    let ProgramError::Failed { said, .. } = &error else { return Trouble::Program(error) };
    // kubectl's own words for the reason of a Status; a path that nobody serves has none of its own.
    if said.contains("(NotFound)") || said.contains("the server could not find the requested resource") {
        Trouble::NotFound(said.clone())
    } else if said.contains("(Forbidden)") {
        Trouble::Forbidden(said.clone())
    } else if said.contains("(AlreadyExists)") {
        Trouble::Exists(said.clone())
    } else {
        Trouble::Program(error)
    }
}

impl Kubectl {
    pub(crate) fn new(access: &Access) -> Self {
        let mut to = Vec::new();
        for (flag, value) in [
            ("--context", access.kube_context.as_ref().map(OsString::from)),
            ("--kubeconfig", access.kubeconfig.as_ref().map(OsString::from)),
        ] {
            if let Some(value) = value {
                to.push(flag.into());
                to.push(value);
            }
        }
        Self { program: access.kubectl.clone(), to }
    }

    fn arguments(&self, more: &[&str]) -> Vec<OsString> {
        self.to.iter().cloned().chain(more.iter().map(OsString::from)).collect()
    }

    fn call(&self, more: &[&str], input: Option<&[u8]>) -> Result<Vec<u8>, Trouble> {
        run("kubectl", &self.program, &self.arguments(more), input).map_err(classed)
    }

    fn json(&self, path: &str, more: &[&str], input: Option<&[u8]>) -> Result<Value, Trouble> {
        let body = self.call(more, input)?;
        serde_json::from_slice(&body).map_err(|_| Trouble::NoJson { path: path.to_owned() })
    }

    /// Its own version, as `1.36.3`.
    pub(crate) fn version(&self) -> Result<String, Trouble> {
        let path = "kubectl version";
        let found = self.json(path, &["version", "--client", "-o", "json"], None)?;
        let version = found.pointer("/clientVersion/gitVersion").and_then(Value::as_str);
        let version = version.ok_or_else(|| Trouble::NoJson { path: path.to_owned() })?;
        Ok(version.trim_start_matches('v').to_owned())
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, Trouble> {
        self.json(path, &["get", TIMEOUT, "--raw", path], None)
    }

    /// As it comes.
    pub(crate) fn get_text(&self, path: &str) -> Result<String, Trouble> {
        let body = self.call(&["get", TIMEOUT, "--raw", path], None)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// None where there is no such object.
    pub(crate) fn find(&self, path: &str) -> Result<Option<Value>, Trouble> {
        match self.get(path) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is such an object, without what is in it.
    pub(crate) fn has(&self, kind: &str, namespace: &str, name: &str) -> Result<bool, Trouble> {
        let found = ["get", TIMEOUT, "-n", namespace, kind, name, "-o", "name", "--ignore-not-found"];
        Ok(!self.call(&found, None)?.is_empty())
    }

    /// All objects of a list, page by page. The query (`labelSelector=…`) may be empty.
    pub(crate) fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, Trouble> {
        let (mut all, mut from) = (Vec::new(), String::new());
        loop {
            let mut asked = format!("{path}?limit={PAGE}");
            for more in [query, from.as_str()].into_iter().filter(|more| !more.is_empty()) {
                asked.push('&');
                asked.push_str(more);
            }
            let mut page = self.get(&asked)?;
            // No items are null.
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                all.extend(items);
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(token) if !token.is_empty() => from = format!("continue={}", escaped(token)),
                _ => return Ok(all),
            }
        }
    }

    /// Makes an object, given by standard input and nowhere else.
    pub(crate) fn create(&self, path: &str, object: &[u8]) -> Result<Value, Trouble> {
        self.json(path, &["create", TIMEOUT, "--raw", path, "-f", "-"], Some(object))
    }

    /// Whether there was one.
    pub(crate) fn delete(&self, path: &str) -> Result<bool, Trouble> {
        match self.call(&["delete", TIMEOUT, "--raw", path], None) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The API server's clock, as it says in the header of its answer, by which kubectl's verbose log shows it.
    pub(crate) fn date(&self) -> Result<Option<time::OffsetDateTime>, Trouble> {
        let arguments = self.arguments(&["get", TIMEOUT, "--raw", "/version", "-v=8"]);
        let (_, said) = run_both("kubectl", &self.program, &arguments, None).map_err(classed)?;
        Ok(said.lines().find_map(|line| date_of(line.trim())))
    }

    /// Runs a program in a container of a pod.
    pub(crate) fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[&str],
    ) -> Result<Vec<u8>, Trouble> {
        let mut all = vec!["exec", "-n", namespace, pod, "-c", container, "--"];
        all.extend(command);
        self.call(&all, None)
    }

    /// The newest lines that a container logged.
    pub(crate) fn logs(&self, namespace: &str, pod: &str, container: &str) -> Result<String, Trouble> {
        let lines = ["logs", TIMEOUT, "-n", namespace, pod, "-c", container, "--tail=20000"];
        Ok(String::from_utf8_lossy(&self.call(&lines, None)?).into_owned())
    }

    /// Leads a port of this machine to a port of a pod, until the value goes.
    pub(crate) async fn forward(&self, namespace: &str, pod: &str, port: u16) -> anyhow::Result<Forward> {
        use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
        let (object, ports) = (format!("pod/{pod}"), format!(":{port}"));
        let arguments =
            self.arguments(&["port-forward", "-n", namespace, "--address", "127.0.0.1", &object, &ports]);
        let mut child = tokio::process::Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().ok_or_else(|| anyhow::anyhow!("no output of kubectl"))?;
        let said = async {
            let mut lines = BufReader::new(out).lines();
            while let Some(line) = lines.next_line().await? {
                // `Forwarding from 127.0.0.1:40123 -> 9443`
                let here = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
                if let Some(address) = here.and_then(|here| here.parse().ok()) {
                    return Ok(address);
                }
            }
            let mut why = String::new();
            if let Some(mut errors) = child.stderr.take() {
                errors.read_to_string(&mut why).await?;
            }
            anyhow::bail!("kubectl port-forward: {}", why.trim())
        };
        let address = tokio::time::timeout(std::time::Duration::from_secs(20), said)
            .await
            .map_err(|_| anyhow::anyhow!("kubectl port-forward: nothing within 20 s"))??;
        Ok(Forward { address, _child: child })
    }
}

/// A port that is led on.
pub(crate) struct Forward {
    pub(crate) address: std::net::SocketAddr,
    _child: tokio::process::Child,
}

/// `Date: Fri, 27 Nov 2026 00:44:14 GMT`, however a log of headers begins its line.
fn date_of(line: &str) -> Option<time::OffsetDateTime> {
    let (before, text) = line.split_once("Date: ")?;
    if !before.chars().all(|c| c.is_whitespace() || c == '<') {
        return None;
    }
    let text = text.trim_matches(['"', ' ', '>']);
    let format = time::format_description::parse_borrowed::<2>(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT",
    )
    .ok()?;
    Some(time::PrimitiveDateTime::parse(text, &format).ok()?.assume_utc())
}

/// A value in a query.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                shown.push(char::from(byte))
            }
            _ => shown.push_str(&format!("%{byte:02X}")),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_read_from_both_forms_of_the_verbose_log() {
        for line in ["Date: Fri, 27 Nov 2026 00:44:14 GMT", "        Date: Fri, 27 Nov 2026 00:44:14 GMT"] {
            assert_eq!(date_of(line).unwrap().unix_timestamp(), 1_795_740_254, "{line}");
        }
        for line in ["X-Date: Fri, 27 Nov 2026 00:44:14 GMT", "Date: soon", "nothing"] {
            assert!(date_of(line).is_none(), "{line}");
        }
    }

    #[test]
    fn a_query_keeps_what_is_its_own() {
        assert_eq!(escaped("signet.mesh/inject=enabled"), "signet.mesh%2Finject%3Denabled");
    }
}
