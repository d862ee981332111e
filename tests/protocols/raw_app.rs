//! An HTTP/1 app on bare sockets: it keeps each request as it came, byte for byte, and answers what the test wants, be it HTTP or
//! not.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the app does with a request.
#[derive(Clone, Default)]
pub(crate) struct Reply {
    /// What it writes as soon as it has the head, in one write each.
    pub(crate) early: Vec<Vec<u8>>,
    /// What it writes when it has the whole request.
    pub(crate) bytes: Vec<u8>,
    /// And whether it ends the connection then.
    pub(crate) close: bool,
}

impl Reply {
    pub(crate) fn of(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), ..Self::default() }
    }

    pub(crate) fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    pub(crate) fn early(self, bytes: &str) -> Self {
        Self { early: [self.early, vec![bytes.into()]].concat(), ..self }
    }

    /// The answer of which nothing is special.
    pub(crate) fn ok() -> Self {
        Self::of("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    }
}

/// See the module's story.
pub(crate) struct RawApp {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    connections: Arc<Mutex<usize>>,
}

impl RawApp {
    /// `reply` says what to do, by the request line and how many requests have come on this connection before.
    pub(crate) async fn start(reply: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an app's port");
        let address = listener.local_addr().expect("its address").to_string();
        let (seen, connections) = (Arc::default(), Arc::default());
        let app = Self { address, seen: Arc::clone(&seen), connections: Arc::clone(&connections) };
        let reply = Arc::new(reply);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *connections.lock().expect("the count") += 1;
                tokio::spawn(serve(stream, seen.clone(), reply.clone()));
            }
        });
        app
    }

    /// The requests that have come since this was last asked.
    pub(crate) fn take(&self) -> Vec<String> {
        let taken = std::mem::take(&mut *self.seen.lock().expect("the requests"));
        taken.into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    /// How many connections have been made.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().expect("the count")
    }
}

type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

async fn serve<F: Fn(&str, usize) -> Reply>(mut stream: TcpStream, seen: Seen, reply: Arc<F>) {
    let (mut buffer, mut before) = (Vec::new(), 0);
    loop {
        let Some(head) = read_until(&mut stream, &mut buffer, end_of_head).await else { return };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let line = String::from_utf8_lossy(&buffer[..head]).lines().next().unwrap_or_default().to_owned();
        let reply = reply(&line, before);
        for bytes in &reply.early {
            if stream.write_all(bytes).await.is_err() {
                return;
            }
        }
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let whole = if field("transfer-encoding:") == Some("chunked") {
            read_until(&mut stream, &mut buffer, move |bytes| end_of_chunks(bytes, head)).await
        } else {
            let end =
                head + field("content-length:").and_then(|digits| digits.parse().ok()).unwrap_or(0usize);
            read_until(&mut stream, &mut buffer, move |bytes| (bytes.len() >= end).then_some(end)).await
        };
        let Some(whole) = whole else { return };
        seen.lock().expect("the requests").push(buffer.drain(..whole).collect());
        before += 1;
        if stream.write_all(&reply.bytes).await.is_err() || reply.close {
            return;
        }
    }
}

/// Reads until `end` finds an end, and returns it; none when the connection ends first.
async fn read_until(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    end: impl Fn(&[u8]) -> Option<usize>,
) -> Option<usize> {
    loop {
        if let Some(end) = end(buffer) {
            return Some(end);
        }
        if !matches!(stream.read_buf(buffer).await, Ok(1..)) {
            return None;
        }
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The end of a chunked body without surprises: the app does not look for errors, the pair has.
fn end_of_chunks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let line = bytes.get(at..)?.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).ok()?, 16).ok()?;
        at += line + 2;
        if size == 0 {
            return match bytes.get(at..at + 2) {
                Some(b"\r\n") => Some(at + 2),
                _ => Some(at + end_of_head(bytes.get(at..)?)?),
            };
        }
        at += size + 2;
    }
}
