//! Protocols in which the server may speak first, between programs that others wrote and that know of no mesh, through
//! the redirected pair. Nobody guesses what they speak, so nobody waits for it either.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use signet_tests::peers::{python, run, said, tool};
use signet_tests::postgres::Postgres;
use signet_tests::process::{PATIENCE, Process, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::pair::{app_in, listens, pair, program_in, virtual_ip};
use crate::pods::{APP_UID, Pods, SERVER, dials, inside};

/// Whoever decides by waiting waits at least this long; a greeting through the pair takes a few milliseconds.
const NO_WAIT: Duration = Duration::from_millis(90);

/// How long the first byte of a server took, at best: a busy machine makes one slow, and not all.
async fn greeted(pods: &Pods, address: &str, port: u16) -> Duration {
    let mut best = PATIENCE;
    for _ in 0..20 {
        let begin = Instant::now();
        let mut stream = dials(&pods.client, APP_UID, None, address, port).await.expect("a connection");
        let first = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("a greeting in time");
        first.expect("a greeting");
        best = best.min(begin.elapsed());
    }
    best
}

#[tokio::test]
async fn postgresql_serves_a_session_copies_and_a_cancelled_query_through_the_redirected_pair() {
    let Some(pods) = Pods::make() else { return };
    for family in [0, 1] {
        let Some(postgres) = Postgres::listening_in(&pods.server, SERVER[family]).await else { return };
        let mesh = pair(&pods, family, &[("postgres", 5432)]).await;
        let (folder, host) = (tempfile::tempdir().unwrap(), virtual_ip(0, family));
        let psql = || {
            let mut psql = app_in(&pods.client, postgres.program("psql"));
            psql.args(["--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-h", &host, "-U", "postgres"]);
            // No TLS of its own: the mesh has that. The client asks for it all the same, and is told no.
            psql.env("PGSSLMODE", "prefer").env("PGCONNECT_TIMEOUT", "30");
            psql
        };

        let mut session = psql();
        session.args(["-c", "create table t (n int, s text)", "-c", "begin"]);
        session.args(["-c", "insert into t values (1, 'one')", "-c", "select s from t", "-c", "rollback"]);
        session.args(["-c", "select count(*) from t"]);
        assert_eq!(said(&run(session).await), "one\n0\n");

        // Megabytes each way, byte for byte.
        let mut rows = String::new();
        for number in 0..100_000 {
            writeln!(rows, "{number}\t{:064}", number * 7).unwrap();
        }
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let (there, back) = (folder.path().join("there"), folder.path().join("back"));
        std::fs::write(&there, &rows).unwrap();
        let mut copy = psql();
        copy.args(["-c", &format!("\\copy t from '{}'", there.display())]);
        copy.args(["-c", &format!("\\copy (select * from t order by n) to '{}'", back.display())]);
        assert_eq!(said(&run(copy).await), "");
        assert_eq!(std::fs::read_to_string(&back).unwrap(), rows);

        // A cancel comes over a connection of its own, and names the first.
        let mut sleep = psql();
        sleep.args(["-c", "select pg_sleep(600)"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let sleeping = sleep.spawn().expect("psql");
        until("the query to run", || {
            let active =
                "select count(*) from pg_stat_activity where query like '%pg_sleep(600)%' and state = 'active' and pid <> pg_backend_pid()";
            (postgres.query("postgres", active) == ["1"]).then_some(())
        })
        .await;
        let pid = i32::try_from(sleeping.id()).unwrap();
        // SAFETY: a child of ours that was not waited for.
        unsafe { libc::kill(pid, libc::SIGINT) };
        let output = tokio::task::spawn_blocking(|| sleeping.wait_with_output().unwrap()).await.unwrap();
        assert!(said(&output).contains("canceling statement due to user request"), "{}", said(&output));
        drop(mesh);
    }
}

#[tokio::test]
async fn redis_answers_and_publishes_through_the_redirected_pair() {
    let Some(pods) = Pods::make() else { return };
    let (Some(server), Some(client)) = (tool("redis-server"), tool("redis-cli")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut command = program_in(&pods.server, APP_UID, &server);
    command.args(["--port", "6379", "--bind", "*", "-::*", "--protected-mode", "no", "--save", ""]);
    let _server = Process::start("redis", command, folder.path());
    listens(&pods.server, 6379).await;
    for family in [0, 1] {
        let mesh = pair(&pods, family, &[("redis", 6379)]).await;
        let host = virtual_ip(0, family);
        let redis = |words: &[&str]| {
            let mut redis = app_in(&pods.client, &client);
            redis.args(["-h", &host]).args(words);
            redis
        };
        assert_eq!(said(&run(redis(&["ping"])).await), "PONG\n");
        assert_eq!(said(&run(redis(&["set", "apple", "35"])).await), "OK\n");
        assert_eq!(said(&run(redis(&["get", "apple"])).await), "35\n");
        // A subscriber says nothing and is spoken to.
        let log = tempfile::tempdir().unwrap();
        let subscriber = Process::start("subscriber", redis(&["subscribe", "stock"]), log.path());
        subscriber.logged("subscribe").await;
        for number in 0..3 {
            let told = run(redis(&["publish", "stock", &format!("apple {number}")])).await;
            assert_eq!(said(&told), "1\n", "one subscriber");
            subscriber.logged(&format!("apple {number}")).await;
        }
        drop(mesh);
    }
}

#[tokio::test]
async fn a_mail_is_handed_over_by_smtp_through_the_redirected_pair_and_nobody_waits_to_guess() {
    let Some(pods) = Pods::make() else { return };
    let (Some(python), Some(curl)) = (python(), tool("curl")) else { return };
    let folder = tempfile::tempdir().unwrap();
    for family in [0, 1] {
        let mut command = program_in(&pods.server, 0, &python);
        command.args(["-u", "-m", "aiosmtpd", "-n", "-l", &format!("{}:25", SERVER[family])]);
        command.args(["-c", "aiosmtpd.handlers.Debugging", "stdout"]);
        let server = Process::start("smtp", command, folder.path());
        listens(&pods.server, 25).await;
        let mesh = pair(&pods, family, &[("mail", 25)]).await;
        let address = virtual_ip(0, family);
        let host = if family == 0 { address.clone() } else { format!("[{address}]") };
        let mail = folder.path().join("mail");
        let text = format!("Subject: order {family}\r\n\r\nthree apples, family {family}\r\n");
        std::fs::write(&mail, text).unwrap();
        let mut send = app_in(&pods.client, &curl);
        send.args(["-sS", "-m", "20", "-g", &format!("smtp://{host}:25"), "--mail-from", "web@example.com"]);
        send.args(["--mail-rcpt", "orders@example.com", "--upload-file"]).arg(&mail);
        let sent = run(send).await;
        assert!(sent.status.success(), "{}", said(&sent));
        server.logged(&format!("three apples, family {family}")).await;
        let took = greeted(&pods, &address, 25).await;
        assert!(took < NO_WAIT, "the greeting took {took:?}");
        drop(mesh);
    }
}

/// A packet of MySQL's protocol: length, number, content.
async fn packet(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let head = stream.read_u32_le().await?;
    let mut content = vec![0; (head & 0x00ff_ffff) as usize];
    stream.read_exact(&mut content).await?;
    Ok(((head >> 24) as u8, content))
}

async fn say(stream: &mut TcpStream, number: u8, content: &[u8]) {
    let head = u32::try_from(content.len()).unwrap() | u32::from(number) << 24;
    stream.write_all(&[&head.to_le_bytes(), content].concat()).await.unwrap();
}

#[tokio::test]
async fn a_greeting_as_mysql_says_it_comes_at_once_and_the_clients_answer_goes_back() {
    let Some(pods) = Pods::make() else { return };
    for family in [0, 1] {
        let mesh = pair(&pods, family, &[("mysql", 3306)]).await;
        let listener = inside(&pods.server, None, || {
            let listener = std::net::TcpListener::bind((SERVER[family], 3306)).expect("listening in a pod");
            listener.set_nonblocking(true).expect("a listener for tokio");
            listener
        });
        let listener = TcpListener::from_std(listener).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    // Protocol 10, a version, a connection's number, eight bytes to sign.
                    say(&mut stream, 0, b"\x0a8.0.0-test\0\x01\0\0\0abcdefgh\0").await;
                    let Ok((1, answer)) = packet(&mut stream).await else { return };
                    let content = [b"\0\0\0\x02\0\0\0".as_slice(), &answer].concat();
                    say(&mut stream, 2, &content).await;
                });
            }
        });
        let address = virtual_ip(0, family);
        let mut stream = dials(&pods.client, APP_UID, None, &address, 3306).await.unwrap();
        let (number, greeting) = packet(&mut stream).await.unwrap();
        assert_eq!((number, greeting[0]), (0, 10));
        assert!(greeting.starts_with(b"\x0a8.0.0-test\0"));
        say(&mut stream, 1, b"signed: abcdefgh").await;
        let (number, answer) = packet(&mut stream).await.unwrap();
        assert_eq!((number, answer.as_slice()), (2, b"\0\0\0\x02\0\0\0signed: abcdefgh".as_slice()));
        let took = greeted(&pods, &address, 3306).await;
        assert!(took < NO_WAIT, "the greeting took {took:?}");
        drop(mesh);
    }
}
