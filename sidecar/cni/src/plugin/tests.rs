use std::os::unix::net::UnixListener;

use serde_json::Value;

use super::*;

const RESULT: &str = r#"{ "ips":[{"address":"10.1.2.3/24","interface":2}],  "cniVersion": "1.0.0","dns":{},
   "interfaces":[{"name":"eth0","mac":"0a:58:0a:01:02:03", "sandbox":"/var/run/netns/x"}], "unknown": 1.50 }"#;
const POD: &str =
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1";

fn input(version: &str, more: &str) -> String {
    format!(
        r#"{{"cniVersion": "{version}", "name": "net", "type": "signet-cni", "socket": "/no/such/agent.sock",
            "excludeNamespaces": ["kube-system", "signet-system"], "prevResult": {RESULT}{more}}}"#
    )
}

fn called(command: &str, arguments: &str, input: &str) -> Printed {
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some(command.to_owned()),
        "CNI_ARGS" => Some(arguments.to_owned()),
        "CNI_CONTAINERID" => Some("c1".to_owned()),
        // Any file that is not the node's network.
        "CNI_NETNS" => Some("/dev/null".to_owned()),
        _ => None,
    };
    run(&Call { variable: &variable, input })
}

#[track_caller]
fn refused(printed: Printed, code: u32, words: &str) {
    let text = printed.expect_err("a refusal");
    let error: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(error["code"], code, "{text}");
    assert!(error["msg"].as_str().unwrap().contains(words), "{text}");
    assert!(error["cniVersion"].is_string(), "{text}");
}

#[test]
fn a_pod_that_is_never_in_the_mesh_needs_no_agent_and_gets_what_came_to_the_byte() {
    for arguments in [
        "",
        "IgnoreUnknown=1",
        "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns-1;K8S_POD_UID=u",
        "K8S_POD_NAMESPACE=signet-system",
    ] {
        for version in VERSIONS {
            assert_eq!(called("ADD", arguments, &input(version, "")).as_deref(), Ok(RESULT), "{arguments}");
        }
    }
}

#[test]
fn everybody_else_does_not_start_while_the_agent_is_away_unless_that_was_wanted() {
    refused(
        called("ADD", POD, &input("1.0.0", "")),
        Failure::AGAIN,
        "does not answer at /no/such/agent.sock",
    );
    refused(called("CHECK", POD, &input("1.0.0", "")), Failure::AGAIN, "does not answer");
    let pass = input("1.0.0", r#", "whenAway": "pass""#);
    assert_eq!(called("ADD", POD, &pass).as_deref(), Ok(RESULT));
    refused(called("CHECK", POD, &pass), Failure::AGAIN, "does not answer");
}

#[test]
fn the_agents_word_is_the_plugins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let mut seen = Vec::new();
        for answer in [Ok(()), Err(Failure::new(Failure::REFUSED, "not this one"))] {
            let (mut stream, _) = listener.accept().unwrap();
            seen.push(wire::receive(&mut stream).unwrap().0);
            wire::reply(&mut stream, &answer).unwrap();
        }
        seen
    });
    let input = input("0.4.0", "").replace("/no/such/agent.sock", &path.display().to_string());
    assert_eq!(called("ADD", POD, &input).as_deref(), Ok(RESULT));
    refused(called("ADD", POD, &input), Failure::REFUSED, "not this one");
    let seen = server.join().unwrap();
    let first = &seen[0];
    assert_eq!(
        (&*first.namespace, &*first.name, &*first.uid, &*first.container),
        ("shop", "web-1", "u-1", "c1")
    );
    assert_eq!(first.action, Action::Add);
}

#[test]
fn a_pod_ends_and_a_network_is_ready_whatever_becomes_of_the_agent() {
    for version in VERSIONS {
        for command in ["DEL", "GC"] {
            assert_eq!(called(command, POD, &input(version, "")).as_deref(), Ok(""), "{command}");
            // Not even its own configuration is needed for that.
            assert_eq!(called(command, POD, &format!(r#"{{"cniVersion": "{version}"}}"#)).as_deref(), Ok(""));
        }
        assert_eq!(called("STATUS", "", &input(version, "")).as_deref(), Ok(""));
    }
    refused(called("STATUS", "", r#"{"cniVersion": "1.1.0"}"#), code::CONFIGURATION, "socket");
}

#[test]
fn what_cannot_be_meant_is_refused_by_the_codes_of_the_specification() {
    let good = input("1.0.0", "");
    refused(called("ADD", POD, "no json"), code::DECODE, "expected a network configuration");
    refused(called("ADD", POD, &input("9.9.9", "")), code::VERSION, "9.9.9");
    refused(called("FROB", POD, &good), code::ENVIRONMENT, "FROB");
    refused(called("", POD, &good), code::ENVIRONMENT, "CNI_COMMAND");
    let alone = good.replace("prevResult", "noResult");
    refused(called("ADD", POD, &alone), code::CONFIGURATION, "prevResult");
    refused(called("CHECK", POD, &alone), code::CONFIGURATION, "prevResult");
    for missing in ["K8S_POD_NAME", "K8S_POD_UID"] {
        refused(called("ADD", &POD.replace(&format!("{missing}="), "X="), &good), code::ENVIRONMENT, missing);
    }
    let version: Value =
        serde_json::from_str(&called("VERSION", "", r#"{"cniVersion": "1.0.0"}"#).unwrap()).unwrap();
    assert_eq!(version["cniVersion"], "1.0.0");
    assert_eq!(version["supportedVersions"].as_array().unwrap().len(), VERSIONS.len());
    assert!(called("VERSION", "", "").is_ok());
}

#[test]
fn the_nodes_own_network_is_nobodys_pod() {
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some("ADD".to_owned()),
        "CNI_ARGS" => Some(POD.to_owned()),
        "CNI_NETNS" => Some("/proc/self/ns/net".to_owned()),
        _ => None,
    };
    let input = input("1.0.0", "");
    refused(run(&Call { variable: &variable, input: &input }), code::ENVIRONMENT, "the node's own");
    let variable = |name: &str| if name == "CNI_NETNS" { None } else { variable(name) };
    refused(run(&Call { variable: &variable, input: &input }), code::ENVIRONMENT, "CNI_NETNS");
}
