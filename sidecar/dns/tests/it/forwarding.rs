//! What the mesh does not know passes, as it is, to whoever knows; and what comes back is what was asked for.

use std::collections::HashSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::RecordType;
use signet_dns::metrics::Outcome;

use crate::support::{
    Asked, Does, PATIENCE, Pod, Resolver, addresses, ask, framed, nobody, over_tcp, over_udp, query,
    resolv_conf, with_length,
};

#[test]
fn a_query_passes_as_it_came_and_so_does_its_answer_but_for_the_id() {
    let resolver = Resolver::start(|asked| {
        let mut answer = asked.answer("192.0.2.1").to_vec().unwrap();
        // Whatever else a resolver may say.
        answer.extend([0xde, 0xad]);
        vec![Does::Says(answer)]
    });
    let pod = Pod::before(&[resolver.address]);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    let mut asked = query(7, "wWw.eXample.com.", RecordType::A);
    asked.set_edns(edns);
    let packet = asked.to_vec().unwrap();
    let answer = over_udp(pod.address, &packet);
    let passed = resolver.asked();
    assert_eq!(passed.packet[2..], packet[2..], "the flags, the letters, the options");
    let mut expected = passed.answer("192.0.2.1").to_vec().unwrap();
    expected[..2].copy_from_slice(&packet[..2]);
    expected.extend([0xde, 0xad]);
    assert_eq!(answer, expected);
    assert_eq!((pod.counted(Outcome::Forwarded), pod.counted(Outcome::Answered)), (1, 0));
}

#[test]
fn each_query_goes_under_another_id_and_from_another_port() {
    let resolver = Resolver::saying("192.0.2.1");
    let pod = Pod::before(&[resolver.address]);
    let mut seen = HashSet::new();
    for _ in 0..64 {
        assert_eq!(addresses(&ask(&pod, "www.example.com.", RecordType::A)), ["192.0.2.1"]);
        let asked = resolver.asked();
        seen.insert((asked.message().id, asked.from.port()));
    }
    let ids: HashSet<_> = seen.iter().map(|(id, _)| id).collect();
    let ports: HashSet<_> = seen.iter().map(|(_, port)| port).collect();
    // By chance two may be the same; that one of 60 were is one chance in a billion for ids.
    assert!(ids.len() > 60 && ports.len() > 56, "{} ids, {} ports", ids.len(), ports.len());
    // Neither counts up.
    let mut steps: Vec<_> = seen.iter().map(|(id, _)| *id).collect();
    steps.sort_unstable();
    assert!(steps.windows(2).any(|pair| pair[1] - pair[0] > 256), "{steps:?}");
}

#[test]
fn a_forged_answer_is_not_believed_by_id_question_or_source() {
    let resolver = Resolver::start(|asked| {
        let forged = asked.answer("203.0.113.66");
        let mut other_id = forged.clone();
        other_id.metadata.id ^= 1;
        let mut other_question = forged.clone();
        other_question.queries = query(0, "www.example.org.", RecordType::A).queries;
        let mut other_type = forged.clone();
        other_type.queries[0].set_query_type(RecordType::AAAA);
        let mut is_query = asked.message();
        is_query.answers = forged.answers.clone();
        vec![
            Does::AnotherSays(forged.to_vec().unwrap()),
            other_id.into(),
            other_question.into(),
            other_type.into(),
            is_query.into(),
            Does::Says(b"no message".to_vec()),
            asked.answer("192.0.2.1").into(),
        ]
    });
    let pod = Pod::before(&[resolver.address]);
    assert_eq!(addresses(&ask(&pod, "www.example.com.", RecordType::A)), ["192.0.2.1"]);
    assert_eq!(pod.metrics.discarded.get(), 5, "what another source says does not even arrive");
}

#[test]
fn who_guesses_on_and_on_is_answered_by_asking_over_tcp() {
    let resolver = Resolver::start(|asked| {
        if asked.tcp {
            return vec![asked.answer("192.0.2.1").into()];
        }
        let guess = |id: u16| {
            let mut guess = asked.answer("203.0.113.66");
            guess.metadata.id = asked.message().id.wrapping_add(id);
            Does::from(guess)
        };
        (1..=100).map(guess).collect()
    });
    let pod = Pod::before(&[resolver.address]);
    assert_eq!(addresses(&ask(&pod, "www.example.com.", RecordType::A)), ["192.0.2.1"]);
    assert!(!resolver.asked().tcp && resolver.asked().tcp);
    assert_eq!(pod.metrics.discarded.get(), 8);
}

#[test]
fn a_lost_query_is_asked_again_and_a_late_answer_to_the_first_serves() {
    let first = std::sync::Mutex::new(None::<Asked>);
    let resolver = Resolver::start(move |asked| {
        let mut first = first.lock().unwrap();
        match &*first {
            None => {
                *first = Some(asked.clone());
                Vec::new()
            }
            // Only now, and only to the first.
            Some(before) => vec![Does::SaysTo(before.from, before.answer("192.0.2.1").to_vec().unwrap())],
        }
    });
    let pod = Pod::before(&[resolver.address]);
    assert_eq!(addresses(&ask(&pod, "www.example.com.", RecordType::A)), ["192.0.2.1"]);
    let (one, two) = (resolver.asked(), resolver.asked());
    assert!(one.from != two.from && one.message().id != two.message().id);
}

