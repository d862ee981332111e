//! Network namespaces as pods: `client` and `server` on one bridge with `outside`, redirected as an init container
//! would do it. Everything goes with the value.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use signet_tests::leave_out;
use signet_tests::peers::{said, tool};
use signet_tests::process::binary;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Whose connections are not redirected.
pub(crate) const SIDECAR_UID: u32 = 2102;

/// An app's.
pub(crate) const APP_UID: u32 = 1000;

pub(crate) struct Pods {
    pub(crate) client: String,
    pub(crate) server: String,
    /// A host of the same network without a sidecar.
    pub(crate) outside: String,
    bridge: String,
}

/// The same pod by each family.
pub(crate) const CLIENT: [&str; 2] = ["10.77.0.1", "fd77::1"];
pub(crate) const SERVER: [&str; 2] = ["10.77.0.2", "fd77::2"];
pub(crate) const OUTSIDE: [&str; 2] = ["10.77.0.3", "fd77::3"];
pub(crate) const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Pods {
    pub(crate) fn make() -> Option<Self> {
        // SAFETY: geteuid has no preconditions and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            leave_out("network namespaces need root");
            return None;
        }
        for name in ["ip", "nft", "iptables-nft-restore", "iptables-legacy-restore", "setpriv"] {
            tool(name)?;
        }
        let tag = format!("{}{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = |kind: &str| format!("sgt{kind}{tag}");
        let pods = Self { client: name("c"), server: name("s"), outside: name("o"), bridge: name("b") };
        // The bridge lives in a namespace of its own: nothing of the machine is touched.
        ip(&format!("netns add {}", pods.bridge));
        ip(&format!("-n {} link add br0 type bridge", pods.bridge));
        ip(&format!("-n {} link set br0 up", pods.bridge));
        for (number, netns) in [(1, &pods.client), (2, &pods.server), (3, &pods.outside)] {
            ip(&format!("netns add {netns}"));
            ip(&format!("-n {netns} link set lo up"));
            ip(&format!("-n {netns} link add eth0 type veth peer name p{number} netns {}", pods.bridge));
            ip(&format!("-n {} link set p{number} master br0 up", pods.bridge));
            ip(&format!("-n {netns} addr add 10.77.0.{number}/24 dev eth0"));
            ip(&format!("-n {netns} addr add fd77::{number}/64 dev eth0 nodad"));
            ip(&format!("-n {netns} link set eth0 up"));
            // Virtual addresses leave by the same link; nobody is there to answer.
            ip(&format!("-n {netns} route add 10.96.0.0/16 dev eth0"));
            ip(&format!("-n {netns} -6 route add fd96::/64 dev eth0"));
        }
        Some(pods)
    }

    /// `signet-sidecar redirect …` in a pod.
    pub(crate) fn redirect(&self, netns: &str, arguments: &str) -> Output {
        let program = binary("signet-sidecar").display().to_string();
        execute(netns, &format!("{program} redirect {arguments}"))
    }

    /// The same, which must succeed; what it said.
    #[track_caller]
    pub(crate) fn redirected(&self, netns: &str, arguments: &str) -> String {
        let output = self.redirect(netns, arguments);
        assert!(output.status.success(), "redirect {arguments}: {}", said(&output));
        said(&output)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for netns in [&self.client, &self.server, &self.outside, &self.bridge] {
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a command in a pod, whatever comes of it.
pub(crate) fn execute(netns: &str, line: &str) -> Output {
    Command::new("ip").args(["netns", "exec", netns]).args(line.split(' ')).output().expect("ip netns exec")
}

/// The same, which must succeed; its standard output.
#[track_caller]
pub(crate) fn command(netns: &str, line: &str) -> String {
    let output = execute(netns, line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Does something in a pod, on a thread of its own whose sockets are that pod's and, with `user`, that user's.
pub(crate) fn inside<T: Send>(netns: &str, user: Option<u32>, work: impl FnOnce() -> T + Send) -> T {
    let place = File::open(format!("/var/run/netns/{netns}")).expect("the namespace");
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                // SAFETY: both calls change this thread alone, which ends with the work; no memory is involved.
                unsafe {
                    assert_eq!(libc::setns(place.as_raw_fd(), libc::CLONE_NEWNET), 0, "entering a namespace");
                    if let Some(id) = user {
                        assert_eq!(libc::syscall(libc::SYS_setresgid, id, id, id), 0, "another group");
                        assert_eq!(libc::syscall(libc::SYS_setresuid, id, id, id), 0, "another user");
                    }
                }
                work()
            })
            .join()
            .expect("the thread ended well")
    })
}

/// Listens in a pod and says its name to each that connects, then all that it hears.
pub(crate) async fn names_itself(netns: &str, listen: &str, name: &'static str) {
    let listener = inside(netns, None, || {
        let listener = std::net::TcpListener::bind(listen).expect("listening in a pod");
        listener.set_nonblocking(true).expect("a listener for tokio");
        listener
    });
    let listener = TcpListener::from_std(listener).expect("a listener for tokio");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(format!("{name}\n").as_bytes()).await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
}

/// Dials an address as a user in a pod, from another address of the pod if one is given.
pub(crate) async fn dials(
    netns: &str,
    user: u32,
    from: Option<&str>,
    to: &str,
    port: u16,
) -> std::io::Result<TcpStream> {
    let to = SocketAddr::new(to.parse().expect("an address"), port);
    let from = from.map(|from| SocketAddr::new(from.parse::<IpAddr>().expect("an address"), 0));
    let socket = inside(netns, Some(user), || {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.expect("a socket");
        if let Some(from) = from {
            socket.bind(from).expect("an own address");
        }
        socket
    });
    socket.connect(to).await
}

/// The next line that comes.
pub(crate) async fn line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            byte => line.push(byte),
        }
    }
}

/// Whom that reaches. Nobody: why not.
pub(crate) async fn reaches(
    netns: &str,
    user: u32,
    from: Option<&str>,
    to: &str,
    port: u16,
) -> Result<String, String> {
    let asked = async { line(&mut dials(netns, user, from, to, port).await?).await };
    match tokio::time::timeout(Duration::from_secs(20), asked).await {
        Ok(answer) => answer.map_err(|error: std::io::Error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}
