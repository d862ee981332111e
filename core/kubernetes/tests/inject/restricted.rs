//! Where the agent of the node redirects, what injection adds is let in by the strictest level of Pod Security.

use serde_json::{Value, json};
use signet_kubernetes::inject::review::{Answer, Question, answer, judged};
use signet_kubernetes::inject::{Outcome, Redirect, Settings, inject, redirected_by_agent, uninject};

use crate::support::{apply, by_agent, key, namespace, patch_of, pod, pods, reviews, settings};

fn injected(pod: &Value, settings: &Settings) -> Option<Value> {
    match inject(pod, &namespace(), settings, &key()) {
        Outcome::Injected(done) => Some(done.pod),
        _ => None,
    }
}

/// Why the level `restricted` refuses a container or a volume, as its checks go through them (Kubernetes 1.36).
fn restricted(container: &Value) -> Vec<&'static str> {
    let context = &container["securityContext"];
    let text = |pointer: &str| context.pointer(pointer).and_then(Value::as_str);
    let none = |pointer: &str| context.pointer(pointer).is_none_or(Value::is_null);
    let port = |port: &Value| port.get("hostPort").is_some();
    let mut why = Vec::new();
    let mut unless = |holds: bool, what: &'static str| {
        if !holds {
            why.push(what);
        }
    };
    unless(context["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation != false");
    unless(context["capabilities"]["drop"] == json!(["ALL"]), "unrestricted capabilities");
    unless(none("/capabilities/add"), "non-default capabilities");
    unless(context["privileged"] != true, "privileged");
    unless(context["runAsNonRoot"] == true, "runAsNonRoot != true");
    unless(context["runAsUser"].as_u64().is_some_and(|user| user != 0), "runAsUser=0");
    unless(text("/seccompProfile/type") == Some("RuntimeDefault"), "seccompProfile");
    unless(none("/procMount") && none("/seLinuxOptions") && none("/appArmorProfile"), "options");
    unless(!container["ports"].as_array().is_some_and(|all| all.iter().any(port)), "hostPort");
    why
}

#[test]
fn whatever_pod_it_is_nothing_that_is_added_needs_a_capability_root_or_the_host() {
    let mut tried = 0;
    for (name, pod) in pods() {
        let Some(made) = injected(&pod, &by_agent()) else { continue };
        let ours = made["spec"]["initContainers"].as_array().expect("ours");
        let names: Vec<&Value> = ours.iter().take(2).map(|it| &it["name"]).collect();
        assert_eq!(names, ["signet-check", "signet-proxy"], "{name}");
        for container in &ours[..2] {
            assert_eq!(restricted(container), [""; 0], "{name}: {container}");
        }
        let volumes = made["spec"]["volumes"].as_array().expect("volumes").iter();
        for volume in volumes.filter(|it| it["name"].as_str().is_some_and(|it| it.starts_with("signet-"))) {
            let allowed = ["downwardAPI", "projected", "emptyDir"];
            assert!(allowed.iter().any(|kind| volume.get(kind).is_some()), "{volume}");
        }
        assert!(!made.to_string().contains("NET_ADMIN"), "{name}");
        // The other way needs one, which is what this is for.
        let by_itself = injected(&pod, &settings()).expect("as well");
        assert!(!restricted(&by_itself["spec"]["initContainers"][0]).is_empty());
        tried += 1;
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn it_is_mended_taken_out_and_changed_into_the_other_way_like_that_one() {
    for (name, pod) in pods() {
        let Some(made) = injected(&pod, &by_agent()) else { continue };
        assert_eq!(uninject(&made).expect("a pod"), pod, "{name}");
        let Outcome::Injected(again) = inject(&made, &namespace(), &by_agent(), &key()) else {
            panic!("{name}")
        };
        assert_eq!(again.patch, [], "{name}");
        // The mesh goes over to the other way, and back.
        let other = injected(&made, &settings()).expect("injected");
        assert_eq!(Some(&other), injected(&pod, &settings()).as_ref(), "{name}");
        assert_eq!(injected(&other, &by_agent()), Some(made), "{name}");
    }
}

#[test]
fn the_pod_says_first_then_its_namespace_then_the_mesh() {
    let first = |settings: &Settings, said: Option<&str>| {
        let mut pod = pod("pod-bare");
        if let Some(said) = said {
            pod["metadata"]["annotations"] = json!({"signet.mesh/redirect": said});
        }
        injected(&pod, settings).expect("injected")["spec"]["initContainers"][0]["name"].clone()
    };
    let listed = Settings { cni_namespaces: ["shop".parse().unwrap()].into(), ..settings() };
    assert_eq!(first(&settings(), None), "signet-redirect");
    assert_eq!(first(&settings(), Some("cni")), "signet-check");
    assert_eq!(first(&listed, None), "signet-check");
    assert_eq!(first(&listed, Some("init")), "signet-redirect");
    assert_eq!(first(&by_agent(), None), "signet-check");
    assert_eq!(first(&by_agent(), Some("init")), "signet-redirect");
    let mut wrong = pod("pod-bare");
    wrong["metadata"]["annotations"] = json!({"signet.mesh/redirect": "none"});
    assert!(
        crate::support::refusal(&wrong).contains("signet.mesh/redirect: expected init or cni, got \"none\"")
    );
    let read = |word: &str| serde_json::from_value::<Redirect>(json!(word)).ok().map(Redirect::word);
    assert_eq!((read("init"), read("cni"), read("none")), (Some("init"), Some("cni"), None));
}

#[test]
fn the_agent_goes_by_the_command_alone() {
    let made = injected(&pod("pod-probe-http-named-port"), &by_agent()).expect("injected");
    let words = redirected_by_agent(&made).expect("one of its");
    assert_eq!(words, ["redirect", "verify", "--uid", "2102", "--exclude-inbound-ports", "15021,15020"],);
    assert_eq!(redirected_by_agent(&injected(&pod("pod-bare"), &settings()).unwrap()), None);
    let mut odd = made;
    odd["spec"]["initContainers"][0]["command"] = json!(["a", 1]);
    assert_eq!(redirected_by_agent(&odd), Some(Vec::new()), "not for one that is none of its");
}

#[test]
fn the_webhook_answers_in_the_same_way_and_takes_the_pod_that_comes_of_it() {
    for (name, review) in reviews().into_iter().filter(|(_, it)| it["request"]["operation"] == "CREATE") {
        let Answer::Review { body, outcome, .. } = answer(review.to_string().as_bytes(), &by_agent(), &key())
        else {
            panic!("{name}")
        };
        if outcome != "injected" {
            continue;
        }
        let mut made = review.clone();
        apply(&mut made["request"]["object"], &patch_of(&body).expect("a patch")).expect("it applies");
        let question = Question::read(made.to_string().as_bytes()).expect("a question");
        // By whichever settings it is judged.
        for settings in [settings(), by_agent()] {
            let Some(Answer::Review { body, .. }) = judged(&question, &settings) else { panic!("{name}") };
            assert_eq!(body["response"]["allowed"], true, "{name}");
        }
        let mut early = made.clone();
        let all = early["request"]["object"]["spec"]["initContainers"].as_array_mut().expect("a list");
        all.insert(0, json!({"name": "early", "image": "registry.example.com/early:1"}));
        let question = Question::read(early.to_string().as_bytes()).expect("a question");
        let Some(Answer::Review { body, .. }) = judged(&question, &by_agent()) else { panic!("{name}") };
        assert_eq!(body["response"]["allowed"], false, "{name}: one that would run before the check");
    }
}
