//! Why the authority says no.
//!
//! A `Refusal` is the typed reason: it labels counters, stands in the issuance log and explains itself
//! to an operator. What a caller hears is its `Outward` face, which is the same for all bad evidence
//! so that nobody learns which of their guesses exist.

use std::fmt;

/// A typed reason, for the log and for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Longer than any honest request.
    CsrTooLarge,
    /// Not a PKCS #10 request in DER.
    CsrUnreadable,
    /// More bytes than the request itself.
    CsrTrailingBytes,
    /// The requester does not hold the private key.
    CsrBadSignature,
    /// An RSA key shorter than 2048 bits.
    CsrRsaTooShort,
    /// RSA, which is not accepted.
    CsrRsa,
    /// Neither P-256 nor P-384.
    CsrKeyUnsupported,
    /// The text is not that of a join token.
    TokenMalformed,
    /// Never made here, or swept long ago.
    TokenUnknown,
    TokenUsed,
    TokenExpired,
    /// Made for an identity of another trust domain.
    TokenForeign,
    /// No provider is configured with which operators could log in.
    LoginOff,
    /// An ID token that is not believed.
    LoginToken,
    /// An ID token that was made for a login with another key.
    LoginKey,
    /// A person whom no role names.
    NoRole,
    /// The row was written by somebody without the authority's key.
    RowTampered,
    /// Too many failed attempts from one source, or renewals of one lineage.
    TooManyAttempts,
    /// The identity is not, or no longer, registered with that class.
    NotRegistered,
    /// The name belongs to the control plane.
    Reserved,
    /// Join tokens are for sidecars, gateways and agents.
    ClassNotAllowed,
    /// The identity is of another trust domain.
    TrustDomain,
    /// The identity is not of the form `ns/<namespace>/sa/<service account>`.
    IdentityShape,
    /// The asked lifetime is out of bounds.
    Lifetime,
    /// What should name a delegated key does not.
    Thumbprint,
    IdentityRevoked,
    KeyRevoked,
    SerialRevoked,
    /// The public key was certified before.
    KeyUsed,
    /// The certificate presented was not issued here.
    SerialUnknown,
    /// The certificate presented differs from what was issued under its serial.
    PeerMismatch,
    /// The certificate presented is past its end.
    SvidExpired,
    LineageRevoked,
    /// The pod that was attested is revoked.
    InstanceRevoked,
    /// No chain of renewals has this id.
    LineageUnknown,
    /// The chain of renewals is at its end: join again.
    LineageEnded,
    /// A certificate was renewed a second time with another key: its lineage is now revoked.
    ParentReused,
    /// The same was being done at the same moment by another control plane.
    Contended,
    /// Longer than any honest token.
    EvidenceTooLarge,
    /// Not a token, or one that contradicts itself.
    EvidenceMalformed,
    /// The API server does not accept it.
    EvidenceRefused,
    /// For another audience.
    EvidenceAudience,
    /// Past its end.
    EvidenceExpired,
    /// Not of a service account.
    EvidenceUser,
    /// Not bound to a pod on a node.
    EvidenceUnbound,
    /// The pod is not as the token says.
    EvidencePod,
    /// The caller is not where the pod is.
    EvidenceAddress,
    /// A pod of the control plane's namespace.
    EvidenceReserved,
    /// About another identity than the peer's.
    EvidenceIdentity,
    /// This very token is being looked at already.
    EvidenceInFlight,
    /// A certificate for somebody else, without the right to it.
    Impersonation,
    /// What was attested is attested again, not renewed.
    AttestAgain,
    /// The workload has not acknowledged the trust bundle that the mesh goes by.
    Stale,
    /// No root, issuer or key of the journal has this name.
    NotInTheJournal,
    /// Only what has not been active yet can be activated.
    NotASuccessor,
    /// The root is made here, or lies in a folder: nothing is signed elsewhere.
    RootNotExternal,
    /// The root comes from a folder.
    RootInFolder,
    /// A root was signed and is on its way already.
    RootOnItsWay,
    /// The registry's Workload does not let its app have certificates of its own.
    WorkloadApiOff,
    /// Only a sidecar or a gateway asks for its app; an app asks for nobody.
    NotAProxy,
    /// Only an agent vouches for processes.
    NotAnAgent,
    /// No Registration of that name names this agent.
    NotItsProcess,
    /// The process is not as the Registration wants it.
    ProcessFacts,
    /// A JWT-SVID was asked for somebody else.
    NotTheCaller,
    /// The audiences of a JWT-SVID are none, too many or too long.
    Audience,
    /// A token was handed in for another one that is not believed, has ended or is revoked.
    SubjectToken,
    /// No TokenExchange of the registry lets this workload have what it asks for.
    NoTokenExchange,
    /// A sealed context that this workload may not open, or not any more.
    NotItsContext,
    /// More sealed contexts of one workload than are kept.
    TooManyContexts,
}

