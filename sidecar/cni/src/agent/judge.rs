//! What is to be done about a pod, by what the API server says of it: a pure function.
//!
//! Nothing of it is taken from annotations, which whoever may change a pod can change: the container that injection has
//! put first says by its command how the pod is redirected, and a pod's containers stay as they are.

use clap::Parser;
use serde_json::Value;
use signet_kubernetes::inject::{CHECK, redirected_by_agent};
use signet_redirect::asks;
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
pub fn judge(pod: &Value, question: &Question, node: &str, uid: u32) -> Result<Verdict, Failure> {
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
    of(pod, uid)
}

/// About a pod of which nothing is in doubt but how it is redirected. `uid`: of the mesh's sidecars.
///
/// # Errors
/// [`Failure`]: nobody can say how.
pub fn of(pod: &Value, uid: u32) -> Result<Verdict, Failure> {
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
    let options = match Line::try_parse_from(rest) {
        Ok(Line { command: Command::Verify { options, .. } }) => options,
        Ok(_) => return wrong(format!("{words:?}")),
        Err(error) => return wrong(error.to_string().lines().next().unwrap_or_default().to_owned()),
    };
    // No file, which would be the pod's and read as root; no option for hosts, and none in another form: whoever writes the
    // container by hand gets what injection could have written, or nothing.
    if asks::words(&options) != rest {
        return wrong(format!("{words:?}"));
    }
    if options.uid != Some(uid) {
        return wrong(format!("{words:?}, while the mesh's sidecars are the user {uid}"));
    }
    Ok(Verdict::Redirect(Box::new(options)))
}

/// Whether a pod waits in its first container for somebody to redirect it: it was not when it started. One that has ended keeps
/// its addresses in its status, when they are another's already.
#[must_use]
pub fn waits(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    if redirected_by_agent(pod).is_none()
        || phase != Some("Pending")
        || pod.pointer("/metadata/deletionTimestamp").is_some()
    {
        return false;
    }
    let all = pod.pointer("/status/initContainerStatuses").and_then(Value::as_array);
    let check = all.into_iter().flatten().find(|it| it.get("name").and_then(Value::as_str) == Some(CHECK));
    check.is_some_and(|check| check.pointer("/state/running").is_some())
}

