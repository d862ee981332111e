//! What comes in masses, or is made to hurt.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use prometheus::Registry;
use signet_dns::metrics::{Metrics, Outcome};
use signet_dns::names::Names;
use signet_dns::resolvers::Resolvers;
use signet_dns::{Limits, Server};

use crate::support::{PATIENCE, Pod, Resolver, addresses, ask, over_tcp, over_udp, query, with_length};

#[test]
fn queries_beyond_the_bound_are_refused_at_once_and_those_of_others_go_on_when_it_is_over() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    // Answers nothing before it is let.
    let resolver = Resolver::start(move |asked| {
        if asked.number == 1 {
            let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        }
        vec![asked.answer("192.0.2.1").into()]
    });
    let limits = Limits { queries: 4, ..Limits::default() };
    let pod = Pod::with_limits(&[resolver.address], limits);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(pod.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for id in 0..100 {
        socket.send(&query(id, "www.example.com.", RecordType::A).to_vec().unwrap()).unwrap();
        // So many at once that none is lost on the way.
        if id >= 4 {
            let mut buffer = [0; 512];
            let count = socket.recv(&mut buffer).unwrap();
            let answer = Message::from_vec(&buffer[..count]).unwrap();
            assert_eq!((answer.id, answer.response_code), (id, ResponseCode::ServFail));
            assert_eq!(answer.queries.len(), 1);
        }
    }
    assert_eq!(pod.counted(Outcome::Refused), 96);
    assert_eq!(pod.metrics.under_way.get(), 4);
    go.send(()).unwrap();
    for _ in 0..4 {
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).unwrap();
        assert_eq!(addresses(&Message::from_vec(&buffer[..count]).unwrap()), ["192.0.2.1"]);
    }
    assert_eq!(addresses(&ask(&pod, "www.example.com.", RecordType::A)), ["192.0.2.1"]);
}

#[test]
fn what_is_no_query_is_told_so_or_dropped_and_the_next_one_is_answered() {
    let resolver = Resolver::saying("192.0.2.1");
    let pod = Pod::before(&[resolver.address]);
    pod.knows("orders.shop", &["10.96.0.7"]);
    let good = query(3, "www.example.com.", RecordType::A).to_vec().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(pod.address).unwrap();
    let mut response = good.clone();
    response[2] |= 0x80;
    for dropped in [&b""[..], &good[..11], &response, &[0; 65_000], &[0xff; 4097]] {
        socket.send(dropped).unwrap();
    }
    for (at, byte, code) in
        [(2, 0x21, ResponseCode::NotImp), (5, 0, ResponseCode::FormErr), (5, 9, ResponseCode::FormErr)]
    {
        let mut packet = good.clone();
        packet[at] = byte;
        let answer = Message::from_vec(&over_udp(pod.address, &packet)).unwrap();
        assert_eq!((answer.id, answer.response_code), (3, code));
        let answer = Message::from_vec(&over_tcp(pod.address, &packet).unwrap()).unwrap();
        assert_eq!((answer.id, answer.response_code), (3, code));
    }
    assert!(!resolver.was_asked(), "nothing of that is passed on");
    assert_eq!(addresses(&ask(&pod, "www.example.com.", RecordType::A)), ["192.0.2.1"]);
    assert_eq!(pod.counted(Outcome::Refused), 11);
}

