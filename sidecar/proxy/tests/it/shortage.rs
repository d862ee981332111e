//! Too many connections, and too few descriptors.

use std::time::{Duration, Instant};

use signet_proxy::Limits;
use signet_proxy::state::Protocol;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::Pair;
use crate::support::app::echo;
use crate::support::caller::{Client, within};

#[tokio::test]
async fn past_the_limit_a_connection_is_closed_and_the_others_go_on() {
    let limits = Limits { connections: 3, ..Limits::default() };
    let pair = Pair::new(Protocol::Http1, echo().await, limits);
    let mut first = Client::to(pair.out).await;
    assert_eq!(first.get("/").await.status, 200);
    let (second, third) = (Client::to(pair.out).await, Client::to(pair.out).await);
    let mut fourth = Client::to(pair.out).await;
    assert_ne!(fourth.ended().await, Some(false));
    pair.web.counts("signet_over_limit_total", &[], 1).await;
    assert_eq!(first.get("/").await.status, 200);
    drop((second, third));
    within(async {
        loop {
            let mut again = Client::to(pair.out).await;
            again.send("GET / HTTP/1.1\r\nhost: o\r\n\r\n").await;
            let mut byte = [0];
            if tokio::io::AsyncReadExt::read(&mut again.stream, &mut byte).await.is_ok_and(|count| count == 1)
            {
                return;
            }
        }
    })
    .await;
}

/// In a process of its own: the limit is the process's.
#[test]
fn without_descriptors_accepting_pauses_and_comes_back() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "shortage::in_a_process_of_its_own", "--nocapture"])
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

fn open_descriptors() -> u64 {
    std::fs::read_dir("/proc/self/fd").unwrap().count() as u64
}

#[tokio::test]
#[ignore = "run by without_descriptors_accepting_pauses_and_comes_back"]
async fn in_a_process_of_its_own() {
    let pair = Pair::http(echo().await);
    let mut kept = Client::to(pair.out).await;
    assert_eq!(kept.get("/").await.status, 200);
    let (last, mut hoard) = (TcpSocket::new_v4().unwrap(), Vec::new());
    let limit = libc::rlimit { rlim_cur: open_descriptors() + 16, rlim_max: open_descriptors() + 16 };
    // SAFETY: passes a valid structure by reference; this process has no other test.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    while let Ok(stream) = TcpStream::connect(pair.out).await {
        hoard.push(stream);
    }
    // Whoever took the last one: this caller has its own already, and there is none for the other end.
    hoard.push(last.connect(pair.out).await.unwrap());
    within(async {
        while pair.web.counter("signet_accept_errors_total", &[]) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    // Some time passes, and the errors are few: pauses of 10, 20, 40 ms and so on, not a hot loop.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(300) {
        assert_eq!(kept.get("/").await.status, 200, "those that are served go on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let errors = pair.web.counter("signet_accept_errors_total", &[]);
    assert!(errors <= 12, "{errors} failed accepts in a third of a second");
    drop(hoard);
    let mut fresh = Client::to(pair.out).await;
    assert_eq!(fresh.get("/").await.status, 200);
}
