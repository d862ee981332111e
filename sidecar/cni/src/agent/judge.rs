//! What is to be done about a pod, by what the API server says of it: a pure function.
//!
//! Nothing of it is taken from annotations, which whoever may change a pod can change: the container that injection has
//! put first says by its command how the pod is redirected, and a pod's containers stay as they are.

use clap::Parser;
use serde_json::Value;
use signet_kubernetes::inject::{CHECK, redirected_by_agent};
use signet_redirect::options::Options;
use signet_redirect::run::Command;

use crate::wire::{Failure, Question};

/// What is to be done.
#[derive(Debug)]
pub enum Verdict {
    /// It is no pod of the mesh, or one that sees to its redirection itself.
    Leave,
    /// It is redirected by these options.
    Redirect(Box<Options>),
}

#[derive(Parser)]
#[command(name = "redirect", no_binary_name = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// About the pod of a question, which runs on this node.
///
/// # Errors
/// [`Failure`]: it is another pod, or nobody can say what it is to be.
pub fn judge(pod: &Value, question: &Question, node: &str) -> Result<Verdict, Failure> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    // A static pod, which its node knows by the digest of a file; what the API server shows is its image in a mirror.
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return Ok(Verdict::Leave);
    }
    if text("/metadata/uid") != question.uid {
        let words = format!(
            "expected the pod {}/{} with the uid {:?}, got {:?}: another of that name has taken its place",
            question.namespace,
            question.name,
            question.uid,
            text("/metadata/uid")
        );
        return Err(Failure::new(Failure::AGAIN, words));
    }
    if text("/spec/nodeName") != node {
        let words = format!("expected a pod of the node {node:?}, got one of {:?}", text("/spec/nodeName"));
        return Err(Failure::new(Failure::REFUSED, words));
    }
    of(pod)
}

