//! The app's metrics beside the sidecar's own: what a scraper gets whatever the app does, and what an app is asked. Once
//! the scraper is a real Prometheus.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::{IntCounter, Registry};
use signet_daemon::{MetricsServer, Trigger, shutdown};
use signet_sidecar::config::AppMetrics;
use signet_sidecar::scrape::AppScrape;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const OPENMETRICS: &str = "Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";

/// An app that answers everything with the same bytes, and remembers what it was asked.
struct App {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    /// As many answers as it gives.
    gives: Arc<Semaphore>,
}

impl App {
    async fn answering(answer: Vec<u8>) -> Self {
        let app = Self::holding(answer).await;
        app.gives.add_permits(1000);
        app
    }

    /// Answers nobody until it is let.
    async fn holding(answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let gives = Arc::new(Semaphore::new(0));
        let (heads, let_by) = (asked.clone(), gives.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (heads, answer, let_by) = (heads.clone(), answer.clone(), let_by.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    heads.lock().unwrap().push(String::from_utf8(head).expect("text"));
                    // An empty answer is an app that hangs.
                    if answer.is_empty() {
                        std::future::pending::<()>().await;
                    }
                    let_by.acquire().await.expect("open").forget();
                    let _ = stream.write_all(&answer).await;
                });
            }
        });
        Self { address, asked, gives }
    }

    async fn saying(content_type: &str, body: &str) -> Self {
        Self::answering(page("200 OK", &format!("Content-Type: {content_type}\r\n"), body)).await
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn page(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A sidecar's metrics port.
struct Sidecar {
    address: SocketAddr,
    _trigger: Trigger,
}

impl Sidecar {
    async fn beside(app: SocketAddr) -> Self {
        Self::at("127.0.0.1:0", app).await
    }

    async fn at(address: &str, app: SocketAddr) -> Self {
        let registry = Registry::new();
        let own = IntCounter::new("signet_own_total", "Ours").expect("a counter");
        own.inc_by(3);
        registry.register(Box::new(own)).expect("registered");
        let app: AppMetrics =
            serde_json::from_value(serde_json::json!({"port": app.port(), "path": "/stats?all=1"}))
                .expect("an app");
        let scrape = AppScrape::new(&app, &registry).expect("metrics");
        let server = MetricsServer::bind(address.parse().unwrap(), registry, || Ok(())).await;
        let server = server.expect("a port").with_source(move |asked| scrape.clone().answer(asked));
        let address = server.local_addr().expect("its address");
        let (trigger, shutdown) = shutdown::channel();
        tokio::spawn(server.run(shutdown));
        Self { address, _trigger: trigger }
    }

    /// Head and body.
    async fn ask(&self, line: &str, headers: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("the metrics port");
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("asked");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        (head.to_lowercase(), body.to_owned())
    }

    async fn scraped(&self, headers: &str) -> (String, String) {
        self.ask("GET /metrics", headers).await
    }
}

fn counted(body: &str, outcome: &str) -> bool {
    body.contains(&format!("signet_app_scrapes_total{{outcome=\"{outcome}\"}} 1\n"))
}

#[tokio::test]
async fn a_scraper_gets_both_and_the_app_is_asked_for_what_the_configuration_says_alone() {
    let app = App::saying(
        "text/plain; version=0.0.4",
        "# TYPE orders gauge\norders{shop=\"a\"} 7\nsignet_ready 0\n",
    )
    .await;
    let sidecar = Sidecar::beside(app.address).await;
    // What a stranger sends chooses nothing, and nothing of it goes on.
    let sent =
        "Cookie: a=b\r\nAuthorization: Bearer x\r\nX-Forwarded-Host: evil.example\r\nConnection: close\r\n";
    let (head, body) = sidecar.ask("GET /metrics?target=http://169.254.169.254/&port=1", sent).await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("signet_own_total 3\n") && counted(&body, "ok"), "{body}");
    assert!(body.ends_with("# TYPE orders gauge\norders{shop=\"a\"} 7\n"), "{body}");
    assert!(body.contains("signet_app_metrics_dropped_total 1\n"), "{body}");
    let [asked] = &app.asked()[..] else { panic!("{:?}", app.asked()) };
    assert!(asked.starts_with("GET /stats?all=1 HTTP/1.1\r\n"), "{asked}");
    let asked = asked.to_lowercase();
    assert!(
        asked.contains(&format!("\r\nhost: {}\r\n", app.address)) && asked.contains("\r\naccept: text/plain")
    );
    for leaked in ["cookie", "authorization", "evil", "169.254", "openmetrics"] {
        assert!(!asked.contains(leaked), "{asked}");
    }
    // HEAD gives nothing back, so nobody is asked.
    let (_, body) = sidecar.ask("HEAD /metrics", "").await;
    assert_eq!((body.as_str(), app.asked().len()), ("", 1));
}

#[tokio::test]
async fn openmetrics_goes_through_with_its_exemplars_to_whoever_takes_it() {
    let said = "# TYPE orders counter\n# UNIT orders apples\norders_total 7 # {trace=\"a\"} 1 2.5\n# EOF\n";
    let app = App::saying("application/openmetrics-text; version=1.0.0; charset=utf-8", said).await;
    let sidecar = Sidecar::beside(app.address).await;
    let (head, body) = sidecar.scraped(OPENMETRICS).await;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.contains("# TYPE signet_own counter\nsignet_own_total 3\n"), "{body}");
    assert!(body.ends_with("# TYPE orders counter\norders_total 7 # {trace=\"a\"} 1 2.5\n# EOF\n"), "{body}");
    assert_eq!(body.matches("# EOF").count(), 1);
    // Who takes text alone gets none of what is no text; an answer for the one is none for the other.
    let (head, body) = sidecar.scraped("").await;
    assert!(head.contains("content-type: text/plain") && !body.contains("orders"), "{body}");
    assert!(counted(&body, "format") && counted(&body, "ok"), "{body}");
}

