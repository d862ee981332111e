//! What a real API server takes for an answer, and that ours are all such.

use serde_json::{Value, json};
use signet_kubernetes::inject::review::{Answer, Question, answer, judged};

use signet_kubernetes::inject::{Outcome, Settings, inject};

use crate::support::{answered, apply, data, key, namespace, patch_of, reviews, settings};

/// Whether the server can read an answer to this uid, with what the patch is applied to; as it was recorded.
fn is_taken(answer: &Value, uid: &str, object: &Value) -> bool {
    let response = &answer["response"];
    let read = answer["apiVersion"] == "admission.k8s.io/v1"
        && answer["kind"] == "AdmissionReview"
        && response.is_object()
        && response["uid"] == uid;
    if !read || response["allowed"] != true {
        return read;
    }
    match (response.get("patch"), response.get("patchType")) {
        (None, None) => true,
        (Some(_), Some(kind)) if kind == "JSONPatch" => {
            use base64::Engine as _;
            let text = response["patch"].as_str().unwrap_or_default();
            let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(text) else { return false };
            let Ok(Value::Array(patch)) = serde_json::from_slice(&bytes) else { return false };
            apply(&mut object.clone(), &patch).is_ok()
        }
        _ => false,
    }
}

#[test]
fn the_judge_of_answers_agrees_with_the_recordings() {
    let mut agreed = 0;
    for (name, recorded) in data("answers") {
        let body = &recorded["webhook_answer"]["body"];
        if !body.is_object() || recorded["webhook_answer"]["status"] != 200 {
            continue;
        }
        let sent = &recorded["api"]["request"]["body"];
        let status = recorded["api"]["response"]["status"].as_u64().expect("a status");
        let uid = if name.contains("uid") {
            "another"
        } else {
            body["response"]["uid"].as_str().unwrap_or("another")
        };
        let taken = is_taken(body, uid, sent);
        // A patch that makes an invalid pod is read, and then refused as the pod's own fault; `test` operations we have none.
        if matches!(name.as_str(), "patch-makes-invalid-pod" | "patch-wrong-type" | "patch-test-op-fails") {
            continue;
        }
        assert_eq!(taken, status != 500, "{name}: {status} {body}");
        agreed += 1;
    }
    assert!(agreed > 20, "{agreed}");
}

#[test]
fn every_answer_of_ours_is_one_that_the_server_takes() {
    let mut patches = 0;
    for (name, review) in reviews() {
        let answer = answered(&review);
        let request = &review["request"];
        assert!(
            is_taken(&answer, request["uid"].as_str().expect("a uid"), &request["object"]),
            "{name}: {answer}"
        );
        let response = &answer["response"];
        if response["allowed"] != true {
            assert!(response["status"]["message"].as_str().expect("words").starts_with("signet: "), "{name}");
            assert!(response.get("patch").is_none(), "{name}");
        }
        patches += usize::from(patch_of(&answer).is_some());
        // No operation touches the name, or adds nothing.
        for operation in patch_of(&answer).unwrap_or_default() {
            let path = operation["path"].as_str().expect("a path");
            assert!(!["/metadata/name", "/metadata/generateName", ""].contains(&path), "{name}: {path}");
        }
        assert_ne!(patch_of(&answer), Some(Vec::new()), "{name}");
    }
    assert!(patches > 20, "{patches}");
}

