//! A TCP service in which the server speaks first, as databases and mail servers do: it greets, then
//! acknowledges each line.

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::http::{BoxedStream, Listener, Place};

pub(crate) async fn run(listen: Place) -> anyhow::Result<()> {
    let listener = Listener::bind(&listen).await?;
    loop {
        let stream = listener.accept().await?;
        tokio::spawn(async move {
            // A client that goes away is not this app's concern.
            let _ = talk(stream).await;
        });
    }
}

async fn talk(stream: BoxedStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(b"ledger ready\n").await?;
    let mut line = String::new();
    let mut entry = 0u64;
    while stream.read_line(&mut line).await? > 0 {
        entry += 1;
        let answer = format!("entry {entry}: {}\n", line.trim_end());
        stream.get_mut().write_all(answer.as_bytes()).await?;
        line.clear();
    }
    stream.get_mut().shutdown().await
}