#[tokio::test]
async fn an_app_that_is_down_or_wrong_costs_its_own_metrics_and_is_counted() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let sidecar = Sidecar::beside(gone).await;
    let (_, body) = sidecar.scraped("").await;
    assert!(body.contains("signet_own_total 3\n") && counted(&body, "unreached"), "{body}");
    let long = "a 1\n".repeat(1024 * 1024 + 1);
    let text = "Content-Type: text/plain\r\n";
    for (answer, outcome) in [
        (page("500 Internal Server Error", text, "a 1\n"), "status"),
        (page("302 Found", "Location: http://169.254.169.254/\r\n", ""), "status"),
        (page("200 OK", "Content-Type: text/html\r\n", "a 1\n"), "format"),
        (page("200 OK", "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n", "a 1\n"), "format"),
        (page("200 OK", text, &long), "too-large"),
        (page("200 OK", text, "a 1\nbroken\n"), "malformed"),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), "http"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na 1\n".to_vec(), "http"),
    ] {
        let sidecar = Sidecar::beside(App::answering(answer).await.address).await;
        let (head, body) = sidecar.scraped(OPENMETRICS).await;
        assert!(
            body.contains("signet_own_total 3\n") && counted(&body, outcome),
            "{outcome}: {head}\n{}",
            body.len()
        );
        assert!(!body.contains("\na 1\n"), "{outcome}");
    }
}

