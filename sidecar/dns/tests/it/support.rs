//! A name server, a resolver that follows a script, and an app that asks.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::str::FromStr as _;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use prometheus::Registry;
use signet_dns::metrics::{Metrics, Outcome};
use signet_dns::names::Names;
use signet_dns::resolvers::Resolvers;
use signet_dns::{Bound, Limits, Running, Server};
use signet_identity::testing::{SvidOptions, TestCa};
use signet_identity::{Generation, GenerationOptions, PeerClass, RevocationSet};
use signet_proxy::state::{ServiceSpec, State, Tls, Wanted};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The name server of a pod in the namespace `shop`.
pub(crate) struct Pod {
    pub(crate) state: Arc<State>,
    pub(crate) wanted: tokio::sync::mpsc::Receiver<Wanted>,
    pub(crate) metrics: Metrics,
    pub(crate) address: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) running: Option<Running>,
}

impl Pod {
    /// Whose resolvers are these addresses, all at one port.
    pub(crate) fn before(resolvers: &[SocketAddr]) -> Self {
        Self::with_limits(resolvers, Limits::default())
    }

    pub(crate) fn with_limits(resolvers: &[SocketAddr], limits: Limits) -> Self {
        let ca = TestCa::new("demo.signet");
        let own =
            ca.svid(&ca.id("ns/shop/sa/web"), PeerClass::Sidecar, SvidOptions::default().at_wall_clock());
        let generation = Generation::build(1, own, ca.bundles(), GenerationOptions::default()).unwrap();
        let (state, wanted) = State::new(Tls { generation, revoked: Arc::new(RevocationSet::new(0)) });
        state.freshness.live();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        resolv_conf(&file, resolvers);
        let port = resolvers.first().map_or(53, SocketAddr::port);
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let bound = Bound::take("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.address().unwrap();
        let server = Server {
            names: Names::new(state.clone(), "cluster.local"),
            resolvers: Resolvers::at_port(file, vec![address], port),
            limits,
            metrics: metrics.clone(),
        };
        let running = Some(server.start(vec![bound]).unwrap());
        Pod { state, wanted, metrics, address, folder, running }
    }

    /// A service of these virtual addresses is known.
    pub(crate) fn knows(&self, name: &str, addresses: &[&str]) {
        let spec = || ServiceSpec {
            name: name.into(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..ServiceSpec::default()
        };
        self.state.update_endpoints(|endpoints| endpoints.apply([spec()], [] as [&str; 0]));
    }

    pub(crate) fn counted(&self, outcome: Outcome) -> u64 {
        self.metrics.counted(outcome)
    }

    /// Its sockets once more, and its end.
    pub(crate) fn leave(&mut self) -> Bound {
        let running = self.running.take().unwrap();
        let sockets = running.sockets().unwrap().remove(0);
        Bound::inherited(self.address, sockets).unwrap()
    }
}

pub(crate) fn resolv_conf(file: &Path, resolvers: &[SocketAddr]) {
    let lines: String = resolvers.iter().map(|address| format!("nameserver {}\n", address.ip())).collect();
    let new = file.with_extension("new");
    std::fs::write(&new, lines).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// What a resolver was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) packet: Vec<u8>,
    pub(crate) from: SocketAddr,
    pub(crate) tcp: bool,
    /// Which of those that it was asked, from 1.
    pub(crate) number: usize,
}

impl Asked {
    pub(crate) fn message(&self) -> Message {
        Message::from_vec(&self.packet).unwrap()
    }

    /// An answer with this address.
    pub(crate) fn answer(&self, ip: &str) -> Message {
        let asked = self.message();
        let mut answer = Message::response(asked.id, OpCode::Query);
        answer.metadata.recursion_available = true;
        answer.add_queries(asked.queries.clone());
        let name = asked.queries[0].name().clone();
        answer.add_answer(Record::from_rdata(name, 60, RData::A(A(ip.parse().unwrap()))));
        answer
    }

    pub(crate) fn refuses(&self, code: ResponseCode) -> Message {
        let mut answer = self.answer("0.0.0.0");
        answer.answers.clear();
        answer.metadata.response_code = code;
        answer
    }
}

/// What it does then.
pub(crate) enum Does {
    /// It says this to whoever asked.
    Says(Vec<u8>),
    /// It says this to somebody who asked before.
    SaysTo(SocketAddr, Vec<u8>),
    /// Somebody else says this, from another port.
    AnotherSays(Vec<u8>),
}

impl From<Message> for Does {
    fn from(message: Message) -> Self {
        Does::Says(message.to_vec().unwrap())
    }
}

/// A resolver that does as it is told, over UDP and TCP.
pub(crate) struct Resolver {
    pub(crate) address: SocketAddr,
    asked: Mutex<mpsc::Receiver<Asked>>,
}

impl Resolver {
    pub(crate) fn start(script: impl Fn(&Asked) -> Vec<Does> + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", script)
    }

    pub(crate) fn at(listen: &str, script: impl Fn(&Asked) -> Vec<Does> + Send + Sync + 'static) -> Self {
        let listen: SocketAddr = listen.parse().unwrap();
        // A port that is free for both.
        let (udp, tcp) = std::iter::repeat_with(|| {
            let udp = UdpSocket::bind(listen).unwrap();
            let tcp = TcpListener::bind(udp.local_addr().unwrap());
            tcp.map(|tcp| (udp, tcp))
        })
        .find_map(Result::ok)
        .unwrap();
        let address = udp.local_addr().unwrap();
        let (tell, asked) = mpsc::channel();
        let script = Arc::new(script);
        let number = Arc::new(std::sync::atomic::AtomicUsize::new(1));
        let act = {
            let (tell, number) = (tell, number);
            move |packet: Vec<u8>, from: SocketAddr, tcp: bool| {
                let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let asked = Asked { packet, from, tcp, number };
                let does = script(&asked);
                let _ = tell.send(asked);
                does
            }
        };
        let over_udp = act.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 65_535];
            while let Ok((count, from)) = udp.recv_from(&mut buffer) {
                for does in over_udp(buffer[..count].to_vec(), from, false) {
                    let _ = match does {
                        Does::Says(bytes) => udp.send_to(&bytes, from),
                        Does::SaysTo(to, bytes) => udp.send_to(&bytes, to),
                        Does::AnotherSays(bytes) => {
                            UdpSocket::bind((address.ip(), 0)).unwrap().send_to(&bytes, from)
                        }
                    };
                }
            }
        });
        std::thread::spawn(move || {
            while let Ok((mut stream, from)) = tcp.accept() {
                let Some(packet) = framed(&mut stream) else { continue };
                for does in act(packet, from, true) {
                    if let Does::Says(bytes) = does {
                        let _ = stream.write_all(&with_length(&bytes));
                    }
                }
            }
        });
        Resolver { address, asked: Mutex::new(asked) }
    }

    /// One that says this address to everything.
    pub(crate) fn saying(ip: &'static str) -> Self {
        Self::start(move |asked| vec![asked.answer(ip).into()])
    }

    /// What it was asked next.
    pub(crate) fn asked(&self) -> Asked {
        self.asked.lock().unwrap().recv_timeout(PATIENCE).expect("it is asked")
    }

    /// Whether it was asked anything more.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.lock().unwrap().try_recv().is_ok()
    }
}

/// An address where nobody listens, at this port.
pub(crate) fn nobody(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from_str("127.0.0.77").unwrap(), port)
}

pub(crate) fn with_length(bytes: &[u8]) -> Vec<u8> {
    let mut framed = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    framed
}

pub(crate) fn framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// A query as an app's resolver makes it.
pub(crate) fn query(id: u16, name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// What bytes get over UDP.
pub(crate) fn over_udp(to: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(packet).unwrap();
    let mut buffer = [0; 65_535];
    let count = socket.recv(&mut buffer).expect("an answer");
    buffer[..count].to_vec()
}

/// What bytes get over TCP; `None`: the connection ends.
pub(crate) fn over_tcp(to: SocketAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&with_length(packet)).unwrap();
    framed(&mut stream)
}

/// What is said to a question over UDP.
pub(crate) fn ask(pod: &Pod, name: &str, kind: RecordType) -> Message {
    let answer = over_udp(pod.address, &query(0x2a2a, name, kind).to_vec().unwrap());
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.id, 0x2a2a);
    answer
}

/// The addresses of an answer without an error.
pub(crate) fn addresses(answer: &Message) -> Vec<String> {
    assert_eq!(answer.response_code, ResponseCode::NoError, "{answer}");
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}
