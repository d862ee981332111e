//! Where an issuer's keys are, and fetching them once.

use std::time::Duration;

use serde::Deserialize;

use crate::fetch::{Answer, max_age};

pub use crate::fetch::{Client, FetchError, MAX_BODY, TIMEOUT, Validator};

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The exact `iss`.
    pub issuer: String,
    /// Absent: discovery.
    pub jwks_uri: Option<String>,
}

/// What a fetch brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    Keys {
        text: String,
        validator: Option<Validator>,
        max_age: Option<Duration>,
    },
    /// The issuer says that what we have is still right.
    NotModified {
        max_age: Option<Duration>,
    },
}

impl Client {
    /// Fetches the key set, by discovery when its address is not configured. `validator` is that of the
    /// keys at hand.
    ///
    /// # Errors
    /// [`FetchError`]; the keys at hand are the caller's to keep.
    pub async fn keys(&self, source: &Source, validator: Option<&Validator>) -> Result<Fetched, FetchError> {
        self.within(async {
            let uri = match &source.jwks_uri {
                Some(uri) => uri.clone(),
                None => self.discover(&source.issuer).await?,
            };
            match self.get(&uri, validator).await? {
                Answer::NotModified(headers) => Ok(Fetched::NotModified { max_age: max_age(&headers) }),
                Answer::Body(headers, text) => {
                    let validator = Validator::of(&uri, &headers);
                    Ok(Fetched::Keys { text, validator, max_age: max_age(&headers) })
                }
            }
        })
        .await
    }

    /// OpenID Connect Discovery 1.0, section 4; the issuer must name itself (section 4.3).
    async fn discover(&self, issuer: &str) -> Result<String, FetchError> {
        #[derive(Deserialize)]
        struct Metadata {
            issuer: String,
            jwks_uri: String,
        }
        let uri = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let Answer::Body(_, text) = self.get(&uri, None).await? else { return Err(FetchError::Status(304)) };
        let metadata: Metadata =
            serde_json::from_str(&text).map_err(|e| FetchError::Discovery(e.to_string()))?;
        if metadata.issuer != issuer {
            return Err(FetchError::ForeignIssuer { expected: issuer.to_owned(), found: metadata.issuer });
        }
        Ok(metadata.jwks_uri)
    }
}