#[tokio::test]
async fn an_app_that_hangs_costs_a_scraper_no_more_than_it_waits_itself() {
    let app = App::answering(Vec::new()).await;
    let sidecar = Sidecar::beside(app.address).await;
    let began = std::time::Instant::now();
    let (_, body) = sidecar.scraped("X-Prometheus-Scrape-Timeout-Seconds: 0.7\r\n").await;
    assert!(body.contains("signet_own_total 3\n") && counted(&body, "impatient"), "{body}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // Nor does it cost one without end who waits for as long as he likes.
    let (_, body) = sidecar.scraped("X-Prometheus-Scrape-Timeout-Seconds: 3600\r\n").await;
    assert!(body.contains("signet_own_total 3\n") && counted(&body, "timeout"), "{body}");
    let asked = app.asked();
    let told = asked[0].to_lowercase();
    let (_, seconds) = told.split_once("x-prometheus-scrape-timeout-seconds: ").expect("a header");
    let seconds: f64 = seconds.lines().next().unwrap().parse().expect("seconds");
    assert!(seconds > 6.0 && seconds <= 7.0, "{seconds}");
    // Words that are no time are none.
    for wrong in ["-1", "x", "inf", "1e300"] {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let headers = format!("X-Prometheus-Scrape-Timeout-Seconds: {wrong}\r\n");
        let (_, body) = Sidecar::beside(gone).await.scraped(&headers).await;
        assert!(counted(&body, "unreached"), "{wrong}: {body}");
    }
}

#[tokio::test]
async fn a_crowd_asks_the_app_once() {
    let app = App::saying("text/plain", "orders 7\n").await;
    let sidecar = Arc::new(Sidecar::beside(app.address).await);
    let crowd: Vec<_> = (0..16)
        .map(|_| {
            let sidecar = sidecar.clone();
            tokio::spawn(async move { sidecar.scraped("").await.1 })
        })
        .collect();
    for one in crowd {
        assert!(one.await.expect("an answer").contains("orders 7\n"));
    }
    // More than once where the second for which an answer is good has passed meanwhile.
    assert!(app.asked().len() < 10, "{}", app.asked().len());
}

#[tokio::test]
async fn a_stranger_who_waits_for_nothing_takes_the_apps_metrics_from_nobody() {
    let app = App::holding(page("200 OK", "Content-Type: text/plain\r\n", "orders 7\n")).await;
    let sidecar = Sidecar::beside(app.address).await;
    let stranger = "X-Prometheus-Scrape-Timeout-Seconds: 0\r\n";
    for _ in 0..2 {
        let (_, body) = sidecar.scraped(stranger).await;
        assert!(body.contains("signet_own_total 3\n") && !body.contains("orders"), "{body}");
    }
    app.gives.add_permits(1);
    let (_, body) = sidecar.scraped("X-Prometheus-Scrape-Timeout-Seconds: 9\r\n").await;
    assert!(body.ends_with("orders 7\n") && counted(&body, "ok"), "{body}");
    assert!(body.contains("signet_app_scrapes_total{outcome=\"impatient\"} 2\n"), "{body}");
    assert_eq!(app.asked().len(), 1, "what the stranger began went on");
}

#[tokio::test]
async fn a_stranger_who_dials_where_the_app_is_not_takes_its_metrics_from_nobody() {
    let app = App::saying("text/plain", "orders 7\n").await;
    let mut sidecar = Sidecar::at("0.0.0.0:0", app.address).await;
    let port = sidecar.address.port();
    for (dialled, outcome) in [("127.0.0.2", "unreached"), ("127.0.0.1", "ok")] {
        sidecar.address = SocketAddr::new(dialled.parse().unwrap(), port);
        let (_, body) = sidecar.scraped("").await;
        assert!(counted(&body, outcome), "{dialled}: {body}");
        assert_eq!(body.ends_with("orders 7\n"), outcome == "ok", "{dialled}: {body}");
    }
}

#[test]
fn what_an_app_says_is_read_beside_the_thread_of_everything_else() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(1).build().expect("a runtime");
    runtime.block_on(async {
        let app = App::saying("text/plain", "orders 7\n").await;
        let sidecar = Sidecar::beside(app.address).await;
        // As long as the only thread beside is taken, nobody reads, and all else goes on.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let taken = tokio::task::spawn_blocking(move || held.recv());
        let (_, body) = sidecar.scraped("X-Prometheus-Scrape-Timeout-Seconds: 1.5\r\n").await;
        assert!(body.contains("signet_own_total 3\n") && counted(&body, "impatient"), "{body}");
        assert_eq!((body.contains("orders"), app.asked().len()), (false, 1), "{body}");
        release.send(()).expect("somebody who waits");
        taken.await.expect("its end").expect("a word");
        let (_, body) = sidecar.scraped("").await;
        assert!(body.ends_with("orders 7\n") && app.asked().len() == 1, "{body}");
    });
}

/// Debian's Prometheus, if it is there.
fn prometheus() -> Option<std::path::PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&paths).map(|folder| folder.join("prometheus")).find(|file| file.exists());
    if found.is_none() {
        assert!(std::env::var_os("SIGNET_REQUIRE_ALL").is_none(), "prometheus is not installed");
        eprintln!("left out: prometheus is not installed");
    }
    found
}

