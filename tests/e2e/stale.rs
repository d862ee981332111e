//! The control plane is away for longer than a sidecar may go by what it last heard.
//!
//! As long as certificates are good nothing changes. When they have ended, nothing new begins; a stream of bytes that
//! stands is vouched for until the view is older than the Mesh's `maxStaleness`, and is cut then.

use signet_tests::apps::{Echo, greeter};
use signet_tests::client::{get, try_send};
use signet_tests::mesh::{Mesh, Sidecar, free_address, permit, service};
use signet_tests::process::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::handshakes::find;

/// The 20 seconds in which a silent link would be noticed count from the first moment.
const MAX: &str = "45s";
const MAX_SECONDS: f64 = 45.0;

/// The value of a metric of one process; 0 where it has none yet.
async fn metric(mesh: &Mesh, process: &str, line: &str) -> f64 {
    let metrics = mesh.metrics(process).await;
    metrics.lines().find_map(|it| it.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0.0)
}

const NAMES: [&str; 3] = ["bytes", "page", "client"];
const AGE: &str = "signet_control_staleness_seconds ";
const CUT: &str = "signet_streams_cut_total{direction=\"inbound\",reason=\"expired\"} ";

/// One word there and back on an open stream; false where it has ended.
async fn goes_on(stream: &mut TcpStream) -> bool {
    if stream.write_all(b"ping").await.is_err() {
        return false;
    }
    let mut back = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut back)).await.expect("an answer or an end").is_ok()
}

/// A new stream's first words; empty where none comes about.
async fn greeting(address: &str) -> Vec<u8> {
    let mut words = vec![0; 6];
    let Ok(mut stream) = TcpStream::connect(address).await else { return Vec::new() };
    match timeout(PATIENCE, stream.read_exact(&mut words)).await.expect("a greeting or an end") {
        Ok(_) => words,
        Err(_) => Vec::new(),
    }
}

#[tokio::test]
async fn a_view_that_is_too_old_vouches_for_nobody_and_until_then_what_stands_goes_on() {
    let (bytes, page) = (greeter().await, Echo::start().await);
    let [bytes_at, page_at, to_bytes, to_page] =
        [free_address(), free_address(), free_address(), free_address()];
    let server = |name: &str, listen: &str, app: &str| {
        let config = format!(
            "inbound: [{{service: {name}.shop, port: main, listen: '{listen}', app: 'tcp:{app}'}}]\n"
        );
        Sidecar::new(&format!("{name}.shop"), config)
    };
    let client = format!(
        "outbound: [{{listen: '{to_bytes}', service: bytes.shop, port: main}}, \
         {{listen: '{to_page}', service: page.shop, port: main}}]\n"
    );
    let mut mesh = Mesh::builder()
        .svid_seconds(10)
        .max_staleness(MAX)
        .registry(service("bytes", "shop", "main", "tcp", &bytes_at))
        .registry(service("page", "shop", "main", "http", &page_at))
        .registry(permit("to-bytes", "shop", "bytes", "ns/shop/sa/client", ""))
        .registry(permit("to-page", "shop", "page", "ns/shop/sa/client", ""))
        .sidecar(server("bytes", &bytes_at, &bytes))
        .sidecar(server("page", &page_at, &page.address))
        .sidecar(Sidecar::new("client.shop", client))
        .start()
        .await;
    let mut stream = TcpStream::connect(&to_bytes).await.expect("a stream");
    stream.read_exact(&mut [0; 6]).await.expect("a greeting");
    assert!(goes_on(&mut stream).await);
    let live = async {
        for name in NAMES {
            // One that has not heard everything yet vouches for nobody.
            while metric(&mesh, name, AGE).await > 0.0 {}
        }
    };
    timeout(PATIENCE, live).await.expect("every view is live");

    let mut control_plane = mesh.control_plane.take().expect("it runs");
    control_plane.signal(libc::SIGKILL);
    control_plane.wait().await;
    // Nobody needs it for what is known.
    assert_eq!(get(&to_page, "/", &[]).await.status(), 200);
    assert_eq!(greeting(&to_bytes).await, b"hello\n");
    assert!(goes_on(&mut stream).await);

    for name in NAMES {
        mesh.sidecars[name].logged("svid expired and not renewed").await;
    }
    // Nothing new begins between peers whose certificates have ended; the last second of one is still good.
    let refused = async {
        while try_send("GET", &to_page, "/", &[], "").await.is_ok_and(|answer| answer.status() == 200) {}
        while !greeting(&to_bytes).await.is_empty() {}
    };
    timeout(PATIENCE, refused).await.expect("nothing begins without a certificate");
    let late = find(&mesh, Some("client"), "outbound", "expired").expect("the caller says why");
    assert_eq!(late["received"]["identity"], "spiffe://test.signet/ns/shop/sa/page");
    assert!(late["skewSeconds"].as_i64().is_some_and(|skew| skew > 0), "{late}");
    // The first handshake took up a session from before, which is closed without a word; the next one is whole.
    let told = async {
        loop {
            let _ = try_send("GET", &to_page, "/", &[], "").await;
            if let Some(found) = find(&mesh, Some("page"), "inbound", "alert_received") {
                return found;
            }
        }
    };
    let told = timeout(PATIENCE, told).await.expect("the callee says why");
    assert_eq!(told["alert"], "certificate_expired");
    let what = told["whatToDo"].as_str().expect("something to do");
    assert!(what.contains("ended by our own clock"), "{what}");
    assert!(goes_on(&mut stream).await, "the sidecar still vouches for what stands");
    let age = metric(&mesh, "bytes", AGE).await;
    assert!(age > 0.0 && age <= MAX_SECONDS, "{age}");
    assert_eq!(metric(&mesh, "bytes", CUT).await, 0.0);

    let cut = async {
        while goes_on(&mut stream).await {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, cut).await.expect("the stream is cut");
    let age = metric(&mesh, "bytes", AGE).await;
    assert!(age >= MAX_SECONDS, "cut after {age} s, while the view was new enough");
    let cuts = metric(&mesh, "bytes", CUT).await
        + metric(&mesh, "client", &CUT.replace("inbound", "outbound")).await;
    assert!(cuts >= 1.0, "{}", mesh.logs());
    mesh.assert_unharmed();
}
