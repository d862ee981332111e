//! A generation: one set of roots, one own SVID, and every TLS object that may be shared under them.
//!
//! When a root is added or removed, or our SVID is renewed, a new generation is built and the old one is
//! dropped when its last connection goes. Verifiers, certificate resolvers, ticket keys and session stores
//! are made fresh for each and shared with none, so a ticket of one generation means nothing to the next.
//! Within a generation each config has its own ticket key and its own session store: a session belongs to
//! one application protocol too. News of revocation ([`Generation::learn`]) forget them as well.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::WebPkiSupportedAlgorithms,
    pki_types::CertificateDer,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::{DefaultTimeProvider, TimeProvider},
    version::TLS13,
};

use crate::{
    alpn::Alpn,
    bundle::{Bundles, TrustBundle},
    chain::{CacheCounts, Chains, Verified},
    class::ClassSet,
    dates::{seconds, unix_time},
    failure::HandshakeFailure,
    key_id::KeyId,
    own::OwnSvid,
    provider::crypto_provider,
    revocation::RevocationSet,
    server_name::server_name,
    sessions::Sessions,
    spiffe_id::SpiffeId,
    svid::MAX_CHAIN,
    told::{Tickets, Told},
    verified::Verifying,
    verifier::{ClientVerifier, ServerVerifier},
};

/// Why a generation cannot be built.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GenerationError {
    #[error("our own SVID does not verify against the trust bundle of its own domain: {0}")]
    OwnSvid(HandshakeFailure),
    #[error("building the TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
}

/// What a generation may be told.
#[derive(Clone)]
pub struct GenerationOptions {
    /// The clock of TLS. Tests replace it.
    pub time: Arc<dyn TimeProvider>,
    /// How many verified chains are remembered (about 1 KB each).
    pub verified_chains: usize,
    /// For how many servers each client config keeps sessions (up to four tickets of about 1.5 KB each).
    pub session_names: usize,
    /// Whether sessions are resumed at all. Off, no ticket is given or kept, and each connection costs a full
    /// handshake.
    pub resumption: bool,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self {
            time: Arc::new(DefaultTimeProvider),
            verified_chains: 2048,
            session_names: 256,
            resumption: true,
        }
    }
}

impl fmt::Debug for GenerationOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerationOptions")
            .field("verified_chains", &self.verified_chains)
            .field("session_names", &self.session_names)
            .field("resumption", &self.resumption)
            .finish_non_exhaustive()
    }
}

/// See the module's story. Built once, shared by `Arc`, never changed.
pub struct Generation {
    number: u64,
    own: OwnSvid,
    own_verified: Arc<Verified>,
    bundles: Arc<Bundles>,
    chains: Arc<Chains>,
    told: Arc<Told>,
    servers: [Arc<ServerConfig>; 3],
    any_server: Arc<ServerConfig>,
    clients: [Client; 3],
    control_server: Arc<ServerConfig>,
    control_client: Client,
    bootstrap_server: Arc<ServerConfig>,
    resumption: bool,
}

struct Client {
    config: Arc<ClientConfig>,
    sessions: Arc<Sessions>,
}

impl Generation {
    /// Builds every config of this generation. Our own SVID must verify against the bundle of its own trust
    /// domain; whether it is still within its dates is not asked, since an expired one may be all there is.
    pub fn build(
        number: u64,
        own: OwnSvid,
        bundles: Arc<Bundles>,
        options: GenerationOptions,
    ) -> Result<Arc<Self>, GenerationError> {
        let algorithms = crypto_provider().signature_verification_algorithms;
        let home = Some(own.svid().id.trust_domain().clone());
        let chains = Arc::new(Chains::new(bundles.clone(), home, algorithms, options.verified_chains));
        let own_verified = verify_own(&own, &chains, &options)?;
        let told = Arc::<Told>::default();
        let maker = Maker { own: &own, chains: &chains, told: &told, options: &options, algorithms };
        let server = |alpn: Alpn| maker.server(alpn.accepted_by_server(), ClassSet::DATA_PLANE);
        let client = |alpn: Alpn| maker.client(alpn.offered_by_client(), ClassSet::DATA_PLANE);
        let h2 = || vec![b"h2".to_vec()];
        let bootstrap_server = maker.bootstrap_server(&bundles, &own_verified)?;
        let control_server = maker.server(h2(), ClassSet::MESH_CLIENTS)?;
        let control_client = maker.client(h2(), ClassSet::CONTROL_PLANE)?;
        let servers = [server(Alpn::H2)?, server(Alpn::Http1)?, server(Alpn::Tcp)?];
        let any = Alpn::ALL.iter().flat_map(|alpn| alpn.accepted_by_server()).collect();
        let any_server = maker.server(any, ClassSet::DATA_PLANE)?;
        let clients = [client(Alpn::H2)?, client(Alpn::Http1)?, client(Alpn::Tcp)?];
        Ok(Arc::new(Self {
            number,
            own_verified,
            bundles,
            servers,
            any_server,
            clients,
            control_server,
            control_client,
            bootstrap_server,
            resumption: options.resumption,
            told,
            chains,
            own,
        }))
    }

