//! Servers that others wrote behind one pair of sidecars, and what their parsers see of the requests that get through: nginx and HAProxy
//! (which say it by what they send on to a bare socket), Node's and Python's own HTTP servers, and the bare socket by itself, which
//! is what the pair says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use signet_tests::client::get;
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit};
use signet_tests::peers::{python, tool};
use signet_tests::process::{Process, until};

use crate::raw_app::{RawApp, Reply};
use crate::scene::Peer;

/// A request as somebody saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    /// By lower-case name, in order.
    pub(crate) headers: BTreeMap<String, Vec<String>>,
    /// Without its framing, byte for byte as Latin-1.
    pub(crate) body: String,
    /// The path that the server resolves the target to, decoded.
    pub(crate) resolved: String,
    /// Why it is no request to the server.
    pub(crate) error: Option<String>,
}

/// One server behind the pair.
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    /// The outbound listener that leads to it.
    pub(crate) entry: String,
    app: App,
}

enum App {
    /// The bare socket that stands behind it, or is it.
    Raw(RawApp),
    /// It tells by itself, at this address.
    Tells(String),
}

impl Backend {
    /// The requests that it has seen since this was last asked.
    pub(crate) async fn take(&self) -> Vec<Seen> {
        match &self.app {
            App::Raw(app) => app.take().iter().map(|request| read(request)).collect(),
            App::Tells(address) => {
                let told = get(address, "/__seen", &[]).await;
                let told: Vec<Value> = serde_json::from_slice(told.body()).expect("a list in JSON");
                told.iter().map(told_of).collect()
            }
        }
    }
}

/// All of them.
pub(crate) struct Backends {
    pub(crate) mesh: Mesh,
    /// The bare socket.
    pub(crate) pair: Backend,
    pub(crate) others: Vec<Backend>,
    _processes: Vec<Process>,
    _peers: Vec<Peer>,
    _folder: tempfile::TempDir,
}

impl Backends {
    /// Starts them, behind a permit for everything and further policies (`---` in front). None: one is missing here.
    pub(crate) async fn start(further: &str) -> Option<Self> {
        let (python, node, nginx, haproxy) = (python()?, tool("node")?, tool("nginx")?, tool("haproxy")?);
        let folder = tempfile::tempdir().expect("a folder");
        let raw = || RawApp::start(|_, _| Reply::ok());
        let (alone, behind_nginx, behind_haproxy) = (raw().await, raw().await, raw().await);
        let (at_nginx, at_haproxy) = (free_address(), free_address());
        let processes = vec![
            start_nginx(nginx, &folder, &at_nginx, &behind_nginx.address),
            start_haproxy(haproxy, &folder, &at_haproxy, &behind_haproxy.address),
        ];
        for address in [&at_nginx, &at_haproxy] {
            until(address, || std::net::TcpStream::connect(address).ok()).await;
        }
        let peers =
            vec![Peer::start(&node, "node_backend.mjs", &[]), Peer::start(&python, "python_backend.py", &[])];
        let apps = [
            ("pair", alone.address.clone(), App::Raw(alone)),
            ("nginx", at_nginx, App::Raw(behind_nginx)),
            ("haproxy", at_haproxy, App::Raw(behind_haproxy)),
            ("node", peers[0].address(), App::Tells(peers[0].address())),
            ("python", peers[1].address(), App::Tells(peers[1].address())),
        ];
        let (mut ports, mut numbers, mut inbound, mut outbound) =
            (String::new(), String::new(), String::new(), String::new());
        let mut backends = Vec::new();
        for (at, (name, address, app)) in apps.into_iter().enumerate() {
            let (door, entry) = (free_address(), free_address());
            let number = door.rsplit_once(':').expect("host:port").1;
            ports += &format!("{{name: {name}, port: {}, protocol: http1}}, ", 80 + at);
            numbers += &format!("{name}: {number}, ");
            inbound += &format!(
                "- {{service: server.shop, port: {name}, listen: '{door}', app: 'tcp:{address}'}}\n"
            );
            outbound += &format!("- {{listen: '{entry}', service: server.shop, port: {name}}}\n");
            backends.push(Backend { name, entry, app });
        }
        let mesh = Mesh::builder()
            .registry(format!(
                "kind: Service\nmetadata: {{namespace: shop, name: server}}\nspec:\n  ports: [{ports}]\n  \
                 endpoints: [{{address: 127.0.0.1, ports: {{{numbers}}}, identity: ns/shop/sa/server}}]\n"
            ))
            .registry(permit("client-may", "shop", "server", "ns/shop/sa/client", "") + further)
            .sidecar(Sidecar::new("server.shop", format!("inbound:\n{inbound}")))
            .sidecar(Sidecar::new("client.shop", format!("outbound:\n{outbound}")))
            .start()
            .await;
        let pair = backends.remove(0);
        Some(Self { mesh, pair, others: backends, _processes: processes, _peers: peers, _folder: folder })
    }
}

