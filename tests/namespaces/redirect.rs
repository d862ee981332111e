//! `signet-sidecar redirect` by itself: which listener each connection comes to, by every backend and family, and
//! what the kernel holds after each command. Listeners say their names; no mesh is needed.

use signet_tests::peers::said;
use tokio::io::AsyncWriteExt as _;

use crate::pods::{
    APP_UID, CLIENT, LOOPBACK, OUTSIDE, Pods, SIDECAR_UID, command, dials, execute, inside, line,
    names_itself, reaches,
};

pub(crate) const BACKENDS: [&str; 3] = ["nftables", "iptables-nft", "iptables-legacy"];

/// In the client's pod the two listeners of a sidecar and an app, outside a server; each of both families.
async fn listeners(pods: &Pods) {
    for (port, name) in [(15001, "outbound"), (15006, "inbound"), (8080, "app"), (9000, "app")] {
        names_itself(&pods.client, &format!("[::]:{port}"), name).await;
    }
    for port in [8080, 9000, 9050] {
        names_itself(&pods.outside, &format!("[::]:{port}"), "outside").await;
    }
}

/// Who, from which own address, to where, and whom that reaches.
type Case = (u32, Option<&'static str>, &'static str, u16, &'static str);

async fn holds(pods: &Pods, what: &str, cases: &[Case]) {
    for (user, from, to, port, whom) in cases {
        let found = reaches(&pods.client, *user, *from, to, *port).await;
        assert_eq!(found.as_deref(), Ok(*whom), "{what}: {user} from {from:?} to {to} port {port}");
    }
}

#[tokio::test]
async fn each_connection_comes_to_whom_the_rules_say_over_ipv4_and_ipv6() {
    let Some(pods) = Pods::make() else { return };
    listeners(&pods).await;
    for backend in BACKENDS {
        let apply = format!("apply --uid {SIDECAR_UID} --backend {backend}");
        pods.redirected(&pods.client, &apply);
        for family in [0, 1] {
            let (own, loopback, outside) = (CLIENT[family], LOOPBACK[family], OUTSIDE[family]);
            let service = ["10.96.0.7", "fd96::7"][family];
            holds(
                &pods,
                backend,
                &[
                    (APP_UID, None, service, 8080, "outbound"),
                    (APP_UID, None, outside, 8080, "outbound"),
                    (0, None, outside, 8080, "outbound"),
                    // What stays in the pod.
                    (APP_UID, None, loopback, 8080, "app"),
                    (APP_UID, None, own, 8080, "app"),
                    (APP_UID, Some(loopback), own, 8080, "app"),
                    // The sidecar: to peers, to its app, and to its own pod as a peer.
                    (SIDECAR_UID, None, outside, 8080, "outside"),
                    (SIDECAR_UID, None, loopback, 8080, "app"),
                    (SIDECAR_UID, None, own, 8080, "app"),
                    (SIDECAR_UID, Some(loopback), own, 8080, "inbound"),
                ],
            )
            .await;
            for port in [8080, 9000, 15001, 15006] {
                let found = reaches(&pods.outside, APP_UID, None, own, port).await;
                assert_eq!(found.as_deref(), Ok("inbound"), "{backend}: from outside to {own} port {port}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_excluded_goes_past_the_sidecar_and_nothing_else_does() {
    let Some(pods) = Pods::make() else { return };
    listeners(&pods).await;
    for backend in BACKENDS {
        for (family, every) in [(0, "10.77.0.0/24"), (1, "fd77::/64")] {
            let (own, outside) = (CLIENT[family], OUTSIDE[family]);
            let direct = |what: String| {
                pods.redirected(
                    &pods.client,
                    &format!("apply --uid {SIDECAR_UID} --backend {backend} {what}"),
                )
            };
            direct("--exclude-outbound-ports 9000,9040-9060 --exclude-inbound-ports 9000".to_owned());
            holds(
                &pods,
                "ports",
                &[
                    (APP_UID, None, outside, 9000, "outside"),
                    (APP_UID, None, outside, 9050, "outside"),
                    (APP_UID, None, outside, 8080, "outbound"),
                ],
            )
            .await;
            let arriving = |port| reaches(&pods.outside, APP_UID, None, own, port);
            assert_eq!(arriving(9000).await.as_deref(), Ok("app"), "{backend}");
            assert_eq!(arriving(8080).await.as_deref(), Ok("inbound"), "{backend}");

            direct(format!("--exclude-outbound-ranges {outside}"));
            holds(&pods, "an address", &[(APP_UID, None, outside, 8080, "outside")]).await;
            direct(format!("--exclude-outbound-ranges {every}"));
            holds(&pods, "a range", &[(APP_UID, None, outside, 8080, "outside")]).await;

            direct("--exclude-uids 500-999,1001".to_owned());
            holds(
                &pods,
                "users",
                &[
                    (1001, None, outside, 8080, "outside"),
                    (999, None, outside, 8080, "outside"),
                    (APP_UID, None, outside, 8080, "outbound"),
                ],
            )
            .await;

            direct(format!("--only-uids {APP_UID} --only-inbound-ports 8080"));
            holds(
                &pods,
                "only",
                &[(APP_UID, None, outside, 8080, "outbound"), (1001, None, outside, 8080, "outside")],
            )
            .await;
            assert_eq!(arriving(9000).await.as_deref(), Ok("app"), "{backend}");
            assert_eq!(arriving(8080).await.as_deref(), Ok("inbound"), "{backend}");
        }
    }
}

#[tokio::test]
async fn the_sidecar_is_known_by_its_group_too_and_ipv6_can_be_left_alone() {
    let Some(pods) = Pods::make() else { return };
    listeners(&pods).await;
    for backend in BACKENDS {
        let said = pods
            .redirected(&pods.client, &format!("apply --gid {SIDECAR_UID} --ipv6 off --backend {backend}"));
        assert!(said.contains("IPv4 only"), "{said}");
        holds(
            &pods,
            backend,
            &[
                (SIDECAR_UID, None, OUTSIDE[0], 8080, "outside"),
                (SIDECAR_UID, Some(LOOPBACK[0]), CLIENT[0], 8080, "inbound"),
                (APP_UID, None, OUTSIDE[0], 8080, "outbound"),
                (APP_UID, None, OUTSIDE[1], 8080, "outside"),
                (SIDECAR_UID, Some(LOOPBACK[1]), CLIENT[1], 8080, "app"),
            ],
        )
        .await;
        assert_eq!(reaches(&pods.outside, 0, None, CLIENT[1], 8080).await.as_deref(), Ok("app"));
        assert_eq!(reaches(&pods.outside, 0, None, CLIENT[0], 8080).await.as_deref(), Ok("inbound"));
    }
}

#[tokio::test]
async fn without_a_listener_for_one_side_the_other_side_alone_is_redirected() {
    let Some(pods) = Pods::make() else { return };
    listeners(&pods).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sidecar.yaml");
    for backend in BACKENDS {
        let config =
            "role: sidecar\nidentity: {joinBundle: /j}\ndataDir: /d\nmetrics: {listen: '0.0.0.0:9000'}\n";
        let transparent = "inbound: ['0.0.0.0:15006', '[::]:15006'], serves: [server.shop]";
        std::fs::write(&file, format!("{config}transparent: {{{transparent}}}\n")).unwrap();
        let apply = format!("apply --uid {SIDECAR_UID} --backend {backend} --config {}", file.display());
        pods.redirected(&pods.client, &apply);
        for family in [0, 1] {
            let arriving = |port| reaches(&pods.outside, APP_UID, None, CLIENT[family], port);
            assert_eq!(arriving(8080).await.as_deref(), Ok("inbound"), "{backend}");
            assert_eq!(arriving(9000).await.as_deref(), Ok("app"), "{backend}: the metrics port");
            holds(&pods, backend, &[(APP_UID, None, OUTSIDE[family], 8080, "outside")]).await;
        }
        std::fs::write(&file, format!("{config}transparent: {{outbound: '0.0.0.0:15001'}}\n")).unwrap();
        let refused = pods.redirect(&pods.client, &apply);
        assert_eq!(refused.status.code(), Some(2));
        assert!(said(&refused).contains("[::]:15001"), "{}", said(&refused));
        pods.redirected(&pods.client, &format!("{apply} --ipv6 off"));
        assert_eq!(reaches(&pods.outside, APP_UID, None, CLIENT[0], 8080).await.as_deref(), Ok("app"));
        holds(&pods, backend, &[(APP_UID, None, OUTSIDE[0], 8080, "outbound")]).await;
    }
}

#[tokio::test]
async fn what_passes_through_a_host_to_an_address_of_another_is_left_alone() {
    let Some(pods) = Pods::make() else { return };
    listeners(&pods).await;
    names_itself(&pods.server, "[::]:8080", "beyond").await;
    let [beyond, way] = ["10.88.0.1", CLIENT[0]];
    command(&pods.server, &format!("ip addr add {beyond}/32 dev eth0"));
    command(&pods.outside, &format!("ip route add {beyond}/32 via {way}"));
    command(&pods.client, &format!("ip route add {beyond}/32 dev eth0"));
    inside(&pods.client, None, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).expect("a router");
    for backend in BACKENDS {
        pods.redirected(&pods.client, &format!("apply --uid {SIDECAR_UID} --backend {backend}"));
        let found = reaches(&pods.outside, APP_UID, None, beyond, 8080).await;
        assert_eq!(found.as_deref(), Ok("beyond"), "{backend}");
        let found = reaches(&pods.outside, APP_UID, None, way, 8080).await;
        assert_eq!(found.as_deref(), Ok("inbound"), "{backend}");
    }
}

/// Everything that netfilter holds in a pod, without comments and what counts packets.
fn everything(netns: &str) -> String {
    let rules = |line: &str| {
        let text = command(netns, line);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines =
            lines.map(|line| if line.starts_with(':') { line.split('[').next().unwrap() } else { line });
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    ["nft -s list ruleset", "iptables-legacy-save", "ip6tables-legacy-save"].map(rules).concat()
}

/// Rules of others, of every kind that there is.
fn others(netns: &str) {
    for iptables in ["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"] {
        // All chains that a table can have, so that none appears later.
        for chain in ["nat -A PREROUTING", "nat -A INPUT", "nat -A OUTPUT", "nat -A POSTROUTING"]
            .into_iter()
            .chain(["mangle -A PREROUTING", "mangle -A INPUT", "mangle -A FORWARD", "mangle -A OUTPUT"])
            .chain(["mangle -A POSTROUTING"])
        {
            command(netns, &format!("{iptables} -t {chain} -p tcp --dport 7779 -j RETURN"));
        }
        command(
            netns,
            &format!("{iptables} -t nat -A OUTPUT -p tcp --dport 7777 -j REDIRECT --to-ports 7778"),
        );
        command(netns, &format!("{iptables} -t mangle -N OTHERS"));
        command(netns, &format!("{iptables} -t mangle -A PREROUTING -p udp -j OTHERS"));
    }
    command(netns, "nft add table inet others");
    command(netns, "nft add chain inet others output { type filter hook output priority 0 ; }");
}

#[tokio::test]
async fn twice_is_as_once_other_options_replace_and_removal_leaves_what_was_there_before() {
    let Some(pods) = Pods::make() else { return };
    let pod = &pods.client;
    others(pod);
    let before = everything(pod);
    for backend in BACKENDS {
        let first = format!("--uid {SIDECAR_UID} --exclude-outbound-ports 5432 --backend {backend}");
        let second = format!("--uid {SIDECAR_UID} --exclude-outbound-ranges 10.0.0.0/8 --backend {backend}");
        pods.redirected(pod, &format!("apply {first}"));
        let once = everything(pod);
        assert_ne!(once, before);
        pods.redirected(pod, &format!("apply {first}"));
        assert_eq!(everything(pod), once, "{backend}");
        pods.redirected(pod, &format!("apply {second}"));
        let replaced = everything(pod);
        assert!(replaced.contains("10.0.0.0/8") && !replaced.contains("5432"), "{replaced}");
        pods.redirected(pod, &format!("check {second}"));
        pods.redirected(pod, &format!("apply {first}"));
        assert_eq!(everything(pod), once, "{backend}");
        let told = pods.redirected(pod, "remove --dry-run");
        assert!(told.contains("delete table inet signet") || told.contains("-X SIGNET_INBOUND"), "{told}");
        assert_eq!(everything(pod), once, "a dry run changes nothing");
        pods.redirected(pod, "remove");
        assert_eq!(everything(pod), before, "{backend}");
        assert_eq!(pods.redirected(pod, "remove"), "there is nothing to remove\n");
    }
    // From one backend to the other nothing of the first is left.
    let pairs = BACKENDS.into_iter().flat_map(|first| BACKENDS.map(|second| (first, second)));
    for (first, second) in pairs {
        pods.redirected(pod, &format!("apply --uid {SIDECAR_UID} --backend {second}"));
        let alone = everything(pod);
        pods.redirected(pod, &format!("apply --uid {SIDECAR_UID} --backend {first}"));
        pods.redirected(pod, &format!("apply --uid {SIDECAR_UID} --backend {second}"));
        assert_eq!(everything(pod), alone);
        pods.redirected(pod, "remove");
    }
    assert_eq!(everything(pod), before);
}

#[tokio::test]
async fn connections_that_are_redirected_go_on_when_the_rules_are_replaced() {
    let Some(pods) = Pods::make() else { return };
    listeners(&pods).await;
    for backend in BACKENDS {
        for family in [0, 1] {
            let apply = format!("apply --uid {SIDECAR_UID} --backend {backend}");
            pods.redirected(&pods.client, &apply);
            let mut live = [
                dials(&pods.client, APP_UID, None, OUTSIDE[family], 8080).await.unwrap(),
                dials(&pods.outside, APP_UID, None, CLIENT[family], 8080).await.unwrap(),
                dials(&pods.client, SIDECAR_UID, Some(LOOPBACK[family]), CLIENT[family], 8080).await.unwrap(),
                dials(&pods.client, SIDECAR_UID, None, OUTSIDE[family], 8080).await.unwrap(),
            ];
            for (stream, whom) in live.iter_mut().zip(["outbound", "inbound", "inbound", "outside"]) {
                assert_eq!(line(stream).await.unwrap(), whom);
            }
            let other = format!("{apply} --exclude-outbound-ports 8080");
            for (number, command) in [apply.clone(), other, apply.clone()].into_iter().enumerate() {
                pods.redirected(&pods.client, &command);
                for stream in &mut live {
                    stream.write_all(format!("still here {number}\n").as_bytes()).await.unwrap();
                    let heard = line(stream).await.unwrap_or_else(|error| {
                        panic!("{backend} {family} {stream:?}: after {command}: {error}")
                    });
                    assert_eq!(heard, format!("still here {number}"), "{backend}: after {command}");
                }
            }
        }
    }
}

#[tokio::test]
async fn check_says_what_is_missing_too_much_or_changed_by_hand() {
    let Some(pods) = Pods::make() else { return };
    let pod = &pods.client;
    for (backend, deleted, line, added) in [
        (
            "nftables",
            "nft flush chain inet signet prerouting",
            "prerouting: missing: meta l4proto tcp redirect to :15006",
            "nft insert rule inet signet output meta mark 7 accept",
        ),
        (
            "iptables-nft",
            "ip6tables-nft -t nat -D SIGNET_INBOUND -p tcp -j REDIRECT --to-ports 15006",
            "IPv6 SIGNET_INBOUND: missing: -p tcp -j REDIRECT --to-ports 15006",
            "iptables-nft -t nat -I SIGNET_OUTPUT 1 -m mark --mark 7 -j ACCEPT",
        ),
        (
            "iptables-legacy",
            "iptables-legacy -t mangle -F SIGNET_INVALID",
            "IPv4 SIGNET_INVALID: missing: -p tcp -m conntrack --ctstate INVALID -j DROP",
            "ip6tables-legacy -t nat -I SIGNET_INBOUND 1 -m mark --mark 7 -j ACCEPT",
        ),
    ] {
        let options = format!(
            "--uid {SIDECAR_UID} --gid {SIDECAR_UID} --exclude-outbound-ports 53,5432,9000-9010 --exclude-uids 0,100-199 \
             --exclude-outbound-ranges 10.0.0.0/8,192.0.2.1,fd00::/8,2001:db8::1 --exclude-inbound-ports 22 \
             --only-inbound-ports 8080 --backend {backend}"
        );
        let check = || {
            let output = pods.redirect(pod, &format!("check {options}"));
            (output.status.code(), said(&output))
        };
        let (code, lines) = check();
        assert_eq!(code, Some(1), "{lines}");
        assert!(lines.starts_with("nothing is redirected"), "{lines}");

        pods.redirected(pod, &format!("apply {options}"));
        let (code, lines) = check();
        assert_eq!((code, lines.lines().count()), (Some(0), 1), "{lines}");
        assert!(lines.contains("as asked, IPv4 and IPv6"), "{lines}");
        let other = pods.redirect(pod, &format!("check --uid {SIDECAR_UID}"));
        assert_eq!(other.status.code(), Some(1), "other options: {}", said(&other));

        let whole = options.replace("--only-inbound-ports 8080 ", "");
        pods.redirected(pod, &format!("apply {whole}"));
        command(pod, deleted);
        let output = pods.redirect(pod, &format!("check {whole}"));
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(line), "{}", said(&output));

        pods.redirected(pod, &format!("apply {options}"));
        command(pod, added);
        let (code, lines) = check();
        assert_eq!((code, lines.lines().count()), (Some(1), 1), "{lines}");
        assert!(lines.contains("not ours: ") && lines.contains("mark"), "{lines}");

        pods.redirected(pod, &format!("apply {options}"));
        assert_eq!(check().0, Some(0));
        pods.redirected(pod, "remove");
        assert_eq!(check().0, Some(1));
    }
    // By the other backend as well.
    pods.redirected(pod, &format!("apply --uid {SIDECAR_UID} --backend iptables"));
    command(pod, "nft add table inet signet");
    let output = pods.redirect(pod, &format!("check --uid {SIDECAR_UID}"));
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("nftables: not asked for"), "{}", said(&output));
}

#[tokio::test]
async fn without_net_admin_each_command_says_what_it_lacks_and_changes_nothing() {
    let Some(pods) = Pods::make() else { return };
    let pod = &pods.client;
    let program = signet_tests::process::binary("signet-sidecar").display().to_string();
    for backend in BACKENDS {
        pods.redirected(pod, &format!("apply --uid {SIDECAR_UID} --backend {backend}"));
        let before = everything(pod);
        for powerless in
            ["setpriv --bounding-set -net_admin", "setpriv --reuid 1000 --regid 1000 --clear-groups"]
        {
            for (line, code) in [
                (format!("apply --uid 2103 --backend {backend}"), 1),
                ("remove".to_owned(), 1),
                (format!("check --uid {SIDECAR_UID}"), 2),
            ] {
                let output = execute(pod, &format!("{powerless} {program} redirect {line}"));
                assert_eq!(output.status.code(), Some(code), "{line}: {}", said(&output));
                let expected = "expected the capability NET_ADMIN, got";
                assert!(said(&output).contains(expected), "{line}: {}", said(&output));
            }
            // Needs nothing.
            let dry =
                format!("{powerless} {program} redirect apply --uid 2103 --dry-run --backend {backend}");
            assert!(command(pod, &dry).contains("15001"));
        }
        assert_eq!(everything(pod), before, "{backend}");
        pods.redirected(pod, "remove");
    }
}

/// A TCP header without a connection: the answer to a question that nobody asked (SYN and ACK).
fn stray(from: u16, to: u16) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(from.to_be_bytes());
    header.extend(to.to_be_bytes());
    header.extend(1_u32.to_be_bytes());
    header.extend(1_u32.to_be_bytes());
    header.extend([5 << 4, 0x12]);
    header.extend(1024_u16.to_be_bytes());
    header.extend([0; 4]);
    // The checksum, with the pseudo header of RFC 9293, 3.1.
    let mut sum: u32 = 6 + 20;
    let addresses = [OUTSIDE[0], CLIENT[0]].map(|ip| ip.parse::<std::net::Ipv4Addr>().unwrap().octets());
    for pair in addresses.concat().chunks(2).chain(header.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap();
    header[16..18].copy_from_slice(&checksum.to_be_bytes());
    header
}

#[tokio::test]
async fn packets_of_no_connection_are_dropped_where_they_would_end_one_at_the_peer() {
    let Some(pods) = Pods::make() else { return };
    for backend in BACKENDS {
        let apply = format!("apply --uid {SIDECAR_UID} --backend {backend} --exclude-inbound-ports 9000");
        pods.redirected(&pods.client, &apply);
        let reset_from = inside(&pods.outside, None, || {
            // SAFETY: plain system calls on a socket of our own, with buffers that live through them.
            unsafe {
                let socket = libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP);
                assert!(socket >= 0, "a raw socket");
                let to = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: 0,
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(CLIENT[0].parse::<std::net::Ipv4Addr>().unwrap().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // First to a redirected port, then to one that is not: an answer of the first would come first.
                for port in [8080, 9000] {
                    let packet = stray(4444, port);
                    let sent = libc::sendto(
                        socket,
                        packet.as_ptr().cast(),
                        packet.len(),
                        0,
                        (&raw const to).cast(),
                        size_of::<libc::sockaddr_in>() as libc::socklen_t,
                    );
                    assert_eq!(sent, 20);
                }
                let patience = libc::timeval { tv_sec: 20, tv_usec: 0 };
                libc::setsockopt(
                    socket,
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const patience).cast(),
                    size_of::<libc::timeval>() as libc::socklen_t,
                );
                let mut packet = [0_u8; 128];
                let reset_from = loop {
                    let length = libc::recv(socket, packet.as_mut_ptr().cast(), packet.len(), 0);
                    assert!(length > 0, "no answer");
                    let header = usize::from(packet[0] & 15) * 4;
                    let to = u16::from_be_bytes([packet[header + 2], packet[header + 3]]);
                    if to == 4444 && packet[header + 13] & 4 != 0 {
                        break u16::from_be_bytes([packet[header], packet[header + 1]]);
                    }
                };
                libc::close(socket);
                reset_from
            }
        });
        assert_eq!(reset_from, 9000, "{backend}");
    }
}

#[tokio::test]
async fn commands_at_the_same_time_leave_what_one_of_them_asked_for() {
    let Some(pods) = Pods::make() else { return };
    for backend in BACKENDS {
        let apply =
            |port: u16| format!("--uid {SIDECAR_UID} --backend {backend} --exclude-outbound-ports {port}");
        std::thread::scope(|scope| {
            for port in 1..=6 {
                let (pods, line) = (&pods, format!("apply {}", apply(port)));
                scope.spawn(move || pods.redirected(&pods.client, &line));
            }
        });
        let right = (1..=6)
            .filter(|port| pods.redirect(&pods.client, &format!("check {}", apply(*port))).status.success());
        assert_eq!(right.count(), 1, "{backend}");
    }
}
