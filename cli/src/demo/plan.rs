//! What runs where: names, identities, ports and sockets of the demo.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

pub(crate) const TRUST_DOMAIN: &str = "demo.signet";

/// How a workload dials a service: where its own sidecar listens for it.
pub(crate) struct Dial {
    pub(crate) service: &'static str,
    pub(crate) port: &'static str,
    pub(crate) listen: String,
}

/// What a workload serves: where its sidecar takes mutual TLS, and the app behind it.
pub(crate) struct Serve {
    pub(crate) service: &'static str,
    pub(crate) port: &'static str,
    pub(crate) listen: String,
}

pub(crate) struct Sidecar {
    pub(crate) name: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) serves: Option<Serve>,
    pub(crate) dials: Vec<Dial>,
}

pub(crate) struct App {
    pub(crate) name: &'static str,
    pub(crate) socket: PathBuf,
    pub(crate) arguments: Vec<String>,
}

pub(crate) struct Plan {
    pub(crate) folder: PathBuf,
    pub(crate) issuer: String,
    pub(crate) gateway: String,
    pub(crate) sidecars: Vec<Sidecar>,
}

impl Sidecar {
    pub(crate) fn class(&self) -> &'static str {
        if self.name == "gateway" { "gateway" } else { "sidecar" }
    }

    pub(crate) fn serves_text(&self) -> String {
        match &self.serves {
            Some(it) => format!("{} on {}", it.service, it.listen),
            None => "-".into(),
        }
    }

    pub(crate) fn dials_text(&self) -> String {
        if self.class() == "gateway" {
            return "web.shop".into();
        }
        let names: Vec<_> = self.dials.iter().map(|dial| dial.service).collect();
        if names.is_empty() { "-".into() } else { names.join(", ") }
    }
}

impl Plan {
    pub(crate) fn new(folder: PathBuf) -> anyhow::Result<Self> {
        // A Unix socket's path has 107 bytes; the longest name below needs 40 of them.
        ensure!(
            folder.as_os_str().len() <= 64,
            "{}: expected a path of at most 64 bytes (Unix sockets live in it)",
            folder.display()
        );
        let mut ports = Ports::default();
        let mut address = |preferred| ports.take(preferred);
        let socket = |workload: &str, name: &str| format!("unix:{}/{workload}/{name}.sock", folder.display());
        let (issuer, gateway) = (address(9000)?, address(8080)?);
        let serve = |service, port, listen| Some(Serve { service, port, listen });
        let sidecars = vec![
            Sidecar { name: "gateway", namespace: "edge", serves: None, dials: vec![] },
            Sidecar {
                name: "web",
                namespace: "shop",
                serves: serve("web.shop", "http", address(15101)?),
                dials: vec![
                    Dial { service: "orders.shop", port: "grpc", listen: socket("web", "orders") },
                    Dial { service: "ledger.shop", port: "tcp", listen: socket("web", "ledger") },
                ],
            },
            Sidecar {
                name: "orders",
                namespace: "shop",
                serves: serve("orders.shop", "grpc", address(15102)?),
                dials: vec![Dial {
                    service: "inventory.shop",
                    port: "http",
                    listen: socket("orders", "inventory"),
                }],
            },
            Sidecar {
                name: "inventory",
                namespace: "shop",
                serves: serve("inventory.shop", "http", address(15103)?),
                dials: vec![],
            },
            Sidecar {
                name: "ledger",
                namespace: "shop",
                serves: serve("ledger.shop", "tcp", address(15104)?),
                dials: vec![],
            },
            Sidecar {
                name: "intruder",
                namespace: "shop",
                serves: None,
                dials: vec![
                    Dial { service: "inventory.shop", port: "http", listen: address(15201)? },
                    Dial { service: "ledger.shop", port: "tcp", listen: address(15202)? },
                ],
            },
        ];
        Ok(Self { folder, issuer, gateway, sidecars })
    }

    /// The folder of one workload: its configuration, its sockets.
    pub(crate) fn home(&self, sidecar: &Sidecar) -> PathBuf {
        self.folder.join(sidecar.name)
    }

    pub(crate) fn spiffe_id(&self, sidecar: &Sidecar) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}", sidecar.namespace, sidecar.name)
    }

    pub(crate) fn app_socket(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("app.sock")
    }

    pub(crate) fn issuer_url(&self) -> String {
        format!("http://{}", self.issuer)
    }

    pub(crate) fn apps(&self) -> Vec<App> {
        let app = |name: &'static str, dials: &[&str]| {
            let socket = self.app_socket(name);
            let mut arguments =
                vec![name.to_owned(), "--listen".into(), format!("unix:{}", socket.display())];
            for dial in dials {
                arguments.push(format!("--{dial}"));
                arguments.push(format!("unix:{}/{name}/{dial}.sock", self.folder.display()));
            }
            App { name, socket, arguments }
        };
        vec![
            app("ledger", &[]),
            app("inventory", &[]),
            app("orders", &["inventory"]),
            app("web", &["orders", "ledger"]),
        ]
    }

    pub(crate) fn web_inbound(&self) -> &str {
        self.sidecars
            .iter()
            .find_map(|it| it.serves.as_ref().filter(|serve| serve.service == "web.shop"))
            .map_or("", |it| &it.listen)
    }

    /// Where the intruder's own sidecar takes its calls to a service.
    fn intruder_dial(&self, service: &str) -> &str {
        let intruder = self.sidecars.iter().filter(|it| it.name == "intruder");
        intruder.flat_map(|it| &it.dials).find(|dial| dial.service == service).map_or("", |dial| &dial.listen)
    }

    pub(crate) fn intruder_inventory(&self) -> &str {
        self.intruder_dial("inventory.shop")
    }

    pub(crate) fn intruder_ledger(&self) -> &str {
        self.intruder_dial("ledger.shop")
    }

    /// One of Signet's programs: they are built and installed side by side.
    pub(crate) fn binary(&self, name: &str) -> anyhow::Result<PathBuf> {
        let own = std::env::current_exe().context("finding this program's own path")?;
        let path = own.parent().unwrap_or(Path::new(".")).join(name);
        ensure!(path.exists(), "{} is not there: build or install it beside `signet`", path.display());
        Ok(path)
    }

    /// How the person at the terminal can call this program.
    pub(crate) fn cli(&self) -> String {
        let own = std::env::args().next().unwrap_or_else(|| "signet".into());
        if self.folder == super::default_folder() {
            return own;
        }
        format!("{own} --socket {}", super::operator_socket(&self.folder).display())
    }
}

/// Hands out loopback addresses: the preferred port where it is free, otherwise any. All stay reserved
/// until the last is taken, so that none is given twice.
#[derive(Default)]
struct Ports(Vec<TcpListener>);

impl Ports {
    fn take(&mut self, preferred: u16) -> anyhow::Result<String> {
        let listener = TcpListener::bind(("127.0.0.1", preferred))
            .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
            .context("finding a free port on 127.0.0.1")?;
        let address = listener.local_addr()?.to_string();
        self.0.push(listener);
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_address_is_given_twice() {
        let mut ports = Ports::default();
        let taken: HashSet<_> = (0..20).map(|_| ports.take(18_080).unwrap()).collect();
        assert_eq!(taken.len(), 20);
    }

    #[test]
    fn a_folder_too_deep_for_a_unix_socket_is_refused() {
        assert!(Plan::new(PathBuf::from(format!("/{}", "x".repeat(80)))).is_err());
    }
}
