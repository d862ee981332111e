use super::*;

const SIDECAR: &str = r#"
role: sidecar
identity: {joinBundle: /run/signet/join.json}
dataDir: /run/signet/web
inbound:
  - {service: orders.shop, port: grpc, listen: 127.0.0.1:17102, app: "unix:/run/orders.sock"}
  - {service: orders.shop, port: http, listen: "127.0.0.1:0", app: "tcp:127.0.0.1:8080"}
outbound:
  - {listen: "unix:/run/web/out-orders.sock", service: orders.shop, port: grpc}
  - {listen: "127.0.0.1:0", service: inventory.shop, port: http}
transparent: {outbound: ["0.0.0.0:15001", "[::]:15001"], inbound: "0.0.0.0:15006", serves: [audit.shop]}
admin: {socket: /run/signet/admin.sock}
metrics: {listen: "127.0.0.1:0"}
workers: 1
drainSeconds: 5
log: {format: text, level: debug}
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("sidecar.yaml"), text).map_err(|error| error.to_string())
}

fn refused(text: &str, words: &[&str]) {
    let message = parse(text).expect_err("must be refused");
    for word in words {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
}

#[test]
fn every_field_is_read() {
    let config = parse(SIDECAR).unwrap();
    assert_eq!(config.role, Role::Sidecar);
    assert_eq!(config.inbound[0].service.name.to_string(), "orders");
    assert_eq!(config.inbound[0].service.namespace.to_string(), "shop");
    assert_eq!(config.inbound[0].app, AppAddress::Unix("/run/orders.sock".into()));
    assert_eq!(config.inbound[1].app, AppAddress::Tcp("127.0.0.1:8080".parse().unwrap()));
    let transparent = config.transparent.as_ref().unwrap();
    assert_eq!(transparent.outbound.len(), 2);
    assert_eq!(transparent.inbound, ["0.0.0.0:15006".parse().unwrap()]);
    assert_eq!(config.workers, Some(1));
    assert_eq!(config.drain_seconds, 5);
    assert_eq!(config.log, Log { format: logs::Format::Text, level: "debug".parse().unwrap() });
    assert_eq!(
        config.dialled().iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["inventory.shop", "orders.shop"]
    );
    assert_eq!(config.served().len(), 2);
    assert!(config.tls.resumption);
}

#[test]
fn a_name_server_is_for_this_host_alone_and_has_the_documented_defaults() {
    let with =
        |dns: &str| format!("{{role: sidecar, identity: {{joinBundle: /j}}, dataDir: /d, dns: {dns}}}");
    let dns = parse(&with("{listen: ['127.0.0.1:15053', '[::1]:15053']}")).unwrap().dns.unwrap();
    assert_eq!((dns.listen.len(), dns.cluster_domain.as_str()), (2, "cluster.local"));
    assert_eq!(dns.resolv_conf, Path::new("/etc/resolv.conf"));
    refused(&with("{listen: '0.0.0.0:15053'}"), &["dns.listen", "a loopback address", "0.0.0.0:15053"]);
    refused(&with("{listen: ['127.0.0.1:15053', '[fd00::1]:15053']}"), &["dns.listen", "[fd00::1]:15053"]);
    refused(&with("{listen: []}"), &["dns.listen", "at least one"]);
    refused(&with("{listen: ['127.0.0.1:53', '127.0.0.1:53']}"), &["dns.listen", "no other listener has"]);
    for domain in ["", "cluster..local", "-x", "a b", "cluster.local."] {
        let text = with(&format!("{{listen: '127.0.0.1:53', clusterDomain: '{domain}'}}"));
        refused(&text, &["dns.clusterDomain", "cluster.local"]);
    }
    refused(&with("{listen: '127.0.0.1:53', resolvConf: etc}"), &["dns.resolvConf", "an absolute path"]);
    let gateway = "{role: gateway, identity: {joinBundle: /j}, dataDir: /d, dns: {listen: '127.0.0.1:53'}, \
                   gateway: {resource: a.b, listeners: [{listen: '127.0.0.1:1'}]}}";
    refused(gateway, &["dns", "none with role: gateway"]);
}

#[test]
fn handles_are_for_a_workload_that_serves_somebody_and_end_soon_after() {
    let with = |context: &str| {
        format!(
            "{{role: sidecar, identity: {{joinBundle: /j}}, dataDir: /d, userContext: {context}, inbound: [{{service: \
             orders.shop, port: http, listen: '127.0.0.1:1', app: 'tcp:127.0.0.1:2'}}]}}"
        )
    };
    let grace = |context: &str| parse(&with(context)).unwrap().user_context.grace();
    assert_eq!(grace("{attach: true}"), Some(std::time::Duration::ZERO));
    assert_eq!(grace("{attach: true, graceSeconds: 30}"), Some(std::time::Duration::from_secs(30)));
    assert_eq!((grace("{}"), grace("{attach: false}")), (None, None));
    refused(&with("{attach: true, graceSeconds: 31}"), &["userContext.graceSeconds", "at most 30", "31"]);
    refused(&with("{graceSeconds: 1}"), &["userContext.graceSeconds", "attach: true"]);
    refused(&with("{atach: true}"), &["userContext.atach", "unknown field"]);
    let idle = "{role: sidecar, identity: {joinBundle: /j}, dataDir: /d, userContext: {attach: true}}";
    refused(idle, &["userContext.attach", "a service that this workload serves", "none"]);
    let gateway = "{role: gateway, identity: {joinBundle: /j}, dataDir: /d, userContext: {attach: true}, \
                   gateway: {resource: a.b, listeners: [{listen: '127.0.0.1:1'}]}}";
    refused(gateway, &["userContext", "none with role: gateway"]);
    let agent = "{role: agent, identity: {joinBundle: /j}, dataDir: /d, userContext: {attach: true}, \
                 workloadApi: {socket: /s}}";
    refused(agent, &["userContext", "none with role: agent"]);
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let config = parse("{role: sidecar, identity: {joinBundle: /j}, dataDir: /d}").unwrap();
    assert_eq!(config.drain_seconds, 10);
    assert_eq!(config.workers, None);
    assert_eq!(config.log, Log { format: logs::Format::Json, level: "info".parse().unwrap() });
    assert!(config.inbound.is_empty() && config.outbound.is_empty() && config.transparent.is_none());
    assert!(config.dns.is_none());
}

#[test]
fn an_unknown_field_is_named_with_file_place_and_what_was_expected() {
    refused(
        "role: sidecar\nidentity: {joinBundle: /j}\ndataDir: /d\ninbond: []\n",
        &["sidecar.yaml:4:", "inbond", "expected one of", "drainSeconds"],
    );
    refused(
        "role: sidecar\nidentity: {joinBundle: /j}\ndataDir: /d\noutbound:\n  - {listen: \"127.0.0.1:1\", service: a.b, port: p, tls: x}\n",
        &["sidecar.yaml:5:", "outbound[0].tls", "unknown field"],
    );
}

#[test]
fn a_process_proves_itself_by_a_bundle_or_as_a_pod() {
    let with = |identity: &str| format!("role: sidecar\nidentity: {identity}\ndataDir: /d\n");
    let pod = "{tokenFile: /t, rootsFile: /r, bootstrapAddress: 'cp:1', meshAddress: 'cp:2', \
               controlPlane: 'spiffe://demo.signet/ns/signet-system/sa/signet-control-plane'}";
    let config = parse(&with(&format!("{{kubernetes: {pod}}}"))).unwrap();
    let found = config.identity.kubernetes.unwrap();
    assert_eq!(found.control_plane.trust_domain().as_str(), "demo.signet");
    refused(&with("{}"), &["identity", "joinBundle or kubernetes", "neither"]);
    refused(&with(&format!("{{joinBundle: /j, kubernetes: {pod}}}")), &["identity", "both"]);
    for (from, to, words) in [
        ("tokenFile: /t", "tokenFile: t", ["identity.kubernetes.tokenFile", "absolute path"]),
        ("rootsFile: /r", "rootsFile: r", ["identity.kubernetes.rootsFile", "absolute path"]),
        ("cp:1", "cp", ["identity.kubernetes.bootstrapAddress", "host:port"]),
        ("cp:2", "cp:0", ["identity.kubernetes.meshAddress", "host:port"]),
        ("spiffe://", "https://", ["identity.kubernetes.controlPlane", "spiffe://"]),
        ("tokenFile: /t, ", "", ["identity.kubernetes", "tokenFile"]),
    ] {
        refused(&with(&format!("{{kubernetes: {}}}", pod.replace(from, to))), &words);
    }
}

#[test]
fn a_duplicate_key_is_refused() {
    refused("role: sidecar\nrole: gateway\nidentity: {joinBundle: /j}\ndataDir: /d\n", &["role", "uplicate"]);
}

#[test]
fn a_wrong_value_names_its_field_and_what_came() {
    let with = |line: &str| format!("role: sidecar\nidentity: {{joinBundle: /j}}\ndataDir: /d\n{line}\n");
    refused(
        &with("inbound: [{service: orders, port: p, listen: \"127.0.0.1:1\", app: \"unix:/a\"}]"),
        &["inbound[0].service", "name.namespace", "`orders`"],
    );
    refused(
        &with("inbound: [{service: a.b, port: p, listen: \"127.0.0.1:1\", app: \"127.0.0.1:1\"}]"),
        &["inbound[0].app", "tcp:ip:port"],
    );
    refused(
        &with("outbound: [{service: a.b, port: p, listen: \"localhost:1\"}]"),
        &["outbound[0].listen", "ip:port", "localhost:1"],
    );
    refused(&with("transparent: {outbound: [\"x\"]}"), &["transparent.outbound"]);
    refused(&with("transparent: {inbound: \"0.0.0.0:15006\"}"), &["transparent.serves", "got none"]);
    refused(&with("drainSeconds: 99999"), &["drainSeconds", "at most 3600 seconds", "99999"]);
    refused(&with("log: {level: loud}"), &["log.level", "info", "loud"]);
    refused(&with("workers: 0"), &["workers", "1 to 256", "got 0"]);
    refused(&with("admin: {socket: run/a.sock}"), &["admin.socket", "absolute path", "run/a.sock"]);
}

#[test]
fn two_listeners_may_not_share_an_address() {
    let text = "role: sidecar\nidentity: {joinBundle: /j}\ndataDir: /d\noutbound:\n  - {listen: \"127.0.0.1:9\", service: a.b, port: p}\n  - {listen: \"127.0.0.1:9\", service: c.b, port: p}\n";
    refused(text, &["outbound[1].listen", "no other listener", "127.0.0.1:9"]);
}

#[test]
fn a_role_has_only_the_sections_that_it_uses() {
    refused("{role: gateway, identity: {joinBundle: /j}, dataDir: /d}", &["gateway", "role: gateway"]);
    let gateway = "gateway: {resource: gw.edge, listeners: [{listen: \"127.0.0.1:0\"}]}";
    refused(
        &format!("role: sidecar\nidentity: {{joinBundle: /j}}\ndataDir: /d\n{gateway}"),
        &["gateway", "role: gateway only"],
    );
    refused(
        &format!(
            "role: gateway\nidentity: {{joinBundle: /j}}\ndataDir: /d\n{gateway}\noutbound: [{{listen: \"127.0.0.1:0\", service: a.b, port: p}}]"
        ),
        &["outbound", "role: gateway"],
    );
    parse(&format!("role: gateway\nidentity: {{joinBundle: /j}}\ndataDir: /d\n{gateway}")).unwrap();
}

#[test]
fn a_gateway_has_a_door_for_callers_from_outside_or_for_other_clusters() {
    let with = |more: &str| {
        parse(&format!(
            "role: gateway\nidentity: {{joinBundle: /j}}\ndataDir: /d\ngateway: {{resource: gw.edge{more}}}\n"
        ))
    };
    assert!(with("").unwrap_err().contains("at least one listener, eastWest or egress"));
    let passing = with(", eastWest: {listen: '127.0.0.1:9'}").unwrap();
    assert!(!passing.has_edge(), "it mints nothing");
    let both = with(", listeners: [{listen: '127.0.0.1:8'}], eastWest: {listen: '127.0.0.1:9'}").unwrap();
    assert!(both.has_edge());
    let twice =
        with(", listeners: [{listen: '127.0.0.1:9'}], eastWest: {listen: '127.0.0.1:9'}").unwrap_err();
    assert!(twice.contains("gateway.eastWest.listen") && twice.contains("no other listener"), "{twice}");
    // Their TLS goes through: there is none of ours to configure.
    let tls = with(", eastWest: {listen: '127.0.0.1:9', tls: {cert: /c, key: /k}}").unwrap_err();
    assert!(tls.contains("unknown field `tls`"), "{tls}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Path::new("/nonexistent/sidecar.yaml")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/sidecar.yaml"), "{error}");
}

