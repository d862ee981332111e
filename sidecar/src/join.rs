//! The join bundle: what an operator hands to a host that is nobody yet.
//!
//! It says where the authority is, how to recognise it before we have a certificate (the SHA-256 of its
//! root, so that nothing is trusted on first use), and who we shall be; and it carries the one-time
//! token that proves it. The file must be ours alone. The token is used once, in this process only, and
//! is wiped with the bundle.

use std::path::Path;

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use signet_identity::{KeyId, SpiffeId, TrustDomain};

use crate::config::{self, ConfigError, IdentityConfig};
use crate::pod::Pod;

/// A bundle that can be acted on.
pub struct JoinBundle {
    /// `host:port` of the listener that attests.
    pub bootstrap_address: String,
    /// `host:port` of the listener for everything else.
    pub mesh_address: String,
    /// The trust domain that we join.
    pub trust_domain: TrustDomain,
    /// Who answers at both addresses.
    pub control_plane: SpiffeId,
    /// SHA-256 of the root's DER.
    pub root_sha256: KeyId,
    /// Who the token says that we are.
    pub spiffe_id: SpiffeId,
    /// The one-time token.
    pub token: Zeroizing<String>,
}

impl std::fmt::Debug for JoinBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinBundle")
            .field("bootstrap_address", &self.bootstrap_address)
            .field("mesh_address", &self.mesh_address)
            .field("trust_domain", &self.trust_domain)
            .field("spiffe_id", &self.spiffe_id)
            .finish_non_exhaustive()
    }
}

/// How this process comes into the mesh.
#[derive(Debug)]
pub enum Entry {
    /// With an operator's bundle: once, then from one certificate to the next.
    Bundle(JoinBundle),
    /// As a pod: by its token, each time.
    Pod(Pod),
    /// As the successor of a process that joined with a bundle.
    Successor(Place),
}

/// Where a successor goes on.
#[derive(Debug, Clone)]
pub struct Place {
    /// Who it is.
    pub spiffe_id: SpiffeId,
    /// Who answers.
    pub control_plane: SpiffeId,
    /// `host:port` of the listener for everything but the beginning.
    pub mesh_address: String,
}

impl Entry {
    /// What the configuration says, its files read where they are needed to start.
    pub fn load(config: &IdentityConfig) -> Result<Self, ConfigError> {
        match (&config.join_bundle, &config.kubernetes) {
            (Some(file), _) => JoinBundle::load(file).map(Entry::Bundle),
            (None, Some(pod)) => Ok(Entry::Pod(Pod::new(pod))),
            (None, None) => Err(ConfigError::Field {
                file: "sidecar.yaml".into(),
                field: "identity".to_owned(),
                expected: "joinBundle or kubernetes".to_owned(),
                got: "neither".to_owned(),
            }),
        }
    }

    /// The trust domain that we join.
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            Entry::Bundle(bundle) => &bundle.trust_domain,
            Entry::Pod(pod) => &pod.trust_domain,
            Entry::Successor(place) => place.spiffe_id.trust_domain(),
        }
    }

    /// Who answers.
    pub fn control_plane(&self) -> &SpiffeId {
        match self {
            Entry::Bundle(bundle) => &bundle.control_plane,
            Entry::Pod(pod) => &pod.control_plane,
            Entry::Successor(place) => &place.control_plane,
        }
    }

    /// `host:port` of the listener for everything but the beginning.
    pub fn mesh_address(&self) -> &str {
        match self {
            Entry::Bundle(bundle) => &bundle.mesh_address,
            Entry::Pod(pod) => &pod.mesh_address,
            Entry::Successor(place) => &place.mesh_address,
        }
    }
}

/// The file as it is written by `signet join`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    bootstrap_address: String,
    mesh_address: String,
    trust_domain: String,
    root_sha256: String,
    #[serde(deserialize_with = "secret")]
    token: Zeroizing<String>,
    spiffe_id: String,
    control_plane: String,
    /// For people; the authority decides.
    #[serde(default, rename = "expiresAt")]
    _expires_at: Option<serde_json::Value>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