    /// Its number; a later generation of one process has a larger one.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The SVID that every config of this generation presents.
    pub fn own(&self) -> &OwnSvid {
        &self.own
    }

    /// The roots that it verifies against.
    pub fn bundles(&self) -> &Arc<Bundles> {
        &self.bundles
    }

    /// SHA-256 of the root that vouches for our own SVID.
    pub fn own_root(&self) -> KeyId {
        self.own_verified.root
    }

    /// For an inbound port of this protocol: mutual TLS, Signet's ALPN before the plain one.
    pub fn server_config(&self, alpn: Alpn) -> Arc<ServerConfig> {
        let [h2, http1, tcp] = &self.servers;
        match alpn {
            Alpn::H2 => h2.clone(),
            Alpn::Http1 => http1.clone(),
            Alpn::Tcp => tcp.clone(),
        }
    }

    /// For an inbound port that does not say what it speaks: mutual TLS, whichever protocol the client names.
    pub fn server_config_of_any(&self) -> Arc<ServerConfig> {
        self.any_server.clone()
    }

    /// For connections of this protocol to any identity: the identity comes in the server name, see
    /// [`server_name`]. Sessions are kept per identity.
    pub fn client_config(&self, alpn: Alpn) -> Arc<ClientConfig> {
        self.client(alpn).config.clone()
    }