#[test]
fn the_workload_socket_is_off_by_default_and_open_only_as_far_as_it_says() {
    assert!(parse(SIDECAR).unwrap().workload_api.is_none());
    let with = |rest: &str| parse(&format!("{SIDECAR}workloadApi: {{socket: /run/w.sock{rest}}}\n"));
    let mode = |rest: &str| with(rest).unwrap().workload_api.unwrap().mode_bits(Role::Sidecar);
    assert_eq!(mode(""), 0o600);
    assert_eq!(mode(", mode: '0660'"), 0o660);
    assert_eq!(mode(", allowedUids: [1000]"), 0o666);
    assert_eq!(mode(", mode: '0600', allowedUids: [0]"), 0o600);
    assert!(with(", mode: '0777'").unwrap_err().contains("0600"));
    assert!(with(", allowedUids: []").unwrap_err().contains("workloadApi.allowedUids"));
    refused(&format!("{SIDECAR}workloadApi: {{socket: w.sock}}\n"), &["workloadApi.socket"]);
    refused(&format!("{SIDECAR}workloadApi: {{socket: /run/signet/admin.sock}}\n"), &["workloadApi.socket"]);
}

#[test]
fn the_apps_door_is_on_loopback_or_a_socket() {
    let with = |rest: &str| parse(&format!("{SIDECAR}appApi: {{listen: {rest}}}\n"));
    for good in ["'127.0.0.1:15021'", "'[::1]:0'", "'unix:/run/app.sock'"] {
        assert!(with(good).is_ok(), "{good}");
    }
    let mode = |rest: &str| with(rest).unwrap().app_api.unwrap().mode_bits();
    assert_eq!(mode("'unix:/run/app.sock'"), 0o600);
    assert_eq!(mode("'unix:/run/app.sock', allowedUids: [1000]"), 0o666);
    assert_eq!(mode("'unix:/run/app.sock', mode: '0660', allowedUids: [1000]"), 0o660);
    for (bad, words) in [
        ("'0.0.0.0:15021'", "a loopback address"),
        ("'10.0.0.7:15021'", "a loopback address"),
        ("'[::]:15021'", "a loopback address"),
        ("'127.0.0.1:15021', allowedUids: [1000]", "the kernel names no caller of an address"),
        ("'127.0.0.1:15021', mode: '0600'", "the kernel names no caller of an address"),
        ("'unix:/run/app.sock', allowedUids: []", "serves nobody"),
        ("'unix:app.sock'", "appApi.listen"),
        ("'unix:/run/signet/admin.sock'", "appApi.listen"),
    ] {
        refused(&format!("{SIDECAR}appApi: {{listen: {bad}}}\n"), &[words]);
    }
}

