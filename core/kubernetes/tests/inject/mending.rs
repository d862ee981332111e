//! Once or ten times is the same, and what was changed is put right.

use proptest::prelude::*;
use serde_json::{Value, json};
use signet_kubernetes::inject::{Outcome, ProbeKey, inject, uninject};

use crate::support::{apply, injected, key, namespace, pod, pods, refusal, settings};

/// Something that is done to a pod.
type Change = fn(&mut Value);

fn takes_part(pod: &Value) -> bool {
    matches!(inject(pod, &namespace(), &settings(), &key()), Outcome::Injected(_))
}

fn patched(pod: &Value) -> Value {
    let mut made = pod.clone();
    let patch = serde_json::to_value(injected(pod).patch).expect("JSON");
    apply(&mut made, patch.as_array().expect("a list")).expect("a patch that applies");
    made
}

fn sorted(mut pod: Value) -> Value {
    let volumes = pod["spec"]["volumes"].as_array_mut().expect("volumes");
    volumes.sort_by_key(|volume| volume["name"].to_string());
    pod
}

#[test]
fn the_patch_makes_the_pod_and_a_second_call_finds_nothing_to_do() {
    let mut tried = 0;
    for (name, pod) in pods().iter().filter(|(_, pod)| takes_part(pod)) {
        let first = injected(pod);
        assert_eq!(patched(pod), first.pod, "{name}");
        // Another key, as another replica would draw it: the pod's own is kept.
        let Outcome::Injected(second) = inject(&first.pod, &namespace(), &settings(), &ProbeKey::new(7))
        else {
            panic!("{name}");
        };
        assert_eq!(second.patch, [], "{name}");
        tried += 1;
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn what_was_injected_and_taken_out_again_is_what_it_was() {
    for (name, pod) in pods().iter().filter(|(_, pod)| takes_part(pod)) {
        assert_eq!(uninject(&injected(pod).pod).expect("a pod"), *pod, "{name}");
    }
    for (name, pod) in pods() {
        assert_eq!(uninject(&pod).expect("a pod"), pod, "{name} was never injected");
    }
}

#[test]
fn the_server_has_no_reason_to_add_its_token_to_ours_and_what_it_adds_else_stays() {
    let mut pod = pod("reinvocation");
    pod["spec"]["volumes"] = json!([]);
    let first = injected(&pod).pod;
    for container in first["spec"]["initContainers"].as_array().expect("ours") {
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        let there = |mount: &Value| mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount";
        assert_eq!(mounts.iter().filter(|mount| there(mount)).count(), 1, "{container}");
    }
    // The server puts its volume behind ours, and defaults of later versions into the pod.
    let mut stored = first.clone();
    stored["spec"]["volumes"].as_array_mut().expect("volumes").push(json!({"name": "kube-api-access-1"}));
    stored["spec"]["somethingNew"] = json!({"a": [1, 2]});
    let again = injected(&stored);
    assert_eq!(again.patch, []);
    assert_eq!(again.pod["spec"]["somethingNew"], json!({"a": [1, 2]}));
}

#[test]
fn every_part_that_is_changed_or_missing_is_put_right() {
    let good = injected(&pod("pod-probe-http-named-port")).pod;
    let changes: [(&str, Change); 9] = [
        ("image", |pod| pod["spec"]["initContainers"][1]["image"] = json!("other")),
        ("capabilities", |pod| {
            pod["spec"]["initContainers"][1]["securityContext"] = json!({"privileged": true})
        }),
        ("command", |pod| pod["spec"]["initContainers"][0]["command"] = json!(["true"])),
        ("order", |pod| pod["spec"]["initContainers"].as_array_mut().unwrap().reverse()),
        ("redirect", |pod| drop(pod["spec"]["initContainers"].as_array_mut().unwrap().remove(0))),
        ("volume", |pod| {
            pod["spec"]["volumes"].as_array_mut().unwrap().retain(|v| v["name"] != "signet-identity")
        }),
        ("another volume", |pod| {
            for volume in pod["spec"]["volumes"].as_array_mut().unwrap() {
                if volume["name"] == "signet-state" {
                    *volume = json!({"name": "signet-state", "hostPath": {"path": "/"}});
                }
            }
        }),
        ("mark", |pod| pod["metadata"]["annotations"]["signet.mesh/injected"] = json!("false")),
        ("a sidecar twice", |pod| {
            let first = pod["spec"]["initContainers"][1].clone();
            pod["spec"]["initContainers"].as_array_mut().unwrap().push(first);
        }),
    ];
    for (what, change) in changes {
        let mut changed = good.clone();
        change(&mut changed);
        assert_ne!(changed, good, "{what}");
        // A volume that was missing comes last.
        assert_eq!(sorted(patched(&changed)), sorted(good.clone()), "{what}");
    }
    // A configuration that somebody wrote is not believed, and only a key of the right shape is kept.
    for config in [
        "{}",
        "nonsense",
        r#"{"probes": {"key": "../../x"}, "identity": {"kubernetes": {"controlPlane": "spiffe://evil.example/x"}}}"#,
    ] {
        let mut changed = good.clone();
        changed["metadata"]["annotations"]["signet.mesh/sidecar-config"] = json!(config);
        assert_eq!(patched(&changed), good, "{config}");
    }
}

#[test]
fn a_probe_whose_original_is_lost_is_refused_by_name() {
    let mut lost = injected(&pod("pod-probe-http-named-port")).pod;
    for text in ["", "{}", r#"{"app/livenessProbe": {"exec": {"command": ["x"]}}}"#] {
        lost["metadata"]["annotations"]["signet.mesh/original-probes"] = json!(text);
        let said = refusal(&lost);
        assert!(said.contains("original-probes") && said.contains("app/"), "{said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever of ours is taken from a pod or doubled in it, one call mends it.
    #[test]
    fn one_call_mends_what_is_left_of_an_injection(which in 0usize..100, taken in prop::collection::vec((0usize..8, any::<bool>()), 0..6)) {
        let all: Vec<_> = pods().into_iter().filter(|(_, pod)| takes_part(pod)).collect();
        let (_, original) = &all[which % all.len()];
        let good = injected(original).pod;
        let mut changed = good.clone();
        for (part, double) in taken {
            let field = if part % 2 == 0 { "initContainers" } else { "volumes" };
            let list = changed["spec"][field].as_array_mut().unwrap();
            let ours: Vec<usize> = list.iter().enumerate()
                .filter(|(_, item)| item["name"].as_str().unwrap().starts_with("signet-")).map(|(at, _)| at).collect();
            let Some(at) = ours.get(part / 2 % ours.len().max(1)) else { continue };
            if double { let copy = list[*at].clone(); list.push(copy); } else { list.remove(*at); }
        }
        let mended = patched(&changed);
        prop_assert_eq!(uninject(&mended).unwrap(), original.clone());
        prop_assert_eq!(injected(&mended).patch, vec![]);
    }
}
