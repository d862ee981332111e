//! Somebody who is asked about requests: Envoy's external authorisation, on the `h2` crate itself.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response};
use prost::Message as _;
use signet_model::AuthorizationProvider;
use signet_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use signet_proto::envoy::service::auth::v3::check_response::HttpResponse;
use signet_proto::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use signet_proto::envoy::r#type::v3::HttpStatus;
use signet_proto::google::rpc::Status;
use signet_proxy::authz::Provider;
use tokio::sync::mpsc;

use super::Node;
use crate::http2::peers;

/// What is done with a question.
#[derive(Clone)]
pub enum Says {
    Answer(CheckResponse),
    /// These bytes as the body of a gRPC answer, with this grpc-status (none: without trailers).
    Raw(Vec<u8>, Option<&'static str>),
    /// An HTTP status and content type.
    Http(u16, &'static str),
    Reset,
    Nothing,
}

/// What happened at it.
#[derive(Debug)]
pub enum Event {
    Asked(Box<CheckRequest>),
    /// A question went away before its answer.
    Gone,
}

pub struct Authorizer {
    pub at: SocketAddr,
    pub events: mpsc::UnboundedReceiver<Event>,
}

impl Authorizer {
    pub async fn new(says: impl Fn(&CheckRequest) -> Says + Send + Sync + 'static) -> Authorizer {
        let (told, events) = mpsc::unbounded_channel();
        let says = Arc::new(says);
        let (at, _) = peers::app(move |request, mut respond| {
            let (told, says) = (told.clone(), says.clone());
            async move {
                assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
                assert_eq!(request.headers()["te"], "trailers");
                let (body, _) = peers::drain(request.into_body()).await.unwrap();
                assert_eq!(
                    usize::try_from(u32::from_be_bytes(body[1..5].try_into().unwrap())),
                    Ok(body.len() - 5)
                );
                let asked = CheckRequest::decode(&body[5..]).unwrap();
                let answer = says(&asked);
                let _ = told.send(Event::Asked(Box::new(asked)));
                match answer {
                    Says::Answer(answer) => peers::answer_ok(&mut respond, message(&answer)),
                    Says::Raw(bytes, status) => raw(&mut respond, bytes, status),
                    Says::Http(status, kind) => {
                        let head =
                            Response::builder().status(status).header("content-type", kind).body(()).unwrap();
                        let _ = respond.send_response(head, true);
                    }
                    Says::Reset => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                    Says::Nothing => {
                        let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                        let _ = told.send(Event::Gone);
                    }
                }
            }
        })
        .await;
        Authorizer { at, events }
    }

    /// What it was asked last; nothing where it was not.
    pub fn asked(&mut self) -> Option<CheckRequest> {
        match self.events.try_recv().ok()? {
            Event::Asked(request) => Some(*request),
            Event::Gone => panic!("a question went away"),
        }
    }
}

fn raw(respond: &mut h2::server::SendResponse<Bytes>, bytes: Vec<u8>, status: Option<&'static str>) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let _ = stream.send_data(bytes.into(), status.is_none());
    if let Some(status) = status {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        let _ = stream.send_trailers(trailers);
    }
}

/// With its prefix.
pub fn message(answer: &CheckResponse) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(u32::try_from(answer.encoded_len()).unwrap().to_be_bytes());
    out.extend(answer.encode_to_vec());
    out
}

pub fn status(code: i32) -> Option<Status> {
    Some(Status { code, message: String::new() })
}

pub fn header(name: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue { key: name.into(), value: value.into(), raw_value: vec![] };
    HeaderValueOption { header: Some(header), ..Default::default() }
}

pub fn yes() -> CheckResponse {
    with(OkHttpResponse::default())
}

pub fn with(ok: OkHttpResponse) -> CheckResponse {
    CheckResponse {
        status: status(0),
        http_response: Some(HttpResponse::OkResponse(ok)),
        dynamic_metadata: None,
    }
}

pub fn no() -> CheckResponse {
    CheckResponse { status: status(7), http_response: None, dynamic_metadata: None }
}

pub fn no_with(code: i32, headers: Vec<HeaderValueOption>, body: &str) -> CheckResponse {
    let denied = DeniedHttpResponse { status: Some(HttpStatus { code }), headers, body: body.into() };
    CheckResponse {
        status: status(7),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        dynamic_metadata: None,
    }
}

/// Makes the node ask this provider of `shop`, under the name `asked.shop`.
pub fn provided(node: &Node, spec: &str) {
    let text = format!(
        r#"{{"apiVersion":"signet.mesh/v1alpha1","kind":"AuthorizationProvider","metadata":{{"namespace":"shop","name":"asked"}},"spec":{spec}}}"#
    );
    let provider = Provider::new(&AuthorizationProvider::from_json(&text).unwrap());
    node.state.update_policy(|policy| policy.with_providers([("asked.shop", Some(provider.clone()))]));
}
