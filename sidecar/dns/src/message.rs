//! Queries as they are read, and what we answer ourselves.
//!
//! Of a query that is passed on only the header and the question are read: what else it carries is between the app and its
//! resolver. One that is answered here is read whole, since an answer says what its EDNS asks for (RFC 6891).

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

/// How long an app may keep an answer of ours, in seconds: a service's addresses may change at any time.
pub(crate) const TTL: u32 = 5;
/// What fits into a datagram where nobody says more.
const PLAIN: u16 = 512;
/// What we put into one at most. It goes over the loopback interface; larger ones are lost elsewhere.
const LARGEST: u16 = 1232;

/// How an answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A query that can be answered or passed on.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    header: Header,
    pub(crate) question: Question,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Heard {
    Query(Query),
    /// It cannot be acted on, and is told so.
    Wrong(Vec<u8>),
    /// Nothing that could be answered without answering answers.
    Nothing,
}

/// Reads what came.
pub(crate) fn read(packet: &[u8]) -> Heard {
    let mut decoder = BinDecoder::new(packet);
    let Ok(header) = Header::read(&mut decoder) else { return Heard::Nothing };
    if header.message_type == MessageType::Response {
        return Heard::Nothing;
    }
    let wrong = |code| refusal(&header, None, code).map_or(Heard::Nothing, Heard::Wrong);
    if header.op_code != OpCode::Query {
        return wrong(ResponseCode::NotImp);
    }
    if header.counts.queries != 1 || header.truncation {
        return wrong(ResponseCode::FormErr);
    }
    match Question::read(&mut decoder) {
        Ok(question) => Heard::Query(Query { header, question }),
        Err(_) => wrong(ResponseCode::FormErr),
    }
}

impl Query {
    /// Whether the mesh could have an answer to it: addresses and names are of the Internet's class.
    pub(crate) fn is_of_the_internet(&self) -> bool {
        self.question.query_class() == DNSClass::IN
    }

    /// The id under which the app asked.
    pub(crate) fn id(&self) -> u16 {
        self.header.id
    }

    /// That it cannot be answered.
    pub(crate) fn refused(&self, code: ResponseCode) -> Option<Vec<u8>> {
        refusal(&self.header, Some(&self.question), code)
    }

    /// The answer with these addresses of the name; `packet` is the query as it came. A name that exists has no answer to
    /// what it does not have, and no error: NXDOMAIN for one type would be believed of all (RFC 8020).
    pub(crate) fn answer(
        &self,
        packet: &[u8],
        addresses: &[IpAddr],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let Ok(Message { edns: asked, .. }) = Message::from_vec(packet) else {
            return self.refused(ResponseCode::FormErr);
        };
        let mut answer = begin(&self.header, Some(&self.question), ResponseCode::NoError);
        answer.metadata.authoritative = true;
        let mut largest = PLAIN;
        if let Some(asked) = &asked {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST);
            edns.set_version(0);
            if asked.version() != 0 {
                answer.metadata.response_code = ResponseCode::BADVERS;
                answer.set_edns(edns);
                return written(&answer);
            }
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            answer.set_edns(edns);
            largest = asked.max_payload().clamp(PLAIN, LARGEST);
        }
        let wanted = self.question.query_type();
        let records = addresses.iter().filter_map(|address| match address {
            IpAddr::V4(ip) if matches!(wanted, RecordType::A | RecordType::ANY) => Some(RData::A(A(*ip))),
            IpAddr::V6(ip) if matches!(wanted, RecordType::AAAA | RecordType::ANY) => {
                Some(RData::AAAA(AAAA(*ip)))
            }
            _ => None,
        });
        // The name as it was asked for, letter by letter: some tell forged answers by that.
        let name = self.question.name();
        answer.add_answers(records.map(|data| Record::from_rdata(name.clone(), TTL, data)));
        let whole = written(&answer)?;
        if transport == Transport::Udp && whole.len() > usize::from(largest) {
            return written(&answer.truncate());
        }
        Some(whole)
    }

    /// Whether this is an answer to it, asked under this id: from whom it comes the socket says.
    pub(crate) fn is_answered_by(&self, packet: &[u8], id: u16) -> bool {
        let mut decoder = BinDecoder::new(packet);
        let Ok(header) = Header::read(&mut decoder) else { return false };
        header.id == id
            && header.message_type == MessageType::Response
            && header.op_code == OpCode::Query
            && header.counts.queries == 1
            && Question::read(&mut decoder).is_ok_and(|question| {
                question.name() == self.question.name()
                    && question.query_type() == self.question.query_type()
                    && question.query_class() == self.question.query_class()
            })
    }
}

/// Whether another resolver may know better: this one says that it cannot, not what is.
pub(crate) fn is_unable(packet: &[u8]) -> bool {
    let header = Header::read(&mut BinDecoder::new(packet));
    header.is_ok_and(|header| {
        matches!(header.response_code, ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused)
    })
}

/// The same message under another id.
pub(crate) fn under(packet: &[u8], id: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if let Some(place) = packet.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    packet
}

fn begin(header: &Header, question: Option<&Question>, code: ResponseCode) -> Message {
    let mut answer = Message::response(header.id, header.op_code);
    answer.metadata.recursion_desired = header.recursion_desired;
    answer.metadata.checking_disabled = header.checking_disabled;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.add_queries(question.cloned());
    answer
}

fn refusal(header: &Header, question: Option<&Question>, code: ResponseCode) -> Option<Vec<u8>> {
    written(&begin(header, question, code))
}

fn written(message: &Message) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(PLAIN));
    message.emit(&mut BinEncoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests;
