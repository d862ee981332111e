//! `signet inject` and `signet uninject`, as processes, on files.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const SETTINGS: &str = "
image: registry.example.com/signet-sidecar:1
redirectImage: registry.example.com/signet-redirect:1
bootstrapAddress: signet-control-plane.signet-system.svc:8443
meshAddress: signet-control-plane.signet-system.svc:8444
controlPlane: spiffe://example.com/ns/signet-system/sa/signet-control-plane
";

const ORDERS: &str = "# The shop's orders.
apiVersion: apps/v1
kind: Deployment
metadata: {name: orders, namespace: shop}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: orders}}
    spec:
      containers:
      - name: app
        image: registry.example.com/orders:1
        env:
        - {name: COUNTRY, value: 'no'}
        - {name: VERSION, value: \"1.10\"}
        - {name: TEXT, value: \"two\\nlines: # here\"}
        readinessProbe: {httpGet: {port: 8080}}
      volumes:
      - name: config
        configMap: {name: orders, defaultMode: 0644}
";

const CONFIG: &str = "apiVersion: v1
kind: ConfigMap   # stays as it is
metadata: {name: orders}
data:
  key: |
    --- no document begins here
";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("settings.yaml"), SETTINGS).expect("written");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_signet"))
            .args(arguments)
            .current_dir(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("signet");
        // Whoever is refused for its arguments need not have read anything.
        match child.stdin.take().expect("input").write_all(input.as_bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.expect("written"),
        }
        child.wait_with_output().expect("ended")
    }

    fn inject(&self, input: &str) -> Output {
        self.run(&["inject", "-f", "-", "--settings", "settings.yaml"], input)
    }

    fn uninject(&self, input: &str) -> String {
        printed(&self.run(&["uninject", "-f", "-"], input))
    }
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn read(text: &str) -> Vec<Value> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_multiple_with_options(text, options).expect("YAML")
}

#[test]
fn a_stream_is_injected_where_there_are_pods_and_is_the_same_elsewhere() {
    let folder = Folder::new();
    let output = folder.inject(&format!("{CONFIG}---\n{ORDERS}---\n# nothing\n"));
    let text = printed(&output);
    assert!(text.starts_with(CONFIG), "{text}");
    assert!(text.ends_with("# nothing\n"), "{text}");
    assert!(said(&output).contains("Deployment orders: injected"), "{}", said(&output));
    let all = read(&text);
    let pod = &all[1]["spec"]["template"];
    assert_eq!(pod["spec"]["initContainers"][1]["name"], "signet-proxy");
    let app = &pod["spec"]["containers"][0];
    assert_eq!(app["readinessProbe"]["httpGet"]["port"], 15020);
    // What readers of YAML differ about comes out so that they do not.
    let values: Vec<_> =
        app["env"].as_array().expect("env").iter().map(|entry| entry["value"].as_str()).collect();
    assert_eq!(values, [Some("no"), Some("1.10"), Some("two\nlines: # here")]);
    assert_eq!(pod["spec"]["volumes"][0]["configMap"]["defaultMode"], 420);
    assert!(text.contains("value: \"no\"") && text.contains("value: \"1.10\""), "{text}");
    // Again: nothing changes, to the last byte.
    let again = folder.inject(&text);
    assert_eq!(printed(&again), text);
    assert!(said(&again).contains("as it should be"), "{}", said(&again));
    let back = folder.uninject(&text);
    assert_eq!(read(&back), read(&format!("{CONFIG}---\n{ORDERS}")));
}

