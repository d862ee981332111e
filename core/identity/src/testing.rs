//! A throwaway authority for tests: a root, an issuer under it (path length 0), and any certificate a test
//! needs, the wrong ones included. Behind the feature `testing`; no shipped binary has it.
//!
//! All dates are relative to [`test_now`], so tests do not depend on the wall clock; give
//! [`test_options`] to a generation and pass `test_now()` to its check.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::{
    pki_types::{CertificateDer, UnixTime},
    time_provider::TimeProvider,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{
    Bundles, Generation, GenerationOptions, OwnSvid, Peer, PeerClass, Serial, SpiffeId, TrustBundle,
    TrustDomain, chain::Chains, provider::crypto_provider,
};

/// The moment at which tests take place: 2026-11-22T00:00:00Z.
const NOW: u64 = 1_795_305_600;

/// The tests' present.
pub fn test_now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

/// A clock for TLS that stands still until it is moved.
#[derive(Debug)]
pub struct TestTime(AtomicU64);

impl Default for TestTime {
    fn default() -> Self {
        Self(AtomicU64::new(NOW))
    }
}

impl TestTime {
    /// Moves it forward.
    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    /// What it shows.
    pub fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst)))
    }
}

impl TimeProvider for TestTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}

/// Options with a clock that stands at [`test_now`].
pub fn test_options() -> GenerationOptions {
    GenerationOptions { time: Arc::new(TestTime::default()), ..GenerationOptions::default() }
}

/// How a test's leaf differs from a good one.
#[derive(Debug, Clone)]
pub struct SvidOptions {
    /// Seconds from the present to its first and last second.
    pub from: i64,
    pub until: i64,
    pub dns: Vec<String>,
    pub serial: Option<Serial>,
    /// Sign with the root, with no issuer between.
    pub by_root: bool,
    /// Leave the issuer out of the chain.
    pub without_issuer: bool,
    /// Anything else, done last.
    pub change: fn(&mut CertificateParams),
}

impl Default for SvidOptions {
    fn default() -> Self {
        Self {
            from: -60,
            until: 3600,
            dns: Vec::new(),
            serial: None,
            by_root: false,
            without_issuer: false,
            change: |_| {},
        }
    }
}

impl SvidOptions {
    /// Ends this many seconds from now (negative: it has ended).
    pub fn ends_in(self, seconds: i64) -> Self {
        Self { until: seconds, from: self.from.min(seconds - 60), ..self }
    }

    /// Begins this many seconds from now.
    pub fn begins_in(self, seconds: i64) -> Self {
        Self { from: seconds, until: seconds + 3600, ..self }
    }

    /// Centred on the wall clock instead of [`test_now`]: for tests that run real processes.
    pub fn at_wall_clock(self) -> Self {
        let shift = OffsetDateTime::now_utc().unix_timestamp() - i64::try_from(NOW).unwrap();
        Self { from: self.from + shift, until: self.until + shift, ..self }
    }

    /// Changes the certificate's parameters last.
    pub fn changed(self, change: fn(&mut CertificateParams)) -> Self {
        Self { change, ..self }
    }
}

/// The authority of one trust domain.
pub struct TestCa {
    domain: TrustDomain,
    root: CertificateDer<'static>,
    root_issuer: Issuer<'static, KeyPair>,
    issuer: CertificateDer<'static>,
    issuer_issuer: Issuer<'static, KeyPair>,
}