#[test]
fn an_agent_has_a_socket_a_join_bundle_and_nothing_that_a_sidecar_has() {
    let with = |rest: &str| format!("role: agent\nidentity: {{joinBundle: /j}}\ndataDir: /d\n{rest}");
    let socket = "workloadApi: {socket: /run/signet/w.sock}\n";
    let config = parse(&with(socket)).unwrap();
    // Everybody reaches it; the registry says who gets what.
    assert_eq!(config.workload_api.unwrap().mode_bits(config.role), 0o666);
    let closed = parse(&with("workloadApi: {socket: /w.sock, mode: '0660'}")).unwrap();
    assert_eq!(closed.workload_api.unwrap().mode_bits(closed.role), 0o660);
    refused(&with(""), &["workloadApi", "a socket with role: agent"]);
    for more in [
        "outbound: [{listen: \"127.0.0.1:0\", service: a.b, port: p}]",
        "inbound: [{service: a.b, port: p, listen: \"127.0.0.1:0\", app: \"tcp:127.0.0.1:1\"}]",
        "transparent: {outbound: \"127.0.0.1:0\"}",
    ] {
        refused(&with(&format!("{socket}{more}")), &["none with role: agent"]);
    }
    refused(
        &with(&format!("{socket}gateway: {{resource: a.b, listeners: [{{listen: \"127.0.0.1:0\"}}]}}")),
        &["gateway"],
    );
    let pod = "role: agent\nidentity: {kubernetes: {tokenFile: /t, rootsFile: /r, bootstrapAddress: 'a:1', meshAddress: 'a:2', \
               controlPlane: 'spiffe://example.com/ns/signet-system/sa/signet-control-plane'}}\ndataDir: /d\n";
    refused(&format!("{pod}{socket}"), &["joinBundle with role: agent"]);
}