/// About a pod of which nothing is in doubt but how it is redirected.
///
/// # Errors
/// [`Failure`]: nobody can say how.
pub fn of(pod: &Value) -> Result<Verdict, Failure> {
    if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Ok(Verdict::Leave);
    }
    let Some(words) = redirected_by_agent(pod) else { return Ok(Verdict::Leave) };
    let wrong = |got: String| {
        let expected = format!("the container {CHECK}: expected `redirect verify` with the options of a pod");
        Err(Failure::new(Failure::REFUSED, format!("{expected}, got {got}: it is not as injection made it")))
    };
    let Some((_, rest)) = words.split_first().filter(|(first, _)| **first == "redirect") else {
        return wrong(format!("{words:?}"));
    };
    match Line::try_parse_from(rest) {
        // A file is the pod's, and nothing here is to be read as root.
        Ok(Line { command: Command::Verify { options, .. } }) if options.config.is_none() => {
            Ok(Verdict::Redirect(Box::new(options)))
        }
        Ok(_) => wrong(format!("{words:?}")),
        Err(error) => wrong(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// Whether a pod waits in its first container for somebody to redirect it: it was not when it started.
#[must_use]
pub fn waits(pod: &Value) -> bool {
    if redirected_by_agent(pod).is_none() || pod.pointer("/metadata/deletionTimestamp").is_some() {
        return false;
    }
    let all = pod.pointer("/status/initContainerStatuses").and_then(Value::as_array);
    let check = all.into_iter().flatten().find(|it| it.get("name").and_then(Value::as_str) == Some(CHECK));
    let Some(state) = check.and_then(|check| check.get("state")) else { return false };
    let ended = state.pointer("/terminated/exitCode").and_then(Value::as_i64);
    let begun = ["running", "terminated", "waiting"].iter().any(|it| state.get(it).is_some());
    begun && ended != Some(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::Action;

    fn question() -> Question {
        let text = |text: &str| text.to_owned();
        let (namespace, name, uid) = (text("shop"), text("web-1"), text("u-1"));
        Question { action: Action::Add, namespace, name, uid, container: text("c") }
    }

    fn pod(command: &Value) -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": "web-1", "uid": "u-1"},
            "spec": {"nodeName": "node1", "initContainers": [{"name": "signet-check", "command": command}, {"name": "signet-proxy"}]},
        })
    }

    fn good() -> Value {
        json!([
            "signet-sidecar",
            "redirect",
            "verify",
            "--uid",
            "2102",
            "--exclude-inbound-ports",
            "15021,15020"
        ])
    }

    #[test]
    fn a_pod_is_redirected_as_the_command_of_its_first_container_says() {
        let Ok(Verdict::Redirect(options)) = judge(&pod(&good()), &question(), "node1") else { panic!() };
        assert_eq!(options.uid, Some(2102));
        assert_eq!(options.exclude_inbound_ports.len(), 2);
    }

    #[test]
    fn who_is_not_of_the_mesh_or_redirects_itself_is_left_alone() {
        let left = |change: &dyn Fn(&mut Value)| {
            let mut pod = pod(&good());
            change(&mut pod);
            matches!(judge(&pod, &question(), "node1"), Ok(Verdict::Leave))
        };
        assert!(left(&|pod| drop(pod["spec"].as_object_mut().unwrap().remove("initContainers"))));
        assert!(left(&|pod| pod["spec"]["initContainers"][0]["name"] = "signet-redirect".into()));
        assert!(left(&|pod| pod["spec"]["hostNetwork"] = true.into()));
        assert!(left(&|pod| {
            pod["metadata"]["uid"] = "of the mirror".into();
            pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "u-1"});
        }));
        assert!(!left(&|_| ()));
    }

    #[test]
    fn another_pod_of_the_name_and_one_of_another_node_are_not_this_one() {
        let mut other = question();
        other.uid = "u-0".to_owned();
        let failure = judge(&pod(&good()), &other, "node1").unwrap_err();
        assert!(failure.code == Failure::AGAIN && failure.message.contains("taken its place"), "{failure}");
        let failure = judge(&pod(&good()), &question(), "node2").unwrap_err();
        assert!(failure.code == Failure::REFUSED && failure.message.contains("node1"), "{failure}");
    }

    #[test]
    fn a_command_that_injection_never_wrote_starts_nothing() {
        for command in [
            json!(null),
            json!([]),
            json!(["signet-sidecar"]),
            json!(["signet-sidecar", "redirect"]),
            json!(["sh", "-c", "true"]),
            json!(["signet-sidecar", "redirect", "remove"]),
            json!(["signet-sidecar", "redirect", "apply", "--uid", "2102"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "2102", "--config", "/etc/shadow"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "root"]),
            json!(["signet-sidecar", "redirect", "verify", "--help"]),
            json!(["signet-sidecar", "redirect", "verify", 7]),
        ] {
            let failure = judge(&pod(&command), &question(), "node1").unwrap_err();
            assert_eq!(failure.code, Failure::REFUSED, "{command}");
        }
    }

    #[test]
    fn a_pod_waits_from_when_its_check_has_begun_until_it_has_passed() {
        let with = |status: Value| {
            let mut pod = pod(&good());
            pod["status"] = json!({"initContainerStatuses": status});
            waits(&pod)
        };
        let check = |state: Value| json!([{"name": "signet-check", "state": state}]);
        assert!(with(check(json!({"running": {}}))));
        assert!(with(check(json!({"terminated": {"exitCode": 1}}))));
        assert!(with(check(json!({"waiting": {"reason": "CrashLoopBackOff"}}))));
        assert!(!with(check(json!({"terminated": {"exitCode": 0}}))));
        assert!(!with(json!([])) && !with(check(json!({}))) && !with(Value::Null));
        let mut ending = pod(&good());
        ending["status"] = json!({"initContainerStatuses": check(json!({"running": {}}))});
        assert!(waits(&ending));
        ending["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
        assert!(!waits(&ending));
    }
}