fn date(seconds_from_now: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(NOW).unwrap() + seconds_from_now).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn signer_params(domain: &TrustDomain, name: &str, path_length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{name} of {domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
    // Twenty years around the present, so that the wall clock is inside too.
    params.not_before = date(-315_360_000);
    params.not_after = date(315_360_000);
    params.serial_number = Some(SerialNumber::from_slice(Serial::fresh().unwrap().as_bytes()));
    params
}

impl TestCa {
    /// A fresh root and issuer for this trust domain.
    pub fn new(domain: &str) -> Self {
        let domain = TrustDomain::parse(domain).unwrap();
        let root_key = KeyPair::generate().unwrap();
        let root_params = signer_params(&domain, "root", 1);
        let root = root_params.self_signed(&root_key).unwrap().der().clone();
        let root_issuer = Issuer::new(root_params, root_key);
        let issuer_key = KeyPair::generate().unwrap();
        let mut issuer_params = signer_params(&domain, "issuer", 0);
        issuer_params.use_authority_key_identifier_extension = true;
        let issuer = issuer_params.signed_by(&issuer_key, &root_issuer).unwrap().der().clone();
        Self { domain, root, root_issuer, issuer, issuer_issuer: Issuer::new(issuer_params, issuer_key) }
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The root certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The issuer's certificate.
    pub fn issuer(&self) -> &CertificateDer<'static> {
        &self.issuer
    }

    /// The bundle of this domain.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.domain.clone(), [self.root.clone()]).unwrap()
    }

    /// A set of bundles with this domain only.
    pub fn bundles(&self) -> Arc<Bundles> {
        Arc::new(Bundles::from(self.bundle()))
    }

    /// An identity of this domain, from `ns/x/sa/y`.
    pub fn id(&self, short: &str) -> SpiffeId {
        SpiffeId::from_short(&self.domain, short).unwrap()
    }

    /// A good SVID.
    pub fn svid_short(&self, short: &str, class: PeerClass) -> OwnSvid {
        self.svid(&self.id(short), class, SvidOptions::default())
    }

    /// An SVID with a new key; the chain must still be readable as one, see [`TestCa::chain`].
    pub fn svid(&self, id: &SpiffeId, class: PeerClass, options: SvidOptions) -> OwnSvid {
        let (chain, key) = self.chain(id.as_str(), class, options);
        OwnSvid::new(chain, Zeroizing::new(key.serialize_der())).unwrap()
    }

    /// A chain and its key that need not follow any rule.
    pub fn chain(
        &self,
        id: &str,
        class: PeerClass,
        options: SvidOptions,
    ) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (self.certify(id, class, options, &key), key)
    }

    /// A chain for a key that somebody else holds, as an authority would issue it for a request.
    pub fn certify(
        &self,
        id: &str,
        class: PeerClass,
        options: SvidOptions,
        key: &impl PublicKeyData,
    ) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri(id)];
        for name in &options.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().unwrap()));
        }
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&PeerClass::EXTENSION_OID, class.policies_der())];
        params.use_authority_key_identifier_extension = true;
        params.not_before = date(options.from);
        params.not_after = date(options.until);
        let serial = options.serial.unwrap_or_else(|| Serial::fresh().unwrap());
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        (options.change)(&mut params);
        let signer = if options.by_root { &self.root_issuer } else { &self.issuer_issuer };
        let mut chain = vec![params.signed_by(key, signer).unwrap().der().clone()];
        if !options.by_root && !options.without_issuer {
            chain.push(self.issuer.clone());
        }
        chain
    }

    /// The issuer's revocation list with these serials, DER; good for a day.
    pub fn revocation_list(&self, revoked: &[Serial]) -> Vec<u8> {
        let entry = |serial: &Serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial.as_bytes()),
            revocation_time: date(0),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date(0),
            next_update: date(86_400),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer_issuer).unwrap().der().to_vec()
    }

    /// A generation with a good SVID of this identity, at [`test_now`].
    pub fn generation(&self, short: &str, class: PeerClass) -> Arc<Generation> {
        Generation::build(1, self.svid_short(short, class), self.bundles(), test_options()).unwrap()
    }

    /// A peer as a check would have yielded it.
    pub fn peer(&self, short: &str, class: PeerClass) -> Peer {
        let svid = self.svid_short(short, class);
        let algorithms = crypto_provider().signature_verification_algorithms;
        let (leaf, rest) = svid.chain().split_first().unwrap();
        let chains = Chains::new(self.bundles(), Some(self.domain.clone()), algorithms, 1);
        Peer::of_verified(chains.verify(leaf, rest, test_now()).unwrap())
    }
}