#[tokio::test]
async fn a_real_prometheus_reads_both_in_either_format_and_ours_when_the_app_talks_nonsense() {
    let Some(program) = prometheus() else { return };
    let text = "# HELP orders_total Orders.\n# TYPE orders_total counter\norders_total{shop=\"C:\\\\x\\\"\\n\"} 7 \n\
                # TYPE took_seconds histogram\ntook_seconds_bucket{le=\"0.1\",} 1\ntook_seconds_bucket { le = \"+Inf\" } 2\n\
                took_seconds_sum 1.5e0\ntook_seconds_count 2\nwhatever NaN\n\tlate 1 1700000000000\nodd:1e5.5\t \ngauge_+Inf 17\n# TYPE \todd:1e5  untyped\n# TYPE signet_ready gauge\nsignet_ready 5\n";
    let openmetrics = "# TYPE orders counter\n# HELP orders Orders \\\"quoted\\\".\norders_total{shop=\"C:\\\\x\\\"\\n\"} 7 # {trace=\"a\"} 1\n\
                       # TYPE of gaugehistogram\n# TYPE x unknown\nx 1 1700000000.5\n# EOF\n";
    let apps = [
        ("text", App::saying("text/plain; version=0.0.4", text).await),
        ("openmetrics", App::saying("application/openmetrics-text; version=1.0.0", openmetrics).await),
        ("nonsense", App::saying("text/plain", "orders_total{ 7\n").await),
        ("html", App::saying("text/html", "<html>").await),
    ];
    let mut sidecars = Vec::new();
    let mut jobs = String::new();
    for (name, app) in &apps {
        let sidecar = Sidecar::beside(app.address).await;
        jobs += &format!("- job_name: {name}\n  static_configs: [{{targets: ['{}']}}]\n", sidecar.address);
        sidecars.push(sidecar);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("prometheus.yml");
    std::fs::write(
        &config,
        format!("global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{jobs}"),
    )
    .expect("a configuration");
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut server = tokio::process::Command::new(program)
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(folder.path().join("log")).expect("a log"))
        .kill_on_drop(true)
        .spawn()
        .expect("prometheus");
    let end = std::time::Instant::now() + Duration::from_secs(60);
    for (query, wanted) in [
        ("signet_own_total{job=\"text\"}", "3"),
        ("orders_total{job=\"text\",shop=\"C:\\\\x\\\"\\n\"}", "7"),
        ("took_seconds_bucket{job=\"text\",le=\"+Inf\"}", "2"),
        ("odd:1e5{job=\"text\"}", "0.5"),
        ("signet_app_metrics_dropped_total{job=\"text\"} > 1", ""),
        ("signet_own_total{job=\"openmetrics\"}", "3"),
        ("orders_total{job=\"openmetrics\",shop=\"C:\\\\x\\\"\\n\"}", "7"),
        ("signet_own_total{job=\"nonsense\"}", "3"),
        ("signet_app_scrapes_total{job=\"nonsense\",outcome=\"malformed\"}", ""),
        ("signet_own_total{job=\"html\"}", "3"),
        ("signet_app_scrapes_total{job=\"html\",outcome=\"format\"}", ""),
    ] {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        loop {
            let value = queried(address, &encoded).await;
            if value.as_deref().is_some_and(|value| wanted.is_empty() || value == wanted) {
                break;
            }
            assert!(server.try_wait().expect("its state").is_none(), "prometheus ended");
            let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            assert!(std::time::Instant::now() < end, "{query}: {value:?}\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for (query, wanted) in [("sum(up)", "4"), ("count(signet_ready) or vector(0)", "0")] {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(queried(address, &encoded).await.as_deref(), Some(wanted), "{query}");
    }
}

/// The first value of a query; none where there is no series, or nobody answers yet.
async fn queried(address: SocketAddr, query: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET /api/v1/query?query={query} HTTP/1.0\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    Some(body.pointer("/data/result/0/value/1")?.as_str()?.to_owned())
}
