//! Ends of streams, as apps see them through the redirected pair: each direction ends by itself, a reset is a reset at
//! the other end, and nobody takes a part for the whole, whoever cut it.

use std::time::Duration;

use signet_tests::mesh::Mesh;
use signet_tests::process::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::pair::{pair, virtual_ip};
use crate::pods::{APP_UID, Pods, SERVER, dials, inside};

/// The port of the one service.
const PORT: u16 = 7100;
/// More than all buffers on the way hold.
const MUCH: usize = 48 * 1024 * 1024;

/// A server in the server's pod: each connection comes out here.
fn server(pods: &Pods, family: usize) -> mpsc::Receiver<TcpStream> {
    let listener = inside(&pods.server, None, || {
        let listener = std::net::TcpListener::bind((SERVER[family], PORT)).expect("listening in a pod");
        listener.set_nonblocking(true).expect("a listener for tokio");
        listener
    });
    let listener = TcpListener::from_std(listener).expect("a listener for tokio");
    let (accepted, accepts) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if accepted.send(stream).await.is_err() {
                return;
            }
        }
    });
    accepts
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it came in time")
}

/// Two ends of one stream through the pair, both heard of the other.
async fn stream(pods: &Pods, family: usize, accepts: &mut mpsc::Receiver<TcpStream>) -> [TcpStream; 2] {
    let mut client = dials(&pods.client, APP_UID, None, &virtual_ip(0, family), PORT).await.expect("dialled");
    client.write_all(b"?").await.unwrap();
    let mut server = within(accepts.recv()).await.expect("a connection");
    assert_eq!(within(server.read_u8()).await.unwrap(), b'?');
    server.write_all(b"!").await.unwrap();
    assert_eq!(within(client.read_u8()).await.unwrap(), b'!');
    [client, server]
}

fn reset_on_close(stream: &TcpStream) {
    use std::os::fd::AsRawFd as _;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = libc::socklen_t::try_from(size_of_val(&linger)).unwrap();
    // SAFETY: the kernel reads `length` bytes of `linger`, which lives through the call.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    };
    assert_eq!(set, 0);
}

/// Reads to whatever end there is: how much came, and whether it was a clean end.
async fn to_the_end(stream: &mut TcpStream) -> (usize, std::io::Result<()>) {
    let mut total = 0;
    let mut buffer = vec![0; 65_536];
    loop {
        match within(stream.read(&mut buffer)).await {
            Ok(0) => return (total, Ok(())),
            Ok(count) => total += count,
            Err(error) => return (total, Err(error)),
        }
    }
}