#[test]
fn every_kind_with_pods_is_known_and_lists_are_looked_through() {
    let folder = Folder::new();
    let pod = r#"{"metadata": {}, "spec": {"containers": [{"name": "app", "image": "a:1"}]}}"#;
    let kind = |version: &str, kind: &str, spec: String| {
        format!(
            r#"{{"apiVersion": "{version}", "kind": "{kind}", "metadata": {{"name": "x"}}, "spec": {spec}}}"#
        )
    };
    let template = format!(r#"{{"template": {pod}}}"#);
    let mut items: Vec<String> = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"]
        .map(|name| kind("apps/v1", name, template.clone()))
        .to_vec();
    items.push(kind("batch/v1", "Job", template.clone()));
    items.push(kind("batch/v1", "CronJob", format!(r#"{{"jobTemplate": {{"spec": {template}}}}}"#)));
    items.push(r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "y-"}, "spec": {"containers": [{"name": "app", "image": "a:1"}]}}"#.to_owned());
    items.push(kind("example.com/v1", "Deployment", template));
    let list = format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{}]}}"#, items.join(","));
    let output = folder.inject(&list);
    let made: Value = serde_json::from_str(&printed(&output)).expect("JSON stays JSON");
    let injected = made.to_string().matches("\"signet-proxy\"").count();
    assert_eq!((injected, said(&output).matches(": injected").count()), (7, 7), "{}", said(&output));
    let back: Value = serde_json::from_str(&folder.uninject(&printed(&output))).expect("JSON");
    let mut before: Value = serde_json::from_str(&list).expect("JSON");
    // An empty map is no map.
    assert_eq!(back.to_string().replace("\"metadata\":{},", ""), {
        before["x"] = Value::Null;
        before.as_object_mut().expect("a list").remove("x");
        before.to_string().replace("\"metadata\":{},", "")
    });
}

#[test]
fn a_folder_is_read_by_name_and_one_refusal_prints_nothing() {
    let folder = Folder::new();
    let manifests = folder.path().join("shop");
    std::fs::create_dir(&manifests).expect("made");
    std::fs::write(manifests.join("1-orders.yaml"), ORDERS).expect("written");
    std::fs::write(manifests.join("2-config.yml"), CONFIG).expect("written");
    std::fs::write(manifests.join("notes.txt"), "nothing of this: [").expect("written");
    let arguments = ["inject", "-f", "shop", "--settings", "settings.yaml"];
    assert_eq!(read(&printed(&folder.run(&arguments, ""))).len(), 2);
    let own = ORDERS.replace("    spec:\n", "    spec:\n      securityContext: {runAsUser: 2102}\n");
    std::fs::write(manifests.join("3-own.yaml"), own).expect("written");
    let refused = folder.run(&arguments, "");
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert!(
        said(&refused).contains("3-own.yaml: Deployment orders: refused: ")
            && said(&refused).contains("2102"),
        "{}",
        said(&refused)
    );
}

#[test]
fn what_cannot_be_read_is_named_with_its_file() {
    let folder = Folder::new();
    let broken = folder.inject("a: [1\n");
    assert!(!broken.status.success() && said(&broken).contains("signet: -"), "{}", said(&broken));
    std::fs::write(folder.path().join("settings.yaml"), SETTINGS.replace("svc:8443", "svc"))
        .expect("written");
    let settings = folder.inject(ORDERS);
    assert!(
        said(&settings).contains("settings.yaml") && said(&settings).contains("bootstrapAddress"),
        "{}",
        said(&settings)
    );
    std::fs::write(folder.path().join("settings.yaml"), format!("{SETTINGS}\nsurprise: 1\n"))
        .expect("written");
    assert!(said(&folder.inject(ORDERS)).contains("surprise"));
}

#[test]
fn pods_of_the_system_and_of_the_host_are_left_alone_by_name() {
    let folder = Folder::new();
    for (from, to, words) in [
        ("namespace: shop", "namespace: kube-system", "kube-system"),
        ("    spec:\n", "    spec:\n      hostNetwork: true\n", "host's network"),
    ] {
        let text = ORDERS.replace(from, to);
        let output = folder.inject(&text);
        assert_eq!(printed(&output), text);
        assert!(said(&output).contains("left alone") && said(&output).contains(words), "{}", said(&output));
    }
}