#[test]
fn what_is_no_review_is_told_what_was_expected() {
    for (body, words) in [
        ("", "in JSON"),
        ("[]", "in JSON"),
        ("{}", "missing field"),
        (r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#, "v1beta1"),
        (r#"{"apiVersion": "admission.k8s.io/v1", "kind": "Pod"}"#, "\"Pod\""),
        (r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#, "a request with a uid"),
        (
            r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": null}"#,
            "a request with a uid",
        ),
    ] {
        match answer(body.as_bytes(), &settings(), &key()) {
            Answer::NoReview(text) => assert!(text.contains(words), "{body}: {text}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(answer(deep.as_bytes(), &settings(), &key()), Answer::NoReview(_)));
}

#[test]
fn a_pod_that_is_none_is_refused_and_never_let_through() {
    let mut review = reviews().swap_remove(0).1;
    for object in [
        json!(null),
        json!([]),
        json!({}),
        json!({"spec": {}}),
        json!({"spec": {"containers": []}}),
        json!({"spec": {"containers": [1]}}),
        json!({"metadata": [], "spec": {"containers": [{"name": "app"}]}}),
    ] {
        review["request"]["object"] = object.clone();
        let answer = answered(&review);
        assert_eq!(answer["response"]["allowed"], false, "{object}");
    }
}

#[test]
fn a_debugging_container_may_not_be_the_sidecars_user_or_mount_what_is_its_own() {
    let (_, mut review) =
        reviews().into_iter().find(|(name, _)| name == "pod-ephemeral-container").expect("recorded");
    assert_eq!(answered(&review)["response"]["allowed"], true);
    review["request"]["object"]["spec"]["initContainers"] = json!([{"name": "signet-proxy"}]);
    assert_eq!(answered(&review)["response"]["allowed"], true);
    for (field, value, words) in [
        ("securityContext", json!({"runAsUser": 2102}), "the sidecar's user"),
        ("volumeMounts", json!([{"name": "signet-state", "mountPath": "/x"}]), "signet-state"),
        ("targetContainerName", json!("signet-proxy"), "process"),
    ] {
        let mut review = review.clone();
        review["request"]["object"]["spec"]["ephemeralContainers"][0][field] = value;
        let answer = answered(&review);
        assert_eq!(answer["response"]["allowed"], false, "{field}");
        assert!(answer["response"]["status"]["message"].as_str().expect("words").contains(words), "{answer}");
    }
}

/// What is said of a pod as it would be stored, with its code and message where it may not be.
fn judgement(pod: &Value) -> Result<(), String> {
    let (_, mut review) = reviews().into_iter().find(|(name, _)| name == "pod-bare").expect("recorded");
    review["request"]["object"] = pod.clone();
    let question = Question::read(review.to_string().as_bytes()).expect("a question");
    let Some(Answer::Review { body, .. }) = judged(&question, &settings()) else { panic!("no answer") };
    match body["response"]["allowed"] == true {
        true => Ok(()),
        false => Err(body["response"]["status"]["message"].as_str().expect("words").to_owned()),
    }
}

#[test]
fn a_pod_that_is_to_be_in_the_mesh_and_that_nobody_injected_is_refused_with_what_would_help() {
    for (name, pod) in crate::support::pods() {
        let Outcome::Injected(done) = inject(&pod, &namespace(), &settings(), &key()) else {
            // Left alone for a reason of its own, or refused before.
            continue;
        };
        assert_eq!(judgement(&done.pod), Ok(()), "{name}");
        if !crate::support::is_injected(&pod) {
            let words = judgement(&pod).expect_err("nobody injected it");
            assert!(
                words.contains("nobody injected it") && words.contains("signet-proxy"),
                "{name}: {words}"
            );
        }
    }
    for name in ["pod-host-network", "pod-windows-os"] {
        let mut pod = crate::support::pod(name);
        assert_eq!(judgement(&pod), Ok(()), "{name}");
        // Its own revision leaves it alone as well.
        pod["metadata"]["labels"]["signet.mesh/rev"] = "canary".into();
        assert_eq!(judgement(&pod), Ok(()), "{name}");
    }
    // A revision that nobody has.
    let mut pod = crate::support::pod("pod-bare");
    pod["metadata"]["labels"]["signet.mesh/rev"] = "gone".into();
    let words = judgement(&pod).expect_err("nobody injects it");
    assert!(words.contains("signet.mesh/rev says \"gone\""), "{words}");
    // One whose control plane is another is as good as ours.
    let other = Settings { revision: "canary".into(), uid: 2200, ..settings() };
    pod["metadata"]["labels"]["signet.mesh/rev"] = "canary".into();
    let Outcome::Injected(mut done) = inject(&pod, &namespace(), &other, &key()) else {
        panic!("not injected")
    };
    assert_eq!(judgement(&done.pod), Ok(()));
    // Whoever changes it afterwards does not go past the sidecar, whose user is that of this pod.
    done.pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = 2200.into();
    assert!(judgement(&done.pod).expect_err("the sidecar's user").contains("2200"));
    done.pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = 2102.into();
    assert_eq!(judgement(&done.pod), Ok(()), "the user of other sidecars is nobody here");
    // Somebody put a container before ours.
    let first = json!({"name": "early", "image": "registry.example.com/early:1"});
    done.pod["spec"]["initContainers"].as_array_mut().expect("a list").insert(0, first);
    assert!(
        judgement(&done.pod).expect_err("it would run before").contains("first among its init containers")
    );
}

#[test]
fn a_debugging_container_is_held_against_the_user_of_the_pods_own_sidecar() {
    let (_, mut review) =
        reviews().into_iter().find(|(name, _)| name == "pod-ephemeral-container").expect("recorded");
    review["request"]["object"]["spec"]["initContainers"] =
        json!([{"name": "signet-proxy", "securityContext": {"runAsUser": 2200}}]);
    review["request"]["object"]["metadata"]["labels"] = json!({"signet.mesh/inject": "disabled"});
    for (user, allowed) in [(2200, false), (2102, true)] {
        review["request"]["object"]["spec"]["ephemeralContainers"][0]["securityContext"] =
            json!({"runAsUser": user});
        let question = Question::read(review.to_string().as_bytes()).expect("a question");
        let Some(Answer::Review { body, .. }) = judged(&question, &settings()) else { panic!("no answer") };
        assert_eq!(body["response"]["allowed"], allowed, "{user}");
    }
}
