//! Metrics of apps: who is led where.

use serde_json::{Map, Value, json};
use signet_kubernetes::inject::{ORIGINAL_SCRAPE, uninject};

use crate::support::{injected, pod, refusal};

const BARE: &str = "pod-bare";

fn with(name: &str, annotations: &[(&str, &str)]) -> Value {
    let mut pod = pod(name);
    let all = annotations.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
    pod["metadata"]["annotations"] = Value::Object(all.collect::<Map<_, _>>());
    pod
}

/// What the sidecar asks, the annotations that Prometheus reads, and what the owner is told.
fn led(pod: &Value) -> (Value, Vec<(String, String)>, Vec<String>) {
    let done = injected(pod);
    let annotations = done.pod["metadata"]["annotations"].as_object().expect("annotations");
    let config: Value =
        serde_json::from_str(annotations["signet.mesh/sidecar-config"].as_str().expect("text"))
            .expect("JSON");
    let read = annotations.iter().filter(|(name, _)| name.starts_with("prometheus.io/"));
    let read = read.map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()));
    let mut read: Vec<_> = read.collect();
    read.sort();
    (config["metrics"]["app"].clone(), read, done.warnings)
}

fn to_us() -> Vec<(String, String)> {
    [("path", "/metrics"), ("port", "15021"), ("scrape", "true")]
        .map(|(name, value)| (format!("prometheus.io/{name}"), value.to_owned()))
        .to_vec()
}

#[test]
fn prometheus_is_led_to_the_sidecar_and_the_sidecar_to_the_app() {
    for (said, asked) in [
        (&[("port", "9102"), ("path", "/stats?all=1")][..], json!({"port": 9102, "path": "/stats?all=1"})),
        (&[("port", "9102")], json!({"port": 9102, "path": "/metrics"})),
        (
            &[("port", " 9102 "), ("path", "stats"), ("scheme", "http")],
            json!({"port": 9102, "path": "/stats"}),
        ),
    ] {
        let said: Vec<_> =
            said.iter().map(|(name, value)| (format!("prometheus.io/{name}"), *value)).collect();
        let mut all: Vec<(&str, &str)> = said.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        all.push(("prometheus.io/scrape", "true"));
        let pod = with(BARE, &all);
        assert_eq!(led(&pod), (asked, to_us(), vec![]), "{all:?}");
        // Once more finds nothing to do, and taken out it is as it was.
        let done = injected(&pod).pod;
        assert_eq!(injected(&done).patch, [], "{all:?}");
        assert_eq!(uninject(&done).expect("a pod"), pod);
    }
    // Without a port it is the only one that there is.
    let mut one = with(BARE, &[("prometheus.io/scrape", "true")]);
    one["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]);
    assert_eq!(led(&one), (json!({"port": 8080, "path": "/metrics"}), to_us(), vec![]));
}

#[test]
fn what_cannot_be_taken_over_stays_and_its_owner_is_told() {
    for (name, value, why) in [
        ("prometheus.io/port", "http", "expected a port, got \"http\""),
        ("prometheus.io/port", "0", "expected a port, got \"0\""),
        ("prometheus.io/port", "70000", "expected a port"),
        ("prometheus.io/scheme", "https", "expected http, got \"https\""),
        ("prometheus.io/path", "/a b", "expected a path"),
        ("prometheus.io/path", "/a#b", "expected a path"),
    ] {
        let mut all = vec![("prometheus.io/scrape", "true")];
        if name != "prometheus.io/port" {
            all.push(("prometheus.io/port", "9102"));
        }
        all.push((name, value));
        let (app, read, warnings) = led(&with(BARE, &all));
        assert_eq!((app, read.len()), (Value::Null, all.len()), "{all:?}");
        assert!(read.contains(&(name.to_owned(), value.to_owned())));
        assert!(
            warnings.len() == 1 && warnings[0].contains(name) && warnings[0].contains(why),
            "{warnings:?}"
        );
    }
    let mut two = with(BARE, &[("prometheus.io/scrape", "true")]);
    two["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080}, {"containerPort": 8081}]);
    let (_, _, warnings) = led(&two);
    assert!(warnings[0].contains("got none"), "{warnings:?}");
}

#[test]
fn nobody_is_led_who_does_not_ask_for_it() {
    for all in [
        &[][..],
        &[("prometheus.io/port", "9102")],
        &[("prometheus.io/scrape", "false"), ("prometheus.io/port", "9102")],
        // The sidecar's own, and a port that callers reach as it is.
        &[("prometheus.io/scrape", "true"), ("prometheus.io/port", "15021")],
        &[
            ("prometheus.io/scrape", "true"),
            ("prometheus.io/port", "9102"),
            ("signet.mesh/exclude-inbound-ports", "9000-9200"),
        ],
        &[
            ("prometheus.io/scrape", "true"),
            ("prometheus.io/port", "9102"),
            ("signet.mesh/app-metrics", "disabled"),
        ],
    ] {
        let pod = with(BARE, all);
        let (app, read, warnings) = led(&pod);
        let there: Vec<_> = all.iter().filter(|(name, _)| name.starts_with("prometheus.io/")).collect();
        assert_eq!((app, read.len(), warnings), (Value::Null, there.len(), vec![]), "{all:?}");
        assert!(injected(&pod).pod["metadata"]["annotations"].get(ORIGINAL_SCRAPE).is_none());
    }
}

#[test]
fn a_pod_that_a_monitor_finds_says_where_its_metrics_are() {
    let annotation = "signet.mesh/app-metrics";
    for (value, asked) in [
        ("9102/stats?all=1", json!({"port": 9102, "path": "/stats?all=1"})),
        ("9102", json!({"port": 9102, "path": "/metrics"})),
    ] {
        assert_eq!(led(&with(BARE, &[(annotation, value)])), (asked, vec![], vec![]), "{value}");
    }
    for value in [
        "",
        "0",
        "http",
        "/metrics",
        "9102 /a",
        "9102/a b",
        "15021",
        "15006/metrics",
        "9102http://a/",
        "70000",
    ] {
        let said = refusal(&with(BARE, &[(annotation, value)]));
        assert!(said.contains(annotation) && said.contains("8080/metrics"), "{value}: {said}");
    }
}

#[test]
fn what_somebody_changed_since_is_not_undone() {
    let pod = with(BARE, &[("prometheus.io/scrape", "true"), ("prometheus.io/port", "9102")]);
    let mut changed = injected(&pod).pod;
    changed["metadata"]["annotations"]["prometheus.io/port"] = json!("9103");
    changed["metadata"]["annotations"]["prometheus.io/path"] = json!("/new");
    assert_eq!(led(&changed), (json!({"port": 9103, "path": "/new"}), to_us(), vec![]));
    // Nor is what was never there put in its place.
    let mut forged = with(BARE, &[("prometheus.io/port", "15021")]);
    forged["metadata"]["annotations"][ORIGINAL_SCRAPE] =
        json!(r#"{"prometheus.io/path": ["x"], "signet.mesh/serves": "a.b"}"#);
    let out = uninject(&forged).expect("a pod");
    assert_eq!(out["metadata"].get("annotations"), None);
}