#[test]
fn an_apps_metrics_are_one_port_and_path_of_its_own() {
    let with = |app: &str| {
        SIDECAR.replace(
            "metrics: {listen: \"127.0.0.1:0\"}",
            &format!("metrics: {{listen: '127.0.0.1:9091', app: {app}}}"),
        )
    };
    let config = parse(&with("{port: 9102}")).unwrap();
    let app = config.app_metrics().unwrap();
    assert_eq!((app.port.get(), app.path.as_str()), (9102, "/metrics"));
    assert_eq!(parse(&with("{port: 9102, path: '/a?b=c'}")).unwrap().app_metrics().unwrap().path, "/a?b=c");
    for path in ["stats", "", "http://evil.example/", "/a b", "/a#b", "*"] {
        refused(&with(&format!("{{port: 9102, path: '{path}'}}")), &["metrics.app.path", "begins with `/`"]);
    }
    refused(
        &with(&format!("{{port: 9102, path: '/{}'}}", "a".repeat(1024))),
        &["metrics.app.path", "1024 bytes"],
    );
    // Neither itself nor the data plane.
    refused(&with("{port: 9091}"), &["metrics.app.port", "a port of the app", "metrics.listen"]);
    refused(&with("{port: 15006}"), &["metrics.app.port", "transparent.inbound"]);
    refused(&with("{port: 0}"), &["metrics.app.port"]);
    let gateway = "role: gateway\nidentity: {joinBundle: /j}\ndataDir: /d\ngateway: {resource: a.b, listeners: [{listen: '127.0.0.1:1'}]}\n\
                   metrics: {listen: '127.0.0.1:2', app: {port: 3}}\n";
    refused(gateway, &["metrics.app", "role: sidecar"]);
}
