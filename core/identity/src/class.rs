//! The class of a peer: what kind of thing holds the key.
//!
//! The authority writes it into a non-critical `certificatePolicies` extension, from attestation. The object
//! identifiers live under an arc that anyone may take without asking: `2.25.<a UUID as an integer>`
//! (ITU-T X.667). Ours is [`ARC_UUID`]; a class is `arc.1.N`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The UUID whose integer value is Signet's arc under `2.25`.
pub const ARC_UUID: &str = "c5fb1b05-48f8-46be-acc2-73196f004c39";

/// DER content of `2.25.263161729724903848256619366733936872505.1`: every class is this and one more byte.
pub(crate) const CLASS_ARC: [u8; 21] = [
    0x69, 0x83, 0x8b, 0xfb, 0x8d, 0xc1, 0xa9, 0x8f, 0xc2, 0x9a, 0xfd, 0xac, 0xe1, 0x9c, 0xe3, 0x96, 0xf8,
    0x81, 0x98, 0x39, 0x01,
];

/// What kind of thing holds the key of an SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerClass {
    /// A sidecar of ours: the app never sees the key.
    Sidecar,
    /// A gateway of ours.
    Gateway,
    /// The control plane itself.
    ControlPlane,
    /// A sidecar in the agent role, which attests host processes.
    Agent,
    /// A person. Data planes refuse it.
    Operator,
    /// A key held by an app. It has no voice in user context.
    Workload,
}

impl PeerClass {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Sidecar, Self::Gateway, Self::ControlPlane, Self::Agent, Self::Operator, Self::Workload];

    /// The word used in configuration, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Gateway => "gateway",
            Self::ControlPlane => "control-plane",
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Workload => "workload",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Sidecar => 1,
            Self::Gateway => 2,
            Self::ControlPlane => 3,
            Self::Agent => 4,
            Self::Operator => 5,
            Self::Workload => 6,
        }
    }

    /// Whether this peer's word about users (`Txn-Token`, `signet-*`, XFCC) counts at all. Only the proxies
    /// of our own trust domain; the caller checks the domain.
    pub const fn may_carry_user_context(self) -> bool {
        matches!(self, Self::Sidecar | Self::Gateway)
    }

    /// The `certificatePolicies` extension's object identifier, 2.5.29.32, for whoever builds a certificate.
    pub const EXTENSION_OID: [u64; 4] = [2, 5, 29, 32];

    /// The DER content of a `certificatePolicies` extension that states this class. Non-critical, always: a
    /// peer that knows nothing of Signet must be able to ignore it.
    pub fn policies_der(self) -> Vec<u8> {
        let mut oid = Vec::with_capacity(30);
        oid.extend_from_slice(&CLASS_ARC);
        oid.push(self.number());
        // SEQUENCE OF { SEQUENCE { OBJECT IDENTIFIER } }; all three lengths are below 128.
        tlv(0x30, &tlv(0x30, &tlv(0x06, &oid)))
    }

    /// Reads the DER content of one policy's object identifier: `None` if it is not of our arc.
    pub(crate) fn from_policy_oid(oid: &[u8]) -> Option<Result<Self, String>> {
        let tail = oid.strip_prefix(&CLASS_ARC)?;
        let class = Self::ALL.into_iter().find(|class| tail == [class.number()]);
        Some(class.ok_or_else(|| format!("{tail:02x?}")))
    }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len().saturating_add(2));
    out.push(tag);
    out.push(u8::try_from(content.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(content);
    out
}

impl fmt::Display for PeerClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word is not a class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of sidecar, gateway, control-plane, agent, operator, workload, not \"{0}\"")]
pub struct UnknownClass(String);

impl FromStr for PeerClass {
    type Err = UnknownClass;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|class| class.as_str() == s).ok_or_else(|| UnknownClass(s.to_owned()))
    }
}

/// A set of classes, for saying which ones are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassSet(u8);

impl ClassSet {
    /// Whom the data plane speaks with: sidecars, gateways, and apps that hold a key themselves. People,
    /// the control plane and agents have no business there.
    pub const DATA_PLANE: Self = Self::of(&[PeerClass::Sidecar, PeerClass::Gateway, PeerClass::Workload]);
    /// The control plane alone.
    pub const CONTROL_PLANE: Self = Self::of(&[PeerClass::ControlPlane]);
    /// Whom the control plane's mesh listener speaks with: everyone but another control plane, and apps that hold a
    /// key themselves. Those get what they may have from their sidecar.
    pub const MESH_CLIENTS: Self =
        Self::of(&[PeerClass::Sidecar, PeerClass::Gateway, PeerClass::Agent, PeerClass::Operator]);

    /// The set of these.
    pub const fn of(classes: &[PeerClass]) -> Self {
        let mut bits = 0;
        let mut rest = classes;
        while let [first, others @ ..] = rest {
            bits |= 1 << first.number();
            rest = others;
        }
        Self(bits)
    }

    /// Whether `class` is one of them.
    pub const fn contains(self, class: PeerClass) -> bool {
        self.0 & (1 << class.number()) != 0
    }
}

impl fmt::Display for ClassSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for class in PeerClass::ALL.into_iter().filter(|class| self.contains(*class)) {
            if !first {
                f.write_str(" or ")?;
            }
            first = false;
            f.write_str(class.as_str())?;
        }
        Ok(())
    }
}
