use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::opt::EdnsOption;
use proptest::prelude::*;

use super::*;

fn asked(name: &str, kind: RecordType, edns: Option<Edns>) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(edns) = edns {
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn query(packet: &[u8]) -> Query {
    match read(packet) {
        Heard::Query(query) => query,
        other => panic!("{other:?}"),
    }
}

fn answered(packet: &[u8], addresses: &[&str], transport: Transport) -> Message {
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Message::from_vec(&query(packet).answer(packet, &addresses, transport).unwrap()).unwrap()
}

fn code(heard: Heard) -> ResponseCode {
    let Heard::Wrong(answer) = heard else { panic!("{heard:?}") };
    Message::from_vec(&answer).unwrap().response_code
}

#[test]
fn an_answer_has_the_question_the_id_and_the_letters_that_were_asked() {
    let packet = asked("oRdErS.sHoP.", RecordType::A, None);
    let answer = answered(&packet, &["10.96.0.7", "fd96::7"], Transport::Udp);
    assert_eq!((answer.id, answer.response_code), (0x1234, ResponseCode::NoError));
    assert!(answer.recursion_desired && answer.recursion_available && answer.authoritative);
    assert!(!answer.authentic_data && !answer.truncation && answer.edns.is_none());
    assert_eq!(answer.queries[0].name().to_ascii(), "oRdErS.sHoP.");
    let [record] = &answer.answers[..] else { panic!("{:?}", answer.answers) };
    assert_eq!((record.name.to_ascii().as_str(), record.ttl), ("oRdErS.sHoP.", TTL));
    assert_eq!(record.data, RData::A(A("10.96.0.7".parse().unwrap())));
}

#[test]
fn a_name_that_has_only_the_other_family_has_no_data_and_is_not_unknown() {
    for (kind, addresses, count) in [
        (RecordType::A, &["fd96::7"][..], 0),
        (RecordType::AAAA, &["10.96.0.7"], 0),
        (RecordType::AAAA, &["10.96.0.7", "fd96::7", "fd96::8"], 2),
        (RecordType::ANY, &["10.96.0.7", "fd96::7"], 2),
        (RecordType::HTTPS, &["10.96.0.7"], 0),
        (RecordType::MX, &["10.96.0.7"], 0),
        (RecordType::from(65_280), &["10.96.0.7"], 0),
    ] {
        let answer = answered(&asked("orders.shop.", kind, None), addresses, Transport::Udp);
        assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, count), "{kind}");
    }
}