    /// The same with a session store of its own, for a pool that keeps one per endpoint: replicas of one
    /// service share an identity but not their ticket keys, so a ticket of one is wasted on another.
    pub fn client_config_for_endpoint(&self, alpn: Alpn) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.client(alpn).config);
        if self.resumption {
            config.resumption = Resumption::store(Arc::new(Sessions::new(1, self.told.clone())));
        }
        Arc::new(config)
    }

    /// For the control plane's mesh listener: mutual TLS, ALPN h2.
    pub fn control_plane_server_config(&self) -> Arc<ServerConfig> {
        self.control_server.clone()
    }

    /// For dialling the control plane's mesh listener: ALPN h2; the server name says which identity, and its
    /// class must be `control-plane`.
    pub fn control_plane_client_config(&self) -> Arc<ClientConfig> {
        self.control_client.config.clone()
    }

    /// For the control plane's bootstrap listener: no client certificate, no resumption, ALPN h2, and the
    /// roots at the end of the chain, so that a joining client can compare them with its join bundle.
    pub fn bootstrap_server_config(&self) -> Arc<ServerConfig> {
        self.bootstrap_server.clone()
    }

    /// Takes news of revocation. From now on the verifiers refuse whom it names, and no ticket or session from before is
    /// taken up, whoever's it is: that peer shows its certificate anew. Older news than are known are ignored, and what
    /// is known already costs nothing. Open connections are not its business.
    pub fn learn(&self, revoked: &Arc<RevocationSet>) {
        self.told.learn(revoked);
    }

    /// Drops every session kept for this identity: after a resumed connection failed its check.
    pub fn forget_sessions(&self, id: &SpiffeId) {
        let name = server_name(id);
        for client in self.clients.iter().chain(std::iter::once(&self.control_client)) {
            client.sessions.forget(&name);
        }
    }

    /// How often a peer's chain was known already.
    pub fn cache_counts(&self) -> CacheCounts {
        self.chains.counts()
    }

    pub(crate) fn chains(&self) -> &Chains {
        &self.chains
    }

    fn client(&self, alpn: Alpn) -> &Client {
        let [h2, http1, tcp] = &self.clients;
        match alpn {
            Alpn::H2 => h2,
            Alpn::Http1 => http1,
            Alpn::Tcp => tcp,
        }
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

/// Verifies our own chain as a peer would, at the nearest moment of its validity.
fn verify_own(
    own: &OwnSvid,
    chains: &Chains,
    options: &GenerationOptions,
) -> Result<Arc<Verified>, GenerationError> {
    let svid = own.svid();
    let now = options.time.current_time().map_or(svid.not_before, seconds);
    let within = now.max(svid.not_before).min(svid.not_after);
    let Some((leaf, rest)) = own.chain().split_first() else {
        return Err(GenerationError::OwnSvid(HandshakeFailure::NoCertificate));
    };
    chains.verify(leaf, rest, unix_time(within)).map_err(GenerationError::OwnSvid)
}

/// What the configs of one generation are made from.
struct Maker<'a> {
    own: &'a OwnSvid,
    chains: &'a Arc<Chains>,
    told: &'a Arc<Told>,
    options: &'a GenerationOptions,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Maker<'_> {
    fn server(&self, alpn: Vec<Vec<u8>>, classes: ClassSet) -> Result<Arc<ServerConfig>, rustls::Error> {
        let (chains, told) = (self.chains.clone(), self.told.clone());
        let judge = ClientVerifier { chains, classes, told };
        let verifier = Verifying { judge, algorithms: self.algorithms };
        let mut config = ServerConfig::builder_with_details(crypto_provider(), self.options.time.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.own.certified().clone())));
        config.alpn_protocols = alpn;
        settle(&mut config);
        if self.options.resumption {
            config.ticketer = Arc::new(Tickets::new(self.told.clone())?);
        } else {
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }

    fn bootstrap_server(
        &self,
        bundles: &Bundles,
        own: &Verified,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut certified = CertifiedKey::clone(self.own.certified());
        let bundle = bundles.get(own.svid.id.trust_domain());
        // The own one first. Whoever was handed one before it, in a join bundle made before a rotation, finds that too
        // as long as the chain leads there, by its cross certificates; and as many as are read.
        let roots = bundle.into_iter().flat_map(|bundle| bundle.roots());
        let (mut roots, others): (Vec<_>, Vec<_>) =
            roots.cloned().partition(|root| KeyId::of(root) == own.root);
        roots.extend(others.into_iter().filter(|root| self.leads_to(&own.svid.id, root)));
        let room = MAX_CHAIN.saturating_sub(certified.cert.len()).max(1);
        certified.cert.extend(roots.into_iter().take(room));
        let mut config = ServerConfig::builder_with_details(crypto_provider(), self.options.time.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        settle(&mut config);
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Whether somebody who knows this root alone believes our chain.
    fn leads_to(&self, own: &SpiffeId, root: &CertificateDer<'_>) -> bool {
        let domain = own.trust_domain();
        TrustBundle::new(domain.clone(), [CertificateDer::from(root.as_ref())]).is_ok_and(|alone| {
            let home = Some(domain.clone());
            let chains = Chains::new(Arc::new(Bundles::from(alone)), home, self.algorithms, 1);
            verify_own(self.own, &chains, self.options).is_ok()
        })
    }

    fn client(&self, alpn: Vec<Vec<u8>>, classes: ClassSet) -> Result<Client, rustls::Error> {
        let (chains, told) = (self.chains.clone(), self.told.clone());
        let judge = ServerVerifier { chains, classes, told };
        let verifier = Verifying { judge, algorithms: self.algorithms };
        let sessions = Arc::new(Sessions::new(self.options.session_names, self.told.clone()));
        let mut config = ClientConfig::builder_with_details(crypto_provider(), self.options.time.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.own.certified().clone())));
        config.alpn_protocols = alpn;
        config.enable_early_data = false;
        config.resumption = match self.options.resumption {
            true => Resumption::store(sessions.clone()),
            false => Resumption::disabled(),
        };
        Ok(Client { config: Arc::new(config), sessions })
    }
}

/// What every server of ours has in common.
fn settle(config: &mut ServerConfig) {
    config.ignore_client_order = true;
    config.max_early_data_size = 0;
    // Tickets are sealed and carried by the client; nothing is kept here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
}