/// What the caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outward {
    /// The request itself cannot be accepted (INVALID_ARGUMENT).
    Invalid,
    /// The evidence is not accepted (UNAUTHENTICATED).
    Unauthenticated,
    /// The peer may not have this (PERMISSION_DENIED).
    Denied,
    /// Do something else first (a new key, an acknowledgement) and ask again (FAILED_PRECONDITION).
    Precondition,
    /// Slow down (RESOURCE_EXHAUSTED).
    Exhausted,
}

impl Refusal {
    /// A short stable name, for metric labels and the log.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::CsrTooLarge => "csr-too-large",
            Refusal::CsrUnreadable => "csr-unreadable",
            Refusal::CsrTrailingBytes => "csr-trailing-bytes",
            Refusal::CsrBadSignature => "csr-bad-signature",
            Refusal::CsrRsaTooShort => "csr-rsa-too-short",
            Refusal::CsrRsa => "csr-rsa",
            Refusal::CsrKeyUnsupported => "csr-key-unsupported",
            Refusal::TokenMalformed => "token-malformed",
            Refusal::TokenUnknown => "token-unknown",
            Refusal::TokenUsed => "token-used",
            Refusal::TokenExpired => "token-expired",
            Refusal::TokenForeign => "token-foreign",
            Refusal::LoginOff => "login-off",
            Refusal::LoginToken => "login-token",
            Refusal::LoginKey => "login-key",
            Refusal::NoRole => "no-role",
            Refusal::RowTampered => "row-tampered",
            Refusal::TooManyAttempts => "too-many-attempts",
            Refusal::NotRegistered => "not-registered",
            Refusal::Reserved => "reserved-identity",
            Refusal::ClassNotAllowed => "class-not-allowed",
            Refusal::TrustDomain => "trust-domain",
            Refusal::IdentityShape => "identity-shape",
            Refusal::Lifetime => "lifetime",
            Refusal::Thumbprint => "thumbprint",
            Refusal::IdentityRevoked => "identity-revoked",
            Refusal::KeyRevoked => "key-revoked",
            Refusal::SerialRevoked => "serial-revoked",
            Refusal::KeyUsed => "key-used",
            Refusal::SerialUnknown => "serial-unknown",
            Refusal::PeerMismatch => "peer-mismatch",
            Refusal::SvidExpired => "svid-expired",
            Refusal::LineageRevoked => "lineage-revoked",
            Refusal::InstanceRevoked => "instance-revoked",
            Refusal::LineageUnknown => "lineage-unknown",
            Refusal::LineageEnded => "lineage-ended",
            Refusal::ParentReused => "parent-reused",
            Refusal::Contended => "contended",
            Refusal::EvidenceTooLarge => "evidence-too-large",
            Refusal::EvidenceMalformed => "evidence-malformed",
            Refusal::EvidenceRefused => "evidence-refused",
            Refusal::EvidenceAudience => "evidence-audience",
            Refusal::EvidenceExpired => "evidence-expired",
            Refusal::EvidenceUser => "evidence-user",
            Refusal::EvidenceUnbound => "evidence-unbound",
            Refusal::EvidencePod => "evidence-pod",
            Refusal::EvidenceAddress => "evidence-address",
            Refusal::EvidenceReserved => "evidence-reserved",
            Refusal::EvidenceIdentity => "evidence-identity",
            Refusal::EvidenceInFlight => "evidence-in-flight",
            Refusal::Impersonation => "impersonation-refused",
            Refusal::AttestAgain => "attest-again",
            Refusal::Stale => "stale",
            Refusal::NotInTheJournal => "not-in-the-journal",
            Refusal::NotASuccessor => "not-a-successor",
            Refusal::RootNotExternal => "root-not-external",
            Refusal::RootInFolder => "root-in-folder",
            Refusal::RootOnItsWay => "root-on-its-way",
            Refusal::WorkloadApiOff => "workload-api-off",
            Refusal::NotAProxy => "not-a-proxy",
            Refusal::NotAnAgent => "not-an-agent",
            Refusal::NotItsProcess => "not-its-process",
            Refusal::ProcessFacts => "process-facts",
            Refusal::NotTheCaller => "not-the-caller",
            Refusal::Audience => "audience",
            Refusal::SubjectToken => "subject-token",
            Refusal::NoTokenExchange => "no-token-exchange",
            Refusal::NotItsContext => "not-its-context",
            Refusal::TooManyContexts => "too-many-contexts",
        }
    }

    /// One sentence for the operator: what was expected, what came, what to do.
    pub fn detail(self) -> &'static str {
        match self {
            Refusal::CsrTooLarge => "the certificate request is longer than 8 KiB",
            Refusal::CsrUnreadable => "the certificate request is not PKCS #10 in DER",
            Refusal::CsrTrailingBytes => "bytes follow the certificate request",
            Refusal::CsrBadSignature => {
                "the certificate request is not signed by the key that it asks a certificate for"
            }
            Refusal::CsrRsaTooShort => {
                "the RSA key is shorter than 2048 bits: use an ECDSA key on P-256 or P-384"
            }
            Refusal::CsrRsa => "RSA keys are not accepted: use an ECDSA key on P-256 or P-384",
            Refusal::CsrKeyUnsupported => "the key is not an ECDSA key on P-256 or P-384",
            Refusal::TokenMalformed => "the text is not a join token",
            Refusal::TokenUnknown => "no join token with this text was made here",
            Refusal::TokenUsed => "the join token was used before: make a new one",
            Refusal::TokenExpired => "the join token is past its end: make a new one",
            Refusal::TokenForeign => "the join token is for an identity of another trust domain",
            Refusal::LoginOff => "no provider is configured: list one in operators.oidc to let people log in",
            Refusal::LoginToken => "the ID token is not believed; the control plane's log says why",
            Refusal::LoginKey => {
                "the ID token was made for a login with another key: its nonce is not the digest of this one"
            }
            Refusal::NoRole => "no role names this person: whoever configures operators.roles can add one",
            Refusal::RowTampered => {
                "a stored row does not carry the authority's mark: somebody else wrote to the store"
            }
            Refusal::TooManyAttempts => {
                "too many attempts from this source, or certificates or tokens of this lineage: wait a minute"
            }
            Refusal::NotRegistered => "the registry has no workload with this identity and class",
            Refusal::Reserved => "the identity is reserved for the control plane",
            Refusal::ClassNotAllowed => {
                "join tokens are made for the classes sidecar, gateway and agent only"
            }
            Refusal::TrustDomain => "the identity is not of this trust domain",
            Refusal::IdentityShape => {
                "the identity is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
            }
            Refusal::Lifetime => "the lifetime is out of bounds",
            Refusal::Thumbprint => {
                "a delegation is named by its key's RFC 7638 thumbprint: 43 characters of base64url"
            }
            Refusal::IdentityRevoked => "the identity is revoked",
            Refusal::KeyRevoked => "the key is revoked",
            Refusal::SerialRevoked => "the certificate presented is revoked",
            Refusal::KeyUsed => "the public key was certified before: make a new key for every certificate",
            Refusal::SerialUnknown => "the certificate presented was not issued by this authority's store",
            Refusal::PeerMismatch => "the certificate presented differs from the one issued under its serial",
            Refusal::SvidExpired => "the certificate presented is past its end: join again",
            Refusal::LineageRevoked => "the chain of renewals was revoked: join again",
            Refusal::InstanceRevoked => "the pod is revoked: a new pod of the workload is another one",
            Refusal::LineageUnknown => {
                "no chain of renewals has this id: `signet ca log` names it in `issued` and `renewed` records"
            }
            Refusal::LineageEnded => "the chain of renewals is at its end: join again",
            Refusal::ParentReused => {
                "the certificate was renewed before with another key, so one of the two holders is not the \
                 workload: the chain of renewals is revoked, join again"
            }
            Refusal::Contended => {
                "the certificate was being renewed at the same moment at another control plane: ask again"
            }
            Refusal::EvidenceTooLarge => "the evidence is longer than any honest token: 16 KiB",
            Refusal::EvidenceMalformed => {
                "the evidence is not a service account's token, or one whose claims contradict what was said of it"
            }
            Refusal::EvidenceRefused => "the cluster's API server does not accept the token",
            Refusal::EvidenceAudience => {
                "the token is not for this authority's audience: project one with the audience of `attestation.kubernetes.audience`"
            }
            Refusal::EvidenceExpired => {
                "the token is past its end: the kubelet replaces a projected one well before"
            }
            Refusal::EvidenceUser => {
                "the token is not of a service account (`system:serviceaccount:<namespace>:<name>`)"
            }
            Refusal::EvidenceUnbound => {
                "the token is not bound to a pod on a node: use a projected token of the pod itself"
            }
            Refusal::EvidencePod => "the pod that the token names is gone, ends, or is not as the token says",
            Refusal::EvidenceAddress => {
                "the caller's address is none of the pod's: a token that was carried off, or a translated address (`checkAddress`)"
            }
            Refusal::EvidenceReserved => {
                "pods of the control plane's own namespace get no identity by attestation"
            }
            Refusal::EvidenceIdentity => {
                "the evidence is about another identity than that of the certificate presented"
            }
            Refusal::EvidenceInFlight => "this very token is being looked at already: wait for that answer",
            Refusal::Impersonation => {
                "the caller may not ask for another identity: it is not a listed node account, or no pod of that identity runs on its node"
            }
            Refusal::AttestAgain => {
                "the certificate presented rests on attestation and is not renewed: present fresh evidence"
            }
            Refusal::Stale => {
                "the newest trust bundle was not acknowledged in time: open the delivery stream, acknowledge it and ask again"
            }
            Refusal::NotInTheJournal => {
                "no root, issuer or key is named so: give six characters of its id or more, as `signet ca status` shows it"
            }
            Refusal::NotASuccessor => {
                "only a root, issuer or key that has not been active yet can be activated"
            }
            Refusal::RootNotExternal => {
                "no root is kept elsewhere: requests and imports are for `hierarchy: {root: external}` in the configuration"
            }
            Refusal::RootInFolder => {
                "the root comes from the folder in `hierarchy.folder`: a new one is put there, and no other way leads to one"
            }
            Refusal::RootOnItsWay => {
                "a root that was signed is on its way to take over: wait for it, or taint it to begin anew"
            }
            Refusal::WorkloadApiOff => {
                "the registry's Workload does not opt in: `workloadApi: true` lets its app have certificates and tokens"
            }
            Refusal::NotAnAgent => "the caller is no agent: only an agent vouches for processes of its host",
            Refusal::NotItsProcess => {
                "the registry has no Registration of that name whose `unix.agents` names this agent"
            }
            Refusal::ProcessFacts => {
                "what the agent says of the process is not what its Registration asks for, or cannot be read"
            }
            Refusal::NotAProxy => "the caller is neither a sidecar nor a gateway: an app asks its sidecar",
            Refusal::NotTheCaller => "a JWT-SVID is issued for the caller's own identity only",
            Refusal::Audience => {
                "a JWT-SVID names 1 to 16 audiences of 1 to 1024 bytes without control characters"
            }
            Refusal::SubjectToken => {
                "a token that was handed in for another one is not believed, has ended or is revoked"
            }
            Refusal::NoTokenExchange => {
                "no TokenExchange of the registry lets this workload have a token like that for that user"
            }
            Refusal::NotItsContext => {
                "a sealed context is for another workload, has ended, was opened as often as it may, or was never sealed here"
            }
            Refusal::TooManyContexts => {
                "the workload has put off more contexts than are kept: have them opened, or put off for a shorter time"
            }
        }
    }

    /// What the caller is told.
    pub fn outward(self) -> Outward {
        match self {
            Refusal::CsrTooLarge
            | Refusal::CsrUnreadable
            | Refusal::CsrTrailingBytes
            | Refusal::CsrBadSignature
            | Refusal::CsrRsaTooShort
            | Refusal::CsrRsa
            | Refusal::CsrKeyUnsupported
            | Refusal::Reserved
            | Refusal::ClassNotAllowed
            | Refusal::TrustDomain
            | Refusal::IdentityShape
            | Refusal::Lifetime
            | Refusal::Thumbprint
            | Refusal::LineageUnknown
            | Refusal::NotInTheJournal
            | Refusal::NotASuccessor
            | Refusal::RootNotExternal
            | Refusal::RootInFolder
            | Refusal::RootOnItsWay
            | Refusal::Audience => Outward::Invalid,
            Refusal::TokenMalformed
            | Refusal::TokenUnknown
            | Refusal::TokenUsed
            | Refusal::TokenExpired
            | Refusal::TokenForeign
            | Refusal::LoginOff
            | Refusal::LoginToken
            | Refusal::LoginKey
            | Refusal::RowTampered
            | Refusal::EvidenceTooLarge
            | Refusal::EvidenceMalformed
            | Refusal::EvidenceRefused
            | Refusal::EvidenceAudience
            | Refusal::EvidenceExpired
            | Refusal::EvidenceUser
            | Refusal::EvidenceUnbound
            | Refusal::EvidencePod
            | Refusal::EvidenceAddress
            | Refusal::EvidenceReserved
            | Refusal::EvidenceIdentity
            | Refusal::Impersonation => Outward::Unauthenticated,
            Refusal::TooManyAttempts
            | Refusal::EvidenceInFlight
            | Refusal::Contended
            | Refusal::TooManyContexts => Outward::Exhausted,
            Refusal::KeyUsed | Refusal::Stale | Refusal::AttestAgain => Outward::Precondition,
            Refusal::NotRegistered
            | Refusal::NoRole
            | Refusal::IdentityRevoked
            | Refusal::KeyRevoked
            | Refusal::SerialRevoked
            | Refusal::SerialUnknown
            | Refusal::PeerMismatch
            | Refusal::SvidExpired
            | Refusal::LineageRevoked
            | Refusal::InstanceRevoked
            | Refusal::LineageEnded
            | Refusal::ParentReused
            | Refusal::WorkloadApiOff
            | Refusal::NotAProxy
            | Refusal::NotAnAgent
            | Refusal::NotItsProcess
            | Refusal::ProcessFacts
            | Refusal::NotTheCaller
            | Refusal::SubjectToken
            | Refusal::NoTokenExchange
            | Refusal::NotItsContext => Outward::Denied,
        }
    }

    /// The text for the caller: the reason where it is about the caller's own request, one text
    /// otherwise.
    pub fn outward_message(self) -> &'static str {
        match self.outward() {
            // Who they are is proven; what they lack is no secret to them.
            Outward::Denied if self == Refusal::NoRole => self.detail(),
            Outward::Invalid | Outward::Precondition => self.detail(),
            Outward::Unauthenticated => "the evidence is not accepted",
            Outward::Denied => "this identity gets no certificate now",
            Outward::Exhausted => "too many attempts",
        }
    }
}

/// Displays what the caller may hear, so that an error printed by mistake leaks nothing;
/// [`Refusal::detail`] is for the operator.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.outward_message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bad_evidence_and_every_bad_login_sounds_the_same_from_outside() {
        let bad = [
            Refusal::TokenMalformed,
            Refusal::TokenUnknown,
            Refusal::TokenUsed,
            Refusal::TokenExpired,
            Refusal::TokenForeign,
            Refusal::LoginOff,
            Refusal::LoginToken,
            Refusal::LoginKey,
            Refusal::RowTampered,
            Refusal::EvidenceTooLarge,
            Refusal::EvidenceMalformed,
            Refusal::EvidenceRefused,
            Refusal::EvidenceAudience,
            Refusal::EvidenceExpired,
            Refusal::EvidenceUser,
            Refusal::EvidenceUnbound,
            Refusal::EvidencePod,
            Refusal::EvidenceAddress,
            Refusal::EvidenceReserved,
            Refusal::EvidenceIdentity,
            Refusal::Impersonation,
        ];
        for refusal in bad {
            assert_eq!(refusal.outward(), Outward::Unauthenticated);
            assert_eq!(refusal.to_string(), Refusal::TokenUnknown.to_string());
        }
    }
}
