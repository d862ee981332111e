//! `probes`: what the kubelet asks of the app, and is asked for it by us.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use signet_model::Port;

/// The listener for the kubelet; there is none unless this is set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Probes {
    /// Its address; the app is asked at the address where the kubelet came.
    pub listen: SocketAddr,
    /// Stands in each path, so that nobody else has probes asked.
    pub key: String,
    /// What is asked, by index.
    pub declared: Vec<Probe>,
}

/// One handler as the pod declares it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Probe {
    /// How it is asked.
    #[serde(flatten)]
    pub asked: Asked,
    /// For how long.
    #[serde(default = "one")]
    pub timeout_seconds: u64,
}

/// How an app is asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename = "http, tcp or grpc", rename_all = "lowercase", deny_unknown_fields)]
pub enum Asked {
    /// `GET`; 200 to 399 is good.
    Http {
        /// The app's port.
        port: Port,
        /// With its query.
        path: String,
        /// Over TLS, whoever the certificate is for.
        #[serde(default)]
        https: bool,
        /// Beside those that the kubelet sends.
        #[serde(default)]
        headers: Vec<Header>,
    },
    /// A connection is good.
    Tcp {
        /// The app's port.
        port: Port,
    },
    /// `grpc.health.v1.Health/Check`; `SERVING` is good.
    Grpc {
        /// The app's port.
        port: Port,
        /// Of which service; empty: of the server.
        #[serde(default)]
        service: String,
    },
}

/// A header of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

fn one() -> u64 {
    1
}

/// Containers and their handlers: more is no pod.
const MOST: usize = 256;

impl Probes {
    /// What is wrong with it: the field, what was expected and what came.
    pub(super) fn check(&self) -> Result<(), (String, &'static str, String)> {
        if self.key.len() != 32 || !self.key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err((
                "probes.key".to_owned(),
                "32 hexadecimal digits",
                format!("{} characters", self.key.len()),
            ));
        }
        if self.declared.is_empty() || self.declared.len() > MOST {
            return Err(("probes.declared".to_owned(), "1 to 256 probes", self.declared.len().to_string()));
        }
        for (at, probe) in self.declared.iter().enumerate() {
            if !(1..=3600).contains(&probe.timeout_seconds) {
                let field = format!("probes.declared[{at}].timeoutSeconds");
                return Err((field, "1 to 3600 seconds", probe.timeout_seconds.to_string()));
            }
            let Asked::Http { path, headers, .. } = &probe.asked else { continue };
            if !path.starts_with('/') || path.parse::<http::Uri>().is_err() {
                let field = format!("probes.declared[{at}].http.path");
                return Err((field, "a path that begins with `/`", format!("{path:?}")));
            }
            for header in headers {
                let good = http::HeaderName::try_from(&header.name).is_ok()
                    && http::HeaderValue::try_from(&header.value).is_ok();
                if !good {
                    let field = format!("probes.declared[{at}].http.headers");
                    return Err((field, "names and values of headers", format!("{:?}", header.name)));
                }
            }
        }
        Ok(())
    }
}
