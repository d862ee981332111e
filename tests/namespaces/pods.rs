//! Network namespaces as pods: `client` and `server` on one bridge with `outside`, and the redirect rules
//! that an init container would set. Everything goes with the value.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use signet_tests::leave_out;
use signet_tests::peers::tool;

/// Whose connections are not redirected.
pub(crate) const SIDECAR_UID: u32 = 2102;

pub(crate) struct Pods {
    pub(crate) client: String,
    pub(crate) server: String,
    /// A host of the same network without a sidecar.
    pub(crate) outside: String,
    bridge: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Pods {
    pub(crate) fn make() -> Option<Self> {
        // SAFETY: geteuid has no preconditions and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            leave_out("network namespaces need root");
            return None;
        }
        tool("ip")?;
        tool("iptables")?;
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
        for netns in [&pods.client, &pods.server] {
            for iptables in ["iptables", "ip6tables"] {
                let rule = |rule: &str| command(netns, &format!("{iptables} -t nat -A {rule}"));
                // What the app dials, but not what its sidecar dials, nor what stays in the pod.
                rule(&format!("OUTPUT -p tcp -m owner --uid-owner {SIDECAR_UID} -j RETURN"));
                rule("OUTPUT -p tcp -o lo -j RETURN");
                rule("OUTPUT -p tcp -m multiport --dports 15001,15006 -j RETURN");
                rule("OUTPUT -p tcp --dport 8080 -j REDIRECT --to-ports 15001");
                rule("PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 15006");
            }
        }
        Some(pods)
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

fn command(netns: &str, line: &str) {
    let output = Command::new("ip")
        .args(["netns", "exec", netns])
        .args(line.split(' '))
        .output()
        .expect("ip netns exec");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
