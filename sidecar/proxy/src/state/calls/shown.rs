//! Routes as people read them.

use std::fmt;

use signet_model::{HostPattern, ParentRef};

use super::{Calls, Entry, Matcher, PathMatcher, RouteRule, Shares};

impl Calls {
    /// Every match of every rule, in the order in which a request meets them.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Where whole connections go, by the name in their hello (none: all of them) and the ports of the service; no ports:
    /// all of it.
    pub fn connections(&self) -> impl Iterator<Item = (Vec<String>, Option<&HostPattern>, &Shares)> {
        self.streams.entries()
    }
}

/// The ports that parents name, by name or number; empty is all of them.
pub(in crate::state) fn ports(parents: &[ParentRef]) -> Vec<String> {
    let port = |parent: &ParentRef| {
        let number = parent.port.map(|port| port.get().to_string());
        parent.section_name.as_ref().map(ToString::to_string).or(number)
    };
    parents.iter().map(port).collect::<Option<Vec<_>>>().unwrap_or_default()
}

impl Entry {
    /// The ports of the service that this is for, by name or number; empty is all of them.
    pub fn ports(&self) -> Vec<String> {
        ports(&self.parents)
    }

    /// The hosts.
    pub fn host(&self) -> &HostPattern {
        &self.host
    }

    /// What a request must be. Values of headers and parameters may be nobody's business and are left out.
    pub fn conditions(&self) -> &impl fmt::Display {
        &self.matcher
    }

    /// What becomes of it.
    pub fn rule(&self) -> &RouteRule {
        &self.rule
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = &self.method {
            write!(f, "{method} ")?;
        }
        self.path.fmt(f)?;
        for (name, _) in &self.headers {
            write!(f, ", header {name}")?;
        }
        for (name, _) in &self.query {
            write!(f, ", parameter {name}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PathMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathMatcher::Exact(path) => f.write_str(path),
            PathMatcher::Prefix(prefix) if prefix.is_empty() => f.write_str("any path"),
            PathMatcher::Prefix(prefix) => write!(f, "{prefix} and below"),
            PathMatcher::Grpc { service, method } => {
                let (service, method) = (service.as_deref(), method.as_deref());
                write!(f, "gRPC {}/{}", service.unwrap_or("any"), method.unwrap_or("any"))
            }
        }
    }
}