/// Whether a pod that waited is the same, and waits still where it did.
#[must_use]
pub fn still_waits(before: &Value, now: &Value) -> bool {
    let same = |pointer: &str| {
        let value = before.pointer(pointer);
        value.is_some() && value == now.pointer(pointer)
    };
    waits(now)
        && same("/metadata/uid")
        && same("/spec/nodeName")
        && same("/status/podIPs")
        && redirected_by_agent(before) == redirected_by_agent(now)
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
        let Ok(Verdict::Redirect(options)) = judge(&pod(&good()), &question(), "node1", 2102) else {
            panic!()
        };
        assert_eq!(options.uid, Some(2102));
        assert_eq!(options.exclude_inbound_ports.len(), 2);
        let mut all = good();
        for word in [
            "--exclude-outbound-ports",
            "9000-9010,53",
            "--exclude-outbound-ranges",
            "0.0.0.0/0,fd00::/8,192.0.2.1/32",
        ] {
            all.as_array_mut().unwrap().push(word.into());
        }
        all.as_array_mut().unwrap().splice(5..5, ["--dns".into(), "capture".into()]);
        assert!(judge(&pod(&all), &question(), "node1", 2102).is_ok());
        assert!(judge(&pod(&all), &question(), "node1", 2103).is_err(), "another user");
    }

    #[test]
    fn who_is_not_of_the_mesh_or_redirects_itself_is_left_alone() {
        let left = |change: &dyn Fn(&mut Value)| {
            let mut pod = pod(&good());
            change(&mut pod);
            matches!(judge(&pod, &question(), "node1", 2102), Ok(Verdict::Leave))
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
        let failure = judge(&pod(&good()), &other, "node1", 2102).unwrap_err();
        assert!(failure.code == Failure::AGAIN && failure.message.contains("taken its place"), "{failure}");
        let failure = judge(&pod(&good()), &question(), "node2", 2102).unwrap_err();
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
            // What is no pod's, or not in the words of injection.
            json!(["signet-sidecar", "redirect", "verify"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "2103"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid=2102"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "02102"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "2102", "--gid", "7"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "2102", "--dns", "leave"]),
            json!([
                "signet-sidecar",
                "redirect",
                "verify",
                "--uid",
                "2102",
                "--dns",
                "capture",
                "--dns-port",
                "5"
            ]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "2102", "--inbound-port", "none"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "2102", "--outbound-port", "9000"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "2102", "--exclude-uids", "1000"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "2102", "--only-inbound-ports", "1"]),
            json!([
                "signet-sidecar",
                "redirect",
                "verify",
                "--uid",
                "2102",
                "--only-outbound-ranges",
                "192.0.2.1/32"
            ]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "2102", "--only-uids", "1"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "2102", "--ipv6", "off"]),
            json!(["signet-sidecar", "redirect", "verify", "--uid", "2102", "--wait", "1"]),
            json!([
                "signet-sidecar",
                "redirect",
                "verify",
                "--uid",
                "2102",
                "--exclude-inbound-ports",
                "080"
            ]),
        ] {
            let failure = judge(&pod(&command), &question(), "node1", 2102).unwrap_err();
            assert_eq!(failure.code, Failure::REFUSED, "{command}");
        }
    }

    fn waiting() -> Value {
        let mut pod = pod(&good());
        let check = json!([{"name": "signet-check", "state": {"running": {}}}]);
        pod["status"] =
            json!({"phase": "Pending", "podIPs": [{"ip": "10.0.0.7"}], "initContainerStatuses": check});
        pod
    }

    #[test]
    fn a_pod_waits_while_it_is_to_start_and_its_check_runs() {
        let with = |states: Value| {
            let mut pod = waiting();
            pod["status"]["initContainerStatuses"] = states;
            waits(&pod)
        };
        let check = |state: Value| json!([{"name": "signet-check", "state": state}]);
        assert!(with(check(json!({"running": {}}))));
        for other in [
            check(json!({"terminated": {"exitCode": 1}})),
            check(json!({"terminated": {"exitCode": 0}})),
            check(json!({"waiting": {"reason": "CrashLoopBackOff"}})),
            check(json!({})),
            json!([{"name": "other", "state": {"running": {}}}]),
            json!([]),
            Value::Null,
        ] {
            assert!(!with(other.clone()), "{other}");
        }
        let mut ending = waiting();
        ending["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
        assert!(!waits(&ending));
        // One that has ended keeps its addresses, while another may have them.
        for phase in [json!("Failed"), json!("Succeeded"), json!("Running"), json!("Unknown"), Value::Null] {
            let mut ended = waiting();
            ended["status"]["phase"] = phase.clone();
            assert!(!waits(&ended), "{phase}");
        }
    }

    #[test]
    fn what_has_changed_meanwhile_waits_no_more() {
        assert!(still_waits(&waiting(), &waiting()));
        for (pointer, value) in [
            ("/metadata/uid", json!("u-2")),
            ("/status/phase", json!("Failed")),
            ("/status/podIPs", json!([{"ip": "10.0.0.8"}])),
            ("/status/podIPs", Value::Null),
            ("/spec/nodeName", json!("node2")),
            ("/spec/initContainers/0/command", json!(["signet-sidecar", "redirect", "verify", "--uid", "7"])),
            ("/status/initContainerStatuses/0/state", json!({"terminated": {"exitCode": 0}})),
        ] {
            let mut now = waiting();
            *now.pointer_mut(pointer).unwrap() = value;
            assert!(!still_waits(&waiting(), &now), "{pointer}");
        }
    }
}
