//! A pod calls places outside the mesh: a real resolver says where they are, and whom the app asked counts for nothing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use signet_tests::mesh::{Mesh, Sidecar};
use signet_tests::peers::{run, said, tool};
use signet_tests::process::{Process, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::pods::{APP_UID, OUTSIDE, Pods, SERVER, SIDECAR_UID, command, inside, names_itself, reaches};

/// Addresses of the public internet, as far as anybody here can tell (RFC 5737, RFC 3849).
const SITE: [&str; 2] = ["203.0.113.10", "2001:db8::10"];
const OTHER: [&str; 2] = ["203.0.113.11", "2001:db8::11"];

/// What the pod's resolver is, for everything that is started in it; goes with the value.
pub(crate) struct Resolver {
    folder: PathBuf,
    /// The name server.
    pub(crate) dnsmasq: Process,
}

impl Resolver {
    /// A name server in the outside pod that knows these names, and the client's word that it is the one.
    pub(crate) async fn start(
        pods: &Pods,
        scratch: &std::path::Path,
        search: &str,
        names: &[(&str, &str)],
    ) -> Option<Self> {
        let program = tool("dnsmasq")?;
        let folder = PathBuf::from("/etc/netns").join(&pods.client);
        fs::create_dir_all(&folder).expect("the pod's own configuration");
        // With a search list, as a cluster has: whoever makes names in it must not stand in for a listed one.
        let text =
            format!("nameserver {}\nsearch {search}\noptions ndots:5 attempts:1 timeout:5\n", OUTSIDE[0]);
        fs::write(folder.join("resolv.conf"), text).expect("the pod's resolver");
        let mut dnsmasq = Command::new("ip");
        dnsmasq.args(["netns", "exec", &pods.outside]).arg(program).args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--bind-interfaces",
            "--log-facility=-",
        ]);
        dnsmasq.arg(format!("--listen-address={}", OUTSIDE[0]));
        // In its own domain it knows what is not there; elsewhere it only refuses to say.
        let own = search.split(' ').next_back().unwrap_or(search);
        dnsmasq.arg(format!("--local=/{own}/"));
        for (name, address) in names {
            dnsmasq.arg(format!("--host-record={name},{address}"));
        }
        let dnsmasq = Process::start("dnsmasq", dnsmasq, scratch);
        until("the name server listens", || {
            command(&pods.outside, "ss -lunH").contains(&format!("{}:53", OUTSIDE[0])).then_some(())
        })
        .await;
        Some(Self { folder, dnsmasq })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A site in the outside pod that answers every request with its name.
async fn site(pods: &Pods, listen: &str, name: &'static str) {
    let listener = inside(&pods.outside, None, || {
        let listener = std::net::TcpListener::bind(listen).expect("listening outside");
        listener.set_nonblocking(true).expect("a listener for tokio");
        listener
    });
    let listener = TcpListener::from_std(listener).expect("a listener for tokio");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let length = name.len() + 1;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{name}\n"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
}

/// What the app gets, by its own resolver, or as if that had said this address.
async fn curl(pods: &Pods, url: &str, poisoned: Option<&str>) -> String {
    let mut curl = Command::new("ip");
    curl.args(["netns", "exec", &pods.client, "curl", "-sS", "-i", "-m", "20", "-g"]);
    if let Some(address) = poisoned {
        let host = url.trim_start_matches("http://").split('/').next().expect("a host");
        curl.args(["--resolve", &format!("{host}:80:{address}")]);
    }
    curl.arg(url);
    said(&run(curl).await)
}

const PLACES: &str = "kind: ExternalService\nmetadata: {namespace: shop, name: api}\nspec:\n  \
     hosts: [api.example.com, six.example.com, inside.example.com, gone.example.com]\n  ports: [{name: http, port: 80}]\n---\n\
     kind: ExternalService\nmetadata: {namespace: shop, name: mail}\nspec:\n  hosts: [mail.example.com]\n  ports: [{name: smtp, port: 25}]\n";

#[tokio::test]
async fn a_pod_reaches_the_places_that_are_listed_where_its_sidecar_resolves_them_and_no_others() {
    let Some(pods) = Pods::make() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let names = [
        ("api.example.com", SITE[0]),
        ("six.example.com", SITE[1]),
        ("other.example.com", OTHER[0]),
        ("inside.example.com", SERVER[0]),
        ("mail.example.com", SITE[0]),
        ("api.example.com.cluster.example", OTHER[0]),
    ];
    let Some(_resolver) = Resolver::start(&pods, scratch.path(), "cluster.example", &names).await else {
        return;
    };
    for address in [SITE[0], OTHER[0]] {
        command(&pods.outside, &format!("ip addr add {address}/32 dev lo"));
    }
    for address in [SITE[1], OTHER[1]] {
        command(&pods.outside, &format!("ip addr add {address}/128 dev lo nodad"));
    }
    command(&pods.client, &format!("ip route add 203.0.113.0/24 via {}", OUTSIDE[0]));
    command(&pods.client, &format!("ip -6 route add 2001:db8::/32 via {}", OUTSIDE[1]));
    site(&pods, &format!("{}:80", SITE[0]), "api").await;
    site(&pods, &format!("[{}]:80", SITE[1]), "six").await;
    site(&pods, &format!("{}:80", OTHER[0]), "other").await;
    names_itself(&pods.outside, &format!("{}:25", SITE[0]), "220 mail").await;
    names_itself(&pods.outside, &format!("{}:25", OTHER[0]), "220 other").await;
    names_itself(&pods.server, "[::]:80", "inside").await;
    pods.redirected(
        &pods.client,
        &format!("apply --uid {SIDECAR_UID} --backend nftables --inbound-port none"),
    );
    for default in ["deny", "allow"] {
        let mesh = Mesh::builder()
            .default_action(default)
            .control_plane_in(&pods.outside, OUTSIDE[0])
            .registry(PLACES)
            .sidecar(
                Sidecar::new("client.shop", "transparent: {outbound: ['0.0.0.0:15001', '[::]:15001']}\n")
                    .in_pod(&pods.client, SIDECAR_UID),
            )
            .start()
            .await;
        for (url, poisoned, wanted) in [
            ("http://api.example.com/", None, "api"),
            ("http://six.example.com/", None, "six"),
            // Wherever the app was sent.
            ("http://api.example.com/", Some(OTHER[0]), "api"),
            ("http://six.example.com/", Some(OTHER[0]), "six"),
        ] {
            let answer = curl(&pods, url, poisoned).await;
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.contains(wanted),
                "{url} {poisoned:?}: {answer}"
            );
        }
        for (url, poisoned, reason) in [
            // Listed, and its name leads inward, or nowhere.
            ("http://inside.example.com/", None, "address-refused"),
            ("http://gone.example.com/", Some(OTHER[0]), "name-unresolved"),
        ] {
            let answer = curl(&pods, url, poisoned).await;
            assert!(answer.contains(&format!("signet-deny-reason: {reason}")), "{url}: {answer}");
        }
        // Bytes say no name, but the address is the listed name's.
        assert_eq!(reaches(&pods.client, APP_UID, None, SITE[0], 25).await.as_deref(), Ok("220 mail"));
        let other = curl(&pods, "http://other.example.com/", None).await;
        let bytes = reaches(&pods.client, APP_UID, None, OTHER[0], 25).await;
        if default == "deny" {
            assert!(other.contains("signet-deny-reason: egress-denied"), "{other}");
            assert!(bytes.is_err(), "{bytes:?}");
        } else {
            assert!(other.starts_with("HTTP/1.1 200") && other.contains("other"), "{other}");
            assert_eq!(bytes.as_deref(), Ok("220 other"));
        }
        // A private address needs an entry whatever the default is.
        let inward = curl(&pods, &format!("http://{}/", SERVER[0]), None).await;
        assert!(inward.contains("signet-deny-reason: egress-denied"), "{inward}");
        drop(mesh);
    }
}