#[test]
fn what_does_not_fit_is_cut_as_the_asker_says_and_never_over_tcp() {
    let many: Vec<_> = (0..200).map(|number| format!("10.96.0.{number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let edns = |payload| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns.set_dnssec_ok(true);
        Some(edns)
    };
    for (asked_for, addresses, fits) in [
        (None, 20, true),
        (None, 40, false),
        (edns(0), 40, false),
        (edns(1232), 40, true),
        (edns(65_535), 40, true),
        (edns(65_535), 200, false),
    ] {
        let packet = asked("orders.shop.", RecordType::A, asked_for.clone());
        let answer = answered(&packet, &many[..addresses], Transport::Udp);
        assert_eq!(answer.truncation, !fits, "{asked_for:?} {addresses}");
        assert_eq!(answer.answers.len(), if fits { addresses } else { 0 });
        assert_eq!(answer.queries.len(), 1);
        assert_eq!(answer.edns.is_some(), asked_for.is_some(), "EDNS only to who speaks it");
        assert!(answer.edns.is_none_or(|edns| edns.flags().dnssec_ok && edns.version() == 0));
        let answer = answered(&packet, &many, Transport::Tcp);
        assert_eq!((answer.truncation, answer.answers.len()), (false, 200));
    }
}

#[test]
fn an_edns_of_another_version_is_told_ours() {
    let mut edns = Edns::new();
    edns.set_version(1);
    let answer = answered(&asked("orders.shop.", RecordType::A, Some(edns)), &["10.96.0.7"], Transport::Udp);
    assert_eq!(u16::from(answer.response_code), 16);
    assert!(answer.answers.is_empty() && answer.edns.is_some_and(|edns| edns.version() == 0));
}

#[test]
fn what_is_no_query_is_told_so_or_nothing() {
    let good = asked("orders.shop.", RecordType::A, None);
    for short in 0..12 {
        assert!(matches!(read(&good[..short]), Heard::Nothing), "{short} bytes");
    }
    let with = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    assert!(matches!(read(&with(2, 0x81)), Heard::Nothing), "an answer is never answered");
    assert_eq!(code(read(&with(2, 0x29))), ResponseCode::NotImp, "an update");
    assert_eq!(code(read(&with(2, 0x03))), ResponseCode::FormErr, "a cut query");
    assert_eq!(code(read(&with(5, 0))), ResponseCode::FormErr, "no question");
    assert_eq!(code(read(&with(5, 2))), ResponseCode::FormErr, "two questions");
    assert_eq!(code(read(&good[..20])), ResponseCode::FormErr, "half a name");
    assert_eq!(code(read(&good[..good.len() - 1])), ResponseCode::FormErr, "half a class");
    // A name that points at itself, and one that points past the end.
    for pointer in [[0xc0, 0x0c], [0xc0, 0xff]] {
        let mut packet = good[..12].to_vec();
        packet.extend(pointer);
        packet.extend([0, 1, 0, 1]);
        assert_eq!(code(read(&packet)), ResponseCode::FormErr, "{pointer:?}");
    }
    // A label longer than any, and a name longer than any.
    let mut packet = good[..12].to_vec();
    packet.push(64);
    packet.extend([b'a'; 64]);
    packet.extend([0, 0, 1, 0, 1]);
    assert_eq!(code(read(&packet)), ResponseCode::FormErr);
    let mut packet = good[..12].to_vec();
    for _ in 0..5 {
        packet.push(63);
        packet.extend([b'a'; 63]);
    }
    packet.extend([0, 0, 1, 0, 1]);
    assert_eq!(code(read(&packet)), ResponseCode::FormErr);
    // One that is answered here is read to its end.
    let mut packet = good.clone();
    packet[11] = 1;
    let refused = query(&packet).answer(&packet, &["10.96.0.7".parse().unwrap()], Transport::Udp).unwrap();
    assert_eq!(Message::from_vec(&refused).unwrap().response_code, ResponseCode::FormErr);
}

#[test]
fn an_answer_fits_by_id_and_question_and_by_nothing_less() {
    let packet = asked("Api.example.com.", RecordType::A, None);
    let query = query(&packet);
    let answer = |id: u16, name: &str, kind, change: fn(&mut Message)| {
        let mut message = Message::response(id, OpCode::Query);
        message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
        change(&mut message);
        message.to_vec().unwrap()
    };
    let fine = |_: &mut Message| {};
    assert!(query.is_answered_by(&answer(7, "Api.example.com.", RecordType::A, fine), 7));
    // Some resolvers change the letters; whoever asked sees to them.
    assert!(query.is_answered_by(&answer(7, "api.EXAMPLE.com.", RecordType::A, fine), 7));
    for (why, wrong) in [
        ("the id", answer(8, "Api.example.com.", RecordType::A, fine)),
        ("the name", answer(7, "Api.example.org.", RecordType::A, fine)),
        ("the type", answer(7, "Api.example.com.", RecordType::AAAA, fine)),
        (
            "the class",
            answer(7, "Api.example.com.", RecordType::A, |message| {
                message.queries[0].set_query_class(DNSClass::CH);
            }),
        ),
        ("no question", answer(7, "Api.example.com.", RecordType::A, |message| message.queries.clear())),
        (
            "two questions",
            answer(7, "Api.example.com.", RecordType::A, |message| {
                message.queries.push(message.queries[0].clone());
            }),
        ),
        (
            "a query",
            answer(7, "Api.example.com.", RecordType::A, |message| {
                message.metadata.message_type = MessageType::Query;
            }),
        ),
        ("nothing", Vec::new()),
    ] {
        assert!(!query.is_answered_by(&wrong, 7), "{why}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_fail(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
        check(&packet);
    }

    #[test]
    fn no_change_to_a_query_makes_it_fail(
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        cut in any::<usize>(),
        payload in any::<u16>(),
        name in "[a-zA-Z0-9-]{1,20}(\\.[a-z]{1,10}){0,4}\\.",
    ) {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns.options_mut().insert(EdnsOption::Unknown(10, vec![1, 2, 3, 4]));
        let Ok(_) = Name::from_ascii(&name) else { return Ok(()) };
        let mut packet = asked(&name, RecordType::A, Some(edns));
        for (at, byte) in changes {
            let at = at % packet.len();
            packet[at] = byte;
        }
        packet.truncate(cut % (packet.len() + 1));
        check(&packet);
    }
}

/// Whatever comes, what is said to it is an answer under its id, and as large as it may be.
fn check(packet: &[u8]) {
    let addresses: Vec<IpAddr> = (0..100u8).map(|number| IpAddr::from([10, 0, 0, number])).collect();
    let said = match read(packet) {
        Heard::Nothing => return,
        Heard::Wrong(said) => said,
        Heard::Query(query) => query.answer(packet, &addresses, Transport::Udp).expect("an answer"),
    };
    assert_eq!(said[..2], packet[..2]);
    assert!(said[2] & 0x80 != 0 && said.len() <= usize::from(LARGEST));
}