/// The field by which nginx and HAProxy say what they resolved.
const RESOLVED: &str = "x-resolved";

/// nginx passes on what it understood, with the path that its locations would be chosen by.
fn start_nginx(program: PathBuf, folder: &tempfile::TempDir, listen: &str, behind: &str) -> Process {
    let path = folder.path().display();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {path}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n  \
         client_body_temp_path {path}/body;\n  proxy_temp_path {path}/proxy;\n  fastcgi_temp_path {path}/fastcgi;\n  \
         uwsgi_temp_path {path}/uwsgi;\n  scgi_temp_path {path}/scgi;\n  underscores_in_headers on;\n  ignore_invalid_headers off;\n  \
         server {{\n    listen {listen};\n    location / {{\n      proxy_pass http://{behind};\n      proxy_http_version 1.1;\n      \
         proxy_set_header host $http_host;\n      proxy_set_header connection '';\n      proxy_set_header {RESOLVED} $uri;\n    }}\n  }}\n}}\n"
    );
    std::fs::write(folder.path().join("nginx.conf"), config).expect("nginx's configuration");
    let mut command = Command::new(program);
    command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
    Process::start("nginx", command, folder.path())
}

/// HAProxy does, too.
fn start_haproxy(program: PathBuf, folder: &tempfile::TempDir, listen: &str, behind: &str) -> Process {
    let config = format!(
        "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 60s\n  timeout client 60s\n  timeout server 60s\nlisten all\n  \
         bind {listen}\n  http-request set-header {RESOLVED} %[path,url_dec]\n  server behind {behind}\n"
    );
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, config).expect("HAProxy's configuration");
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(file);
    Process::start("haproxy", command, folder.path())
}

/// Reads what a bare socket got of a careful sender.
fn read(request: &str) -> Seen {
    let (head, rest) = request.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {request:?}"));
        // What was resolved may end with a space of its own.
        let value = if name == RESOLVED { value.strip_prefix(' ').unwrap_or(value) } else { value.trim() };
        headers.entry(name.to_ascii_lowercase()).or_default().push(value.to_owned());
    }
    let body = if headers.contains_key("transfer-encoding") { unchunked(rest) } else { rest.to_owned() };
    let path = target.split('?').next().unwrap_or_default();
    let resolved = match headers.remove(RESOLVED) {
        Some(mut told) => told.pop().unwrap_or_default(),
        None => decoded(path),
    };
    Seen { method: method.into(), target: target.into(), headers, body, resolved, error: None }
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        body += &after[..size];
        rest = &after[size + 2..];
    }
    body
}

/// A path without its percent-encoding.
pub(crate) fn decoded(path: &str) -> String {
    let (mut bytes, mut left) = (Vec::new(), path.as_bytes());
    while let [first, rest @ ..] = left {
        let hex = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match hex.filter(|_| *first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                left = &rest[2..];
            }
            None => {
                bytes.push(*first);
                left = rest;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn told_of(told: &Value) -> Seen {
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    let mut headers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for pair in told["headers"].as_array().into_iter().flatten() {
        let part = |at: usize| pair[at].as_str().unwrap_or_default().to_owned();
        headers.entry(part(0)).or_default().push(part(1));
    }
    let error = (!told["error"].is_null()).then(|| told["error"].to_string());
    Seen {
        method: text("method"),
        target: text("target"),
        headers,
        body: text("body"),
        resolved: text("resolved"),
        error,
    }
}