#[track_caller]
fn is_reset<T: std::fmt::Debug>(ended: Result<T, std::io::Error>) {
    let error = ended.expect_err("expected a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

async fn set_up(family: usize) -> Option<(Pods, Mesh, mpsc::Receiver<TcpStream>)> {
    let pods = Pods::make()?;
    let mesh = pair(&pods, family, &[("store", PORT)]).await;
    let accepts = server(&pods, family);
    Some((pods, mesh, accepts))
}

#[tokio::test]
async fn each_direction_of_a_redirected_stream_ends_by_itself() {
    for family in [0, 1] {
        let Some((pods, _mesh, mut accepts)) = set_up(family).await else { return };
        // The client has said all, and reads on: a request that ends with its end.
        let [mut client, mut server] = stream(&pods, family, &mut accepts).await;
        client.write_all(b"all that I have").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        within(server.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, b"all that I have");
        let answering = tokio::spawn(async move {
            server.write_all(&vec![7; MUCH]).await.unwrap();
            server.shutdown().await.unwrap();
        });
        let (count, ended) = to_the_end(&mut client).await;
        assert!(ended.is_ok() && count == MUCH, "{count} {ended:?}");
        within(answering).await.unwrap();
        // The server has, and listens on.
        let [mut client, mut server] = stream(&pods, family, &mut accepts).await;
        server.write_all(b"bye").await.unwrap();
        server.shutdown().await.unwrap();
        let (count, ended) = to_the_end(&mut client).await;
        assert!(ended.is_ok() && count == 3, "{count} {ended:?}");
        let sending = tokio::spawn(async move {
            client.write_all(&vec![9; MUCH]).await.unwrap();
            client.shutdown().await.unwrap();
        });
        let (count, ended) = to_the_end(&mut server).await;
        assert!(ended.is_ok() && count == MUCH, "{count} {ended:?}");
        within(sending).await.unwrap();
    }
}

#[tokio::test]
async fn a_reset_of_either_end_of_a_redirected_stream_is_a_reset_at_the_other() {
    for family in [0, 1] {
        let Some((pods, _mesh, mut accepts)) = set_up(family).await else { return };
        let [mut client, server] = stream(&pods, family, &mut accepts).await;
        reset_on_close(&server);
        drop(server);
        is_reset(within(client.read_u8()).await);

        let [client, mut server] = stream(&pods, family, &mut accepts).await;
        reset_on_close(&client);
        drop(client);
        is_reset(within(server.read_u8()).await);

        // After one direction has ended, too: whoever is spoken to must learn that nobody listens any more.
        let [mut client, mut server] = stream(&pods, family, &mut accepts).await;
        client.shutdown().await.unwrap();
        assert_eq!(within(server.read(&mut [0; 1])).await.unwrap(), 0);
        reset_on_close(&client);
        drop(client);
        // The kernel tells whoever waits on the socket, also one that neither reads nor writes.
        within(server.ready(tokio::io::Interest::ERROR)).await.unwrap();
        let mut speaks = async || loop {
            if let Err(error) = server.write_all(&[1; 4096]).await {
                return error;
            }
        };
        within(speaks()).await;
    }
}

/// In the middle of a transfer somebody ends; the receiver must see more than an end of the stream.
#[tokio::test]
async fn a_transfer_that_is_cut_in_the_middle_is_never_seen_as_whole() {
    for whom in ["the sender resets", "the client's sidecar dies", "the server's sidecar dies"] {
        for upwards in [false, true] {
            let Some((pods, mesh, mut accepts)) = set_up(0).await else { return };
            let [client, server] = stream(&pods, 0, &mut accepts).await;
            let (mut sender, mut receiver) = if upwards { (client, server) } else { (server, client) };
            if whom == "the sender resets" {
                reset_on_close(&sender);
            }
            let sending = tokio::spawn(async move {
                let sent = sender.write_all(&vec![5; MUCH]).await;
                // Kept open: whatever end the receiver sees is not this one's.
                (sender, sent)
            });
            let mut part = vec![0; 1024 * 1024];
            within(receiver.read_exact(&mut part)).await.unwrap();
            // Nothing is read for a moment, so that the sender stands in the middle and all buffers are full.
            match whom {
                "the sender resets" => {
                    // The rest of the write is given up with its task, which resets the socket.
                    sending.abort();
                }
                "the client's sidecar dies" => mesh.sidecar("client").signal(libc::SIGKILL),
                _ => mesh.sidecar("server").signal(libc::SIGKILL),
            }
            let (count, ended) = to_the_end(&mut receiver).await;
            assert!(ended.is_err(), "{whom}, upwards {upwards}: {count} more bytes and then a clean end");
            sending.abort();
        }
    }
}

/// The same without a byte under way: a process that dies leaves nothing that would make the kernel reset by itself.
#[tokio::test]
async fn a_stream_whose_sidecar_dies_while_nobody_speaks_is_reset_and_not_ended() {
    for whom in ["client", "server"] {
        let Some((pods, mesh, mut accepts)) = set_up(0).await else { return };
        let [mut client, mut server] = stream(&pods, 0, &mut accepts).await;
        mesh.sidecar(whom).signal(libc::SIGKILL);
        is_reset(within(client.read_u8()).await);
        is_reset(within(server.read_u8()).await);
    }
}

#[tokio::test]
async fn a_stream_that_is_idle_for_longer_than_any_handshake_goes_on() {
    let Some((pods, _mesh, mut accepts)) = set_up(0).await else { return };
    let [mut client, mut server] = stream(&pods, 0, &mut accepts).await;
    // Longer than the time of a handshake and of a head; what is awaited is that nothing happens.
    let quiet = tokio::time::timeout(Duration::from_secs(12), client.read_u8()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    server.write_all(b"x").await.unwrap();
    assert_eq!(within(client.read_u8()).await.unwrap(), b'x');
}
