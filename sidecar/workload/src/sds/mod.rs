//! Envoy's secret discovery (SDS v3), as SPIRE serves it, so that an Envoy that was set up for one finds the other.
//!
//! State of the world, incremental and unary. `names` resolves each name on its own; `secret` writes what it found;
//! `world` and `delta` are the two protocols as pure state machines, of which this file drives the streams.

mod delta;
mod names;
mod secret;
mod world;

use std::sync::Arc;

use signet_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use signet_proto::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use signet_proto::google::rpc;
use tonic::{Request, Response, Status, Streaming};

use crate::api::outcome;
use crate::feed::{self, Connection, Feed, Gone, Out};
use crate::metrics::Metrics;
use crate::provider::{Provider, Served, State};
use delta::Delta;
use world::World;

/// What this service gives, and nothing else.
pub(crate) const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The service.
#[derive(Clone)]
pub(crate) struct Sds {
    provider: Arc<dyn Provider>,
    metrics: Metrics,
}

impl Sds {
    pub(crate) fn new(provider: Arc<dyn Provider>, metrics: Metrics) -> Self {
        Self { provider, metrics }
    }
}

/// One of the two streaming protocols: what comes in, what goes out, and no I/O.
trait Protocol: Default + Send + 'static {
    type Asked: Send + 'static;
    type Told: Send + 'static;

    /// Takes a request. An error ends the stream.
    fn asked(&mut self, request: Self::Asked) -> Result<(), Status>;

    /// What is to be told now, if anything.
    fn tell(&mut self, served: &Served) -> Result<Option<Self::Told>, Status>;
}

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = Out<DiscoveryResponse>;
    type DeltaSecretsStream = Out<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        self.begin::<World>("StreamSecrets", request)
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        self.begin::<Delta>("DeltaSecrets", request)
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let answer = async {
            let connection = Connection::of(&request)?;
            let served = feed::now(&*self.provider, &connection).await?;
            let mut world = World::default();
            world.asked(request.into_inner())?;
            world.tell(&served)?.ok_or_else(|| Status::internal("nothing to tell to a first request"))
        };
        let answer = answer.await;
        self.metrics.call("FetchSecrets", outcome(&answer));
        answer.map(Response::new)
    }
}

impl Sds {
    fn begin<P: Protocol>(
        &self,
        call: &'static str,
        request: Request<Streaming<P::Asked>>,
    ) -> Result<Response<Out<P::Told>>, Status> {
        let connection = Connection::of(&request);
        self.metrics.call(call, outcome(&connection));
        let connection = connection?;
        let (state, first) = (self.provider.serve(&connection.caller), connection.first);
        let (feed, out) = Feed::new(connection);
        tokio::spawn(async move {
            if let Err(Some(status)) = follow::<P>(&feed, request.into_inner(), state, first).await {
                feed.end(status).await;
            }
        });
        Ok(Response::new(out))
    }
}

/// One stream until its end. An error without a status: the reader is gone.
async fn follow<P: Protocol>(
    feed: &Feed<P::Told>,
    mut asking: Streaming<P::Asked>,
    mut state: tokio::sync::watch::Receiver<State>,
    first: std::time::Duration,
) -> Result<(), Option<Status>> {
    let mut protocol = P::default();
    let mut begun = false;
    let mut told = false;
    let deadline = tokio::time::sleep(first);
    tokio::pin!(deadline);
    loop {
        if begun {
            let now = state.borrow_and_update().clone();
            match now {
                State::Refused(why) => return Err(Some(feed::no_identity(why))),
                State::Waiting => {}
                State::Served(served) => {
                    let message = protocol.tell(&served)?;
                    told = true;
                    if let Some(message) = message {
                        feed.send(message).await.map_err(|Gone| None)?;
                        continue;
                    }
                }
            }
        }
        tokio::select! {
            asked = asking.message() => match asked? {
                Some(request) => {
                    protocol.asked(request)?;
                    begun = true;
                }
                None => return Ok(()),
            },
            changed = state.changed(), if begun => if changed.is_err() {
                return Err(Some(Status::unavailable("ending; connect again")));
            },
            () = feed.closed() => return Err(None),
            () = &mut deadline, if !told => return Err(Some(feed::not_yet())),
        }
    }
}

/// Only secrets are here. The singleton form of the protocol may leave the type out.
fn check_type(type_url: &str) -> Result<(), Status> {
    match type_url {
        "" | TYPE_URL => Ok(()),
        other => {
            let other: String = other.chars().take(200).collect();
            Err(Status::invalid_argument(format!("expected the type {TYPE_URL}, got {other:?}")))
        }
    }
}

/// What a client said of a response that it does not take.
fn note_nack(error: &rpc::Status, nonce: &str) {
    let message: String = error.message.chars().filter(|c| !c.is_control()).take(300).collect();
    tracing::warn!(
        target: "signet::workload", code = error.code, message, nonce,
        "a client does not take a secret; it is told again when the secret changes"
    );
}

/// A new nonce: random, so that a client's answer to another stream fits none of this one's.
fn nonce() -> String {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = [0_u8; 8];
    // Without randomness a nonce is still one of this stream: only one response is under way at a time.
    let _ = SystemRandom::new().fill(&mut bytes);
    hex(&bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