#[test]
fn a_cut_answer_is_passed_on_and_the_whole_one_comes_over_tcp() {
    let resolver = Resolver::start(|asked| {
        let mut answer = asked.answer("192.0.2.1");
        if !asked.tcp {
            answer = answer.truncate();
        }
        vec![answer.into()]
    });
    let pod = Pod::before(&[resolver.address]);
    let cut = ask(&pod, "www.example.com.", RecordType::A);
    assert!(cut.truncation && cut.answers.is_empty());
    assert!(!resolver.asked().tcp && !resolver.was_asked(), "it is the app's to ask again");
    let whole =
        over_tcp(pod.address, &query(9, "www.example.com.", RecordType::A).to_vec().unwrap()).unwrap();
    let whole = Message::from_vec(&whole).unwrap();
    assert_eq!((whole.id, addresses(&whole)), (9, vec!["192.0.2.1".to_owned()]));
    assert!(resolver.asked().tcp);
}

#[test]
fn a_tcp_connection_carries_one_query_after_the_other() {
    let resolver = Resolver::saying("192.0.2.1");
    let pod = Pod::before(&[resolver.address]);
    pod.knows("orders.shop", &["10.96.0.7"]);
    let mut stream = TcpStream::connect(pod.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut both = with_length(&query(1, "www.example.com.", RecordType::A).to_vec().unwrap());
    both.extend(with_length(&query(2, "orders.shop.", RecordType::A).to_vec().unwrap()));
    stream.write_all(&both).unwrap();
    for (id, ip) in [(1, "192.0.2.1"), (2, "10.96.0.7")] {
        let answer = Message::from_vec(&framed(&mut stream).unwrap()).unwrap();
        assert_eq!((answer.id, addresses(&answer)), (id, vec![ip.to_owned()]));
    }
}

#[test]
fn where_nobody_listens_the_next_resolver_is_asked_at_once_and_without_any_it_fails() {
    let resolver = Resolver::saying("192.0.2.1");
    let dead = nobody(resolver.address.port());
    let pod = Pod::before(&[dead, resolver.address]);
    let began = Instant::now();
    assert_eq!(addresses(&ask(&pod, "www.example.com.", RecordType::A)), ["192.0.2.1"]);
    resolv_conf(&pod.folder.path().join("resolv.conf"), &[dead]);
    let failed = ask(&pod, "www.example.com.", RecordType::A);
    assert_eq!(failed.response_code, ResponseCode::ServFail);
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!((pod.counted(Outcome::Forwarded), pod.counted(Outcome::Failed)), (1, 1));
}

#[test]
fn a_resolver_that_says_nothing_makes_nobody_hang() {
    let resolver = Resolver::start(|_| Vec::new());
    let pod = Pod::before(&[resolver.address]);
    pod.knows("orders.shop", &["10.96.0.7"]);
    let waits = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let began = Instant::now();
            (ask(&pod, "www.example.com.", RecordType::A).response_code, began.elapsed())
        });
        // Meanwhile the mesh's names are answered.
        resolver.asked();
        assert_eq!(addresses(&ask(&pod, "orders.shop.", RecordType::A)), ["10.96.0.7"]);
        waiting.join().unwrap()
    });
    assert_eq!(waits.0, ResponseCode::ServFail);
    assert!(waits.1 < Duration::from_millis(4900), "sooner than an app gives up: {:?}", waits.1);
    assert_eq!(pod.counted(Outcome::Failed), 1);
}

#[test]
fn a_resolver_that_cannot_say_is_believed_when_no_other_can() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        let first = Resolver::start(move |asked| vec![asked.refuses(code).into()]);
        let listen = format!("127.0.0.2:{}", first.address.port());
        let second = Resolver::at(&listen, |asked| vec![asked.answer("192.0.2.2").into()]);
        let pod = Pod::before(&[first.address, second.address]);
        assert_eq!(addresses(&ask(&pod, "www.example.com.", RecordType::A)), ["192.0.2.2"]);
        let pod = Pod::before(&[first.address]);
        assert_eq!(ask(&pod, "www.example.com.", RecordType::A).response_code, code);
        first.asked();
        first.asked();
        assert!(!first.was_asked(), "it is not asked the same again");
    }
    // One that was asked before, and is slower, may still know.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let slow = Resolver::start(move |asked| {
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        vec![asked.answer("192.0.2.1").into()]
    });
    let listen = format!("127.0.0.2:{}", slow.address.port());
    let unable = Resolver::at(&listen, move |asked| {
        let _ = go.send(());
        vec![asked.refuses(ResponseCode::ServFail).into()]
    });
    let pod = Pod::before(&[slow.address, unable.address]);
    assert_eq!(addresses(&ask(&pod, "www.example.com.", RecordType::A)), ["192.0.2.1"]);
    // What is not there is an answer.
    let first = Resolver::start(|asked| vec![asked.refuses(ResponseCode::NXDomain).into()]);
    let listen = format!("127.0.0.2:{}", first.address.port());
    let second = Resolver::at(&listen, |asked| vec![asked.answer("192.0.2.2").into()]);
    let pod = Pod::before(&[first.address, second.address]);
    assert_eq!(ask(&pod, "www.example.com.", RecordType::A).response_code, ResponseCode::NXDomain);
    assert!(!second.was_asked());
}

#[test]
fn other_resolvers_are_asked_as_soon_as_the_file_names_them() {
    let one = Resolver::saying("192.0.2.1");
    let listen = format!("127.0.0.2:{}", one.address.port());
    let two = Resolver::at(&listen, |asked| vec![asked.answer("192.0.2.2").into()]);
    let pod = Pod::before(&[one.address]);
    let file = pod.folder.path().join("resolv.conf");
    for (resolver, ip) in [(&one, "192.0.2.1"), (&two, "192.0.2.2"), (&one, "192.0.2.1")] {
        resolv_conf(&file, &[resolver.address]);
        assert_eq!(addresses(&ask(&pod, "www.example.com.", RecordType::A)), [ip]);
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(addresses(&ask(&pod, "www.example.com.", RecordType::A)), ["192.0.2.1"]);
}
