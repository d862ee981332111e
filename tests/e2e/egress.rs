//! Calls out of the mesh, as processes: what the registry lists, for whom, and by which gateway.

use signet_tests::apps::Echo;
use signet_tests::client::{header, try_send};
use signet_tests::mesh::{Mesh, Sidecar, free_address};
use std::time::{Duration, Instant};

use signet_tests::process::PATIENCE;

fn external(name: &str, port: u16, more: &str) -> String {
    format!(
        "kind: ExternalService\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  hosts: [api.example.com]\n  \
         addresses: [127.0.0.1]\n  ports: [{{name: http, port: 80, targetPort: {port}}}]\n{more}"
    )
}

fn outbound(service: &str, listen: &str) -> String {
    format!("{{listen: '{listen}', service: {service}.shop, port: http}}")
}

async fn ask(to: &str) -> (u16, String) {
    try_ask(to).await.expect("an HTTP answer")
}

async fn try_ask(to: &str) -> anyhow::Result<(u16, String)> {
    let headers = [("txn-token", "eyJ.eyJ.x"), ("authorization", "Bearer own")];
    let answer = try_send("GET", to, "/v1", &headers, "").await?;
    Ok((answer.status().as_u16(), header(&answer, "signet-deny-reason").to_owned()))
}

/// Asks until the status is this one: what the registry says arrives a moment after it was written, and ends connections
/// that were there by what it said before.
async fn until_status(to: &str, status: u16) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let got = try_ask(to).await;
        if let Ok((found, why)) = &got
            && *found == status
        {
            return why.clone();
        }
        assert!(Instant::now() < end, "waited for {status} at {to}, got {got:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn places_outside_are_called_as_the_registry_lists_them_directly_or_through_the_egress_gateway() {
    let site = Echo::start().await;
    let port = site.address.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let door = free_address();
    let door_port = door.rsplit(':').next().unwrap().to_owned();
    let (direct, through, other, stranger) = (free_address(), free_address(), free_address(), free_address());
    let gateway = format!(
        "kind: Service\nmetadata: {{namespace: infra, name: egress}}\nspec:\n  \
         ports: [{{name: mesh, port: 15008, protocol: tcp}}]\n  endpoints: [{{address: 127.0.0.1, ports: {{mesh: {door_port}}}}}]\n---\n\
         kind: Gateway\nmetadata: {{namespace: infra, name: egress}}\nspec: {{identity: ns/infra/sa/egress, egress: {{}}}}\n"
    );
    let through_gateway = "  through: {service: egress.infra, port: mesh}\n";
    let everyone = "  from: {everyone: true}\n";
    let bank = |more: &str| external("bank", port, more).replace("api.example", "bank.example");
    let mut mesh = Mesh::builder()
        .registry(gateway)
        .registry(external("pay", port, ""))
        .registry(bank(&[through_gateway, everyone].concat()))
        .sidecar(Sidecar::gateway(
            "egress.infra",
            format!("gateway: {{resource: egress.infra, egress: {{listen: '{door}'}}}}\n"),
        ))
        .sidecar(Sidecar::new(
            "web.shop",
            format!("outbound: [{}, {}]\n", outbound("pay", &direct), outbound("bank", &through)),
        ))
        .sidecar(Sidecar::new("jobs.shop", format!("outbound: [{}]\n", outbound("pay", &other))))
        .sidecar(Sidecar::new("eve.elsewhere", format!("outbound: [{}]\n", outbound("bank", &stranger))))
        .start()
        .await;

    // Both ways, and nothing of the mesh goes along.
    for (to, host) in [(&direct, "api.example.com"), (&through, "bank.example.com")] {
        until_status(to, 200).await;
        let seen = &site.last()["headers"];
        let said = seen["host"][0].as_str().unwrap();
        assert!(said == format!("{host}:{port}") || said == host, "{said}");
        assert_eq!(seen["authorization"][0], "Bearer own");
        for secret in ["txn-token", "signet-context", "x-forwarded-client-cert", "signet-user"] {
            assert!(seen.get(secret).is_none(), "{secret}: {seen}");
        }
    }
    for to in [&other, &stranger] {
        until_status(to, 200).await;
    }
    // Who is not listed any more is not told of it any more.
    mesh.write_registry("test-2.yaml", &bank(through_gateway));
    assert_eq!(until_status(&stranger, 503).await, "service-unknown");
    assert_eq!(ask(&through).await.0, 200);
    // Without the gateway there is no way: the sidecar does not go by itself.
    let mut gateway = mesh.sidecars.remove("egress").unwrap();
    gateway.terminate();
    assert!(gateway.wait().await.success());
    until_status(&through, 503).await;
    assert_eq!(ask(&direct).await.0, 200);
    // The registry takes a place back.
    mesh.write_registry("test-1.yaml", &external("pay", port, "  from: {workloads: [ns/shop/sa/jobs]}\n"));
    assert_eq!(until_status(&direct, 503).await, "service-unknown");
    assert_eq!(ask(&other).await.0, 200);
}
