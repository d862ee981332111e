//! A pair of sidecars and a gateway in front of one app, and the Python peers that drive them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::peers::root;

/// A service at an app, its caller's listener, and a gateway that leads to it.
pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    /// The client sidecar's plain listener for its app.
    pub(crate) outbound: String,
    /// The gateway's plain listener.
    pub(crate) gateway: String,
}

impl Scene {
    /// A pair for `protocol` (http1, http2 or grpc), with the app at this address. Everything is permitted.
    pub(crate) async fn start(protocol: &str, app: &str) -> Self {
        Self::start_with(protocol, app, "").await
    }

    /// The same with further fields of the one permit (`  to: …`), as YAML.
    pub(crate) async fn start_with(protocol: &str, app: &str, rest: &str) -> Self {
        let (inbound, outbound, gateway) = (free_address(), free_address(), free_address());
        let edge = if protocol == "grpc" { "http2" } else { protocol };
        let mesh = Mesh::builder()
            .registry(service("server", "shop", "main", protocol, &inbound))
            .registry(permit("client-may", "shop", "server", "ns/shop/sa/client", rest))
            .registry(permit("edge-may", "shop", "server", "ns/edge/sa/gw", rest))
            .registry(
                "kind: Gateway\nmetadata: {namespace: edge, name: gw}\nspec:\n  identity: ns/edge/sa/gw\n  routes:\n  \
                 - {name: all, hosts: ['*'], pathPrefix: /, service: server.shop, port: main, auth: {anonymous: true}}\n",
            )
            .sidecar(Sidecar::new(
                "server.shop",
                format!("inbound: [{{service: server.shop, port: main, listen: '{inbound}', app: 'tcp:{app}'}}]\n"),
            ))
            .sidecar(Sidecar::new(
                "client.shop",
                format!("outbound: [{{listen: '{outbound}', service: server.shop, port: main}}]\n"),
            ))
            .sidecar(Sidecar::gateway(
                "gw.edge",
                format!("gateway: {{resource: gw.edge, listeners: [{{listen: '{gateway}', protocol: {edge}}}]}}\n"),
            ))
            .start()
            .await;
        Self { mesh, outbound, gateway }
    }
}

/// A program beside these tests. It says in one line where it listens, is told in one line what to do, says what came of it
/// and ends. It ends with the test in any case.
pub(crate) struct Peer {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    name: String,
    /// What its first line said.
    pub(crate) first_line: String,
}

impl Peer {
    /// Starts `program` with a script of this folder.
    pub(crate) fn start(program: &std::path::Path, script: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.arg(root().join("tests/protocols").join(script)).args(arguments);
        Self::run(command, script)
    }

    pub(crate) fn run(mut command: Command, name: &str) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).env("PYTHONDONTWRITEBYTECODE", "1");
        // SAFETY: prctl is async-signal-safe and touches only the new process.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {name}: {error}"));
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        let mut first_line = String::new();
        out.read_line(&mut first_line).expect("reading its first line");
        let first_line = first_line.trim().to_owned();
        assert!(!first_line.is_empty(), "{name} said nothing");
        Self { child, out, name: name.to_owned(), first_line }
    }

    /// The address that its first line named by a port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.first_line)
    }

    /// Tells it what to do and returns all that it says, once it has ended well.
    pub(crate) async fn finish(mut self, line: String) -> String {
        tokio::task::spawn_blocking(move || {
            let mut input = self.child.stdin.take().expect("its input");
            input.write_all(format!("{line}\n").as_bytes()).expect("telling it");
            drop(input);
            let mut said = String::new();
            // Shown as it comes: of a peer that hangs, the last line says where.
            while self.out.read_line(&mut said).expect("what it says") > 0 {
                eprint!("{}", said.split_inclusive('\n').next_back().unwrap_or_default());
            }
            let status = self.child.wait().expect("its end");
            assert!(status.success(), "{} ended with {status}:\n{said}", self.name);
            said
        })
        .await
        .expect("the peer ended well")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
