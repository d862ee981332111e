//! Clusters of one family of addresses: the configurations that the charts and injection write, where there is no other.

use crate::pods::{OUTSIDE, Pods, SERVER, command};
use crate::redirect::BACKENDS;
use crate::{SERVICE, app, bracketed, curl, transparent_by};

#[tokio::test]
async fn in_a_cluster_of_ipv6_alone_the_mesh_carries_what_an_app_dials() {
    let Some(pods) = Pods::make() else { return };
    for netns in [&pods.client, &pods.server, &pods.outside] {
        command(netns, "ip -4 addr flush dev eth0");
        assert_eq!(command(netns, "ip -4 -o addr show dev eth0"), "");
    }
    let folder = tempfile::tempdir().unwrap();
    for backend in BACKENDS {
        let mesh = transparent_by(&pods, backend, 1, &bracketed(OUTSIDE[1])).await;
        let (virtual_ip, host) = (bracketed(SERVICE[1]), bracketed(SERVER[1]));
        let app = app(&pods, &format!("{host}:8080"), folder.path()).await;
        let answer = curl(&pods.client, &format!("http://{virtual_ip}:8080/stock/apple")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("in_stock"), "{backend}: {answer}");
        let answer = curl(&pods.client, &format!("http://{virtual_ip}:8080/other")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{backend}: {answer}");
        let answer = curl(&pods.outside, &format!("http://{host}:8080/stock/apple")).await;
        assert!(!answer.contains("in_stock"), "{backend}: {answer}");
        drop(app);
        drop(mesh);
    }
}

#[tokio::test]
async fn where_ipv6_is_switched_off_listeners_of_both_families_mean_ipv4() {
    let Some(pods) = Pods::make() else { return };
    for netns in [&pods.client, &pods.server, &pods.outside] {
        command(netns, "sysctl -q -w net.ipv6.conf.all.disable_ipv6=1");
        assert_eq!(command(netns, "ip -6 -o addr show"), "");
    }
    let folder = tempfile::tempdir().unwrap();
    let mesh = transparent_by(&pods, "nftables", 0, OUTSIDE[0]).await;
    let app = app(&pods, &format!("{}:8080", SERVER[0]), folder.path()).await;
    let answer = curl(&pods.client, &format!("http://{}:8080/stock/apple", SERVICE[0])).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("in_stock"), "{answer}");
    drop(app);
    drop(mesh);
}