#[test]
fn a_connection_that_says_what_is_no_query_ends_and_those_that_say_nothing_have_a_bound() {
    let resolver = Resolver::saying("192.0.2.1");
    let limits = Limits { connections: 2, idle: Duration::from_millis(300), ..Limits::default() };
    let pod = Pod::with_limits(&[resolver.address], limits);
    // A length that no query has, an answer, nothing at all.
    let mut answer = query(3, "www.example.com.", RecordType::A).to_vec().unwrap();
    answer[2] |= 0x80;
    for wrong in [vec![0xff, 0xff, 1], with_length(&answer), with_length(&[])] {
        let mut stream = TcpStream::connect(pod.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&wrong).unwrap();
        assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)), "{wrong:?}");
    }
    let ended = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match stream.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            // Cut with something unread.
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    };
    let silent: Vec<_> = (0..2).map(|_| TcpStream::connect(pod.address).unwrap()).collect();
    // Half a length is as good as silence.
    let mut half = TcpStream::connect(pod.address).unwrap();
    let _ = half.write_all(&[0]);
    assert!(ended(half), "one too many, or idle");
    assert!(silent.into_iter().all(ended), "idle");
    let packet = query(3, "www.example.com.", RecordType::A).to_vec().unwrap();
    let answer = Message::from_vec(&over_tcp(pod.address, &packet).unwrap()).unwrap();
    assert_eq!(addresses(&answer), ["192.0.2.1"]);
}

#[test]
fn a_successor_answers_at_the_same_sockets_and_what_was_under_way_is_finished() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let resolver = Resolver::start(move |asked| {
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        vec![asked.answer("192.0.2.1").into()]
    });
    let mut pod = Pod::before(&[resolver.address]);
    pod.knows("orders.shop", &["10.96.0.7"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(pod.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(&query(1, "www.example.com.", RecordType::A).to_vec().unwrap()).unwrap();
    while pod.metrics.under_way.get() == 0 {
        std::thread::yield_now();
    }
    let bound = pod.leave();
    let server = Server {
        names: Names::new(pod.state.clone(), "cluster.local"),
        resolvers: Resolvers::new("/dev/null".into(), Vec::new()),
        limits: Limits::default(),
        metrics: Metrics::new(&Registry::new()).unwrap(),
    };
    let _successor = server.start(vec![bound]).unwrap();
    for _ in 0..50 {
        assert_eq!(addresses(&ask(&pod, "orders.shop.", RecordType::A)), ["10.96.0.7"]);
        let packet = query(4, "orders.shop.", RecordType::A).to_vec().unwrap();
        let answer = Message::from_vec(&over_tcp(pod.address, &packet).unwrap()).unwrap();
        assert_eq!(addresses(&answer), ["10.96.0.7"]);
    }
    go.send(()).unwrap();
    let mut buffer = [0; 512];
    let count = socket.recv(&mut buffer).unwrap();
    assert_eq!(addresses(&Message::from_vec(&buffer[..count]).unwrap()), ["192.0.2.1"]);
}

#[test]
fn no_query_is_lost_between_one_server_and_the_next_however_often_they_change() {
    let mut pod = Pod::before(&[]);
    pod.knows("orders.shop", &["10.96.0.7"]);
    let address = pod.address;
    let (stop, asked) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    let packet = query(9, "orders.shop.", RecordType::A).to_vec().unwrap();
                    while !stop.load(Ordering::SeqCst) {
                        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                        socket.connect(address).unwrap();
                        socket.set_read_timeout(Some(PATIENCE)).unwrap();
                        socket.send(&packet).unwrap();
                        let mut buffer = [0; 512];
                        let count = socket.recv(&mut buffer).expect("an answer");
                        assert_eq!(addresses(&Message::from_vec(&buffer[..count]).unwrap()), ["10.96.0.7"]);
                        asked.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for _ in 0..300 {
            // At a moment that is another each time.
            let before = asked.load(Ordering::SeqCst);
            while asked.load(Ordering::SeqCst) < before + 10 && asking.iter().all(|one| !one.is_finished()) {
                std::thread::yield_now();
            }
            let bound = pod.leave();
            let server = Server {
                names: Names::new(pod.state.clone(), "cluster.local"),
                resolvers: Resolvers::new("/dev/null".into(), Vec::new()),
                limits: Limits::default(),
                metrics: Metrics::new(&Registry::new()).unwrap(),
            };
            pod.running = Some(server.start(vec![bound]).unwrap());
        }
        stop.store(true, Ordering::SeqCst);
        asking.into_iter().for_each(|one| one.join().unwrap());
    });
}