impl JoinBundle {
    /// Reads the file, which must be of mode 0600 and ours.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let secret = signet_daemon::read_secret_file(file)?;
        Self::parse(file, secret.expose())
    }

    fn parse(file: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        let raw: File = config::from_json(file, bytes)?;
        let wrong = |field: &str, expected: &str, got: String| ConfigError::Field {
            file: file.to_owned(),
            field: field.to_owned(),
            expected: expected.to_owned(),
            got,
        };
        for (field, address) in
            [("bootstrapAddress", &raw.bootstrap_address), ("meshAddress", &raw.mesh_address)]
        {
            if !is_host_port(address) {
                return Err(wrong(field, "`host:port`", format!("{address:?}")));
            }
        }
        let trust_domain = TrustDomain::parse(&raw.trust_domain).map_err(|error| {
            wrong("trustDomain", &format!("a trust domain ({error})"), format!("{:?}", raw.trust_domain))
        })?;
        let spiffe_id = SpiffeId::parse(&raw.spiffe_id).map_err(|error| {
            wrong("spiffeId", &format!("a SPIFFE ID ({error})"), format!("{:?}", raw.spiffe_id))
        })?;
        if !spiffe_id.is_in(&trust_domain) {
            return Err(wrong("spiffeId", &format!("an identity of {trust_domain}"), spiffe_id.to_string()));
        }
        let control_plane = SpiffeId::parse(&raw.control_plane)
            .ok()
            .filter(|id| id.is_in(&trust_domain))
            .ok_or_else(|| {
                let expected = format!("an identity of {trust_domain}");
                wrong("controlPlane", &expected, format!("{:?}", raw.control_plane))
            })?;
        let root_sha256 = from_hex(&raw.root_sha256)
            .ok_or_else(|| wrong("rootSha256", "64 hexadecimal digits", format!("{:?}", raw.root_sha256)))?;
        if raw.token.is_empty() {
            return Err(wrong("token", "a one-time join token", "an empty string".to_owned()));
        }
        Ok(Self {
            bootstrap_address: raw.bootstrap_address,
            mesh_address: raw.mesh_address,
            trust_domain,
            control_plane,
            root_sha256: KeyId::from_bytes(root_sha256),
            spiffe_id,
            token: raw.token,
        })
    }
}

/// Whether it can be dialled: a name or an address, and a port.
pub(crate) fn is_host_port(address: &str) -> bool {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// 64 hexadecimal digits, colons between bytes allowed (as `openssl x509 -fingerprint` prints them).
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| (pair[0] << 4) | pair[1]).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"bootstrapAddress": "127.0.0.1:7000", "meshAddress": "mesh.local:7001",
        "trustDomain": "demo.signet", "rootSha256": "ROOT", "token": "s3cret",
        "spiffeId": "spiffe://demo.signet/ns/shop/sa/web",
        "controlPlane": "spiffe://demo.signet/ns/signet-system/sa/signet-control-plane"}"#;

    fn parse(text: &str) -> Result<JoinBundle, String> {
        let text = text.replace("ROOT", &"ab".repeat(32));
        JoinBundle::parse(Path::new("join.json"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bundle_is_read_and_never_prints_its_token() {
        let bundle = parse(GOOD).unwrap();
        assert_eq!(bundle.root_sha256.as_bytes(), &[0xab; 32]);
        assert_eq!(bundle.spiffe_id.to_string(), "spiffe://demo.signet/ns/shop/sa/web");
        assert_eq!(bundle.token.as_str(), "s3cret");
        assert!(!format!("{bundle:?}").contains("s3cret"));
    }

    #[test]
    fn a_bundle_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("join.json");
        std::fs::write(&file, GOOD.replace("ROOT", &"ab".repeat(32))).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let message = JoinBundle::load(&file).unwrap_err().to_string();
        assert!(message.contains("join.json") && message.contains("0600"), "{message}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        JoinBundle::load(&file).unwrap();
    }

    #[test]
    fn each_field_is_checked_by_name() {
        for (from, to, words) in [
            ("127.0.0.1:7000", "127.0.0.1", ["bootstrapAddress", "host:port"]),
            ("mesh.local:7001", "mesh.local:0", ["meshAddress", "host:port"]),
            ("ROOT", "beef", ["rootSha256", "64 hexadecimal"]),
            ("spiffe://demo.signet", "spiffe://other.signet", ["spiffeId", "demo.signet"]),
            ("s3cret", "", ["token", "one-time join token"]),
            ("\"token\"", "\"tokn\"", ["tokn", "expected one of"]),
        ] {
            let message = parse(&GOOD.replace(from, to)).expect_err(to);
            for word in words {
                assert!(message.contains(word), "{message:?} does not say {word:?}");
            }
            assert!(!message.contains("s3cret"), "{message:?}");
        }
    }
}
