//! Whether a port lets callers in without the mesh, now (decision 16).
//!
//! One question, asked before a stranger is heard, for each of its requests, and of its live connections whenever policy
//! changes or time passes. Whatever is not known, or asks of the caller what it does not have, makes the port strict.

use signet_model::{Protocol, UserContext};
use signet_policy::Unproven;

use super::{InboundPort, Snapshot};

/// Why a caller without the mesh is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Strict {
    /// The port never did.
    #[error("the port takes mutual TLS only")]
    Always,
    /// It did until this second of the epoch, by our clock.
    #[error("the port took plaintext until {0} seconds after the epoch")]
    Ended(u64),
    /// Nobody says what it speaks.
    #[error("the port does not say what it speaks")]
    Undeclared,
    /// Its users come by their own JWT.
    #[error("the service takes its users' own tokens (userContext: original)")]
    Users,
    /// The service's policy is not here.
    #[error("the policy of the service has not arrived")]
    NoPolicy,
    /// A policy cannot be read.
    #[error("policy {0} cannot be read")]
    NotUnderstood(Box<str>),
    /// A policy asks what such a caller does not have.
    #[error("policy {policy} asks on this port who calls, by {field}")]
    Asked {
        /// Its name.
        policy: Box<str>,
        /// The field.
        field: &'static str,
    },
    /// Another service has the same port of the same pods.
    #[error("it is also a port of {service}, and there {why}")]
    Beside {
        /// Its name.
        service: Box<str>,
        /// Why that one does not.
        why: Box<Strict>,
    },
    /// No policy permits anybody, or one forbids everybody.
    #[error("no policy permits this to everybody")]
    Denied,
}

impl Snapshot {
    /// Whether a caller without an identity is let in at this port, at this second of the epoch. It cannot say which of
    /// several services it means that the same pods serve by the same port: all of those that are ours must let it in.
    pub fn lets_in_plaintext(&self, port: &InboundPort, now: u64) -> Result<(), Strict> {
        self.lets_in_alone(port, now)?;
        for other in self.endpoints.beside(&port.service, &port.name) {
            let Some(other) = self.routes.inbound(&other.service, &other.name) else { continue };
            let let_in = match other.protocol == port.protocol {
                true => self.lets_in_alone(other, now),
                false => Err(Strict::Undeclared),
            };
            if let Err(why) = let_in {
                return Err(Strict::Beside { service: other.service.as_ref().into(), why: Box::new(why) });
            }
        }
        Ok(())
    }

    fn lets_in_alone(&self, port: &InboundPort, now: u64) -> Result<(), Strict> {
        match port.permissive_until {
            None => return Err(Strict::Always),
            Some(until) if until <= now => return Err(Strict::Ended(until)),
            Some(_) => {}
        }
        if port.protocol == Protocol::Auto {
            return Err(Strict::Undeclared);
        }
        if port.user_context == UserContext::Original {
            return Err(Strict::Users);
        }
        let served = self.policy.of(&port.service).ok_or(Strict::NoPolicy)?;
        match served.policies.decide_unproven(&port.name) {
            Unproven::Permitted => Ok(()),
            Unproven::Denied => Err(Strict::Denied),
            Unproven::Asked { policy, field } => Err(Strict::Asked { policy: policy.into(), field }),
            Unproven::NotUnderstood(policy) => Err(Strict::NotUnderstood(policy.into())),
        }
    }

    /// The same of a live connection's port, which may be gone.
    pub(crate) fn still_lets_in_plaintext(&self, service: &str, port: &str, now: u64) -> bool {
        self.routes.inbound(service, port).is_some_and(|port| self.lets_in_plaintext(port, now).is_ok())
    }
}
