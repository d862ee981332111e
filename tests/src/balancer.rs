//! What stands before several control planes in a cluster: one address, behind which are those that are ready.
//!
//! As kube-proxy does it: each connection goes to one of those that are ready then, and stays there; one that is taken out
//! keeps the connections that it has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};

#[derive(Default)]
struct Behind {
    ready: BTreeMap<String, String>,
    turn: usize,
}

impl Behind {
    fn next(&mut self) -> Option<String> {
        self.turn = self.turn.wrapping_add(1);
        let one = self.turn.checked_rem(self.ready.len())?;
        self.ready.values().nth(one).cloned()
    }
}

/// A Service with a virtual address. Ends with the test's runtime.
pub struct Balancer {
    pub address: String,
    behind: Arc<Mutex<Behind>>,
}

impl Balancer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let behind = Arc::<Mutex<Behind>>::default();
        let shared = Arc::clone(&behind);
        tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                let next = shared.lock().unwrap_or_else(PoisonError::into_inner).next();
                tokio::spawn(async move {
                    let Some(next) = next else { return };
                    if let Ok(mut there) = TcpStream::connect(next).await {
                        let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                    }
                });
            }
        });
        Self { address, behind }
    }

    /// From now on connections go there, too.
    pub fn put(&self, name: &str, address: &str) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        behind.ready.insert(name.into(), address.into());
    }

    /// No new ones do.
    pub fn take_out(&self, name: &str) {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).ready.remove(name);
    }
}
