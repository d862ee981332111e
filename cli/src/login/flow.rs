//! The two ways to an ID token: the authorisation code in a browser (RFC 6749, 7636, 8252), and the device grant
//! (RFC 8628) for machines without one. Both carry the nonce that ties the token to this login's key.

use anyhow::{Context as _, anyhow, bail};
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken, DeviceAuthorizationUrl,
    EndpointNotSet, EndpointSet, ErrorResponse, ExtraTokenFields, PkceCodeChallenge, RedirectUrl,
    RequestTokenError, Scope, StandardDeviceAuthorizationResponse, StandardRevocableToken,
    StandardTokenResponse, TokenUrl,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::loopback::{Expected, Loopback};
use super::web::{Metadata, Web, WebError};
use crate::operator::one_line;

/// At whom one logs in.
pub(crate) struct Provider {
    pub(crate) metadata: Metadata,
    pub(crate) client_id: String,
    pub(crate) client_secret: Option<Zeroizing<String>>,
    /// Beside `openid`.
    pub(crate) scopes: Vec<String>,
}

/// The only thing that is wanted of a token answer; the access token is dropped unused.
#[derive(Serialize, Deserialize)]
struct IdTokenField {
    id_token: Option<String>,
}

impl ExtraTokenFields for IdTokenField {}

impl std::fmt::Debug for IdTokenField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

type Answer = StandardTokenResponse<IdTokenField, BasicTokenType>;
type OidcClient = Client<
    BasicErrorResponse,
    Answer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

impl Provider {
    fn client(&self) -> anyhow::Result<OidcClient> {
        let token = TokenUrl::new(self.metadata.token_endpoint.clone()).context("the token endpoint")?;
        let mut client = Client::new(ClientId::new(self.client_id.clone())).set_token_uri(token);
        client = match &self.client_secret {
            Some(secret) => client.set_client_secret(ClientSecret::new(secret.to_string())),
            // A public client names itself in the body (RFC 6749, section 3.2.1).
            None => client.set_auth_type(AuthType::RequestBody),
        };
        Ok(client)
    }

    fn scopes(&self) -> impl Iterator<Item = Scope> {
        std::iter::once("openid".to_owned()).chain(self.scopes.iter().cloned()).map(Scope::new)
    }

    /// By the browser.
    pub(crate) async fn by_browser(
        &self,
        web: &Web,
        nonce: &str,
        open: bool,
    ) -> anyhow::Result<Zeroizing<String>> {
        let Some(endpoint) = self.metadata.authorization_endpoint.clone() else {
            bail!("the provider has no authorization endpoint: try --device");
        };
        let methods = self.metadata.code_challenge_methods_supported.as_ref();
        if methods.is_some_and(|methods| !methods.iter().any(|method| method == "S256")) {
            bail!("the provider does not offer PKCE with S256, without which a code could be stolen");
        }
        let loopback = Loopback::open().await?;
        let redirect = RedirectUrl::new(loopback.redirect_uri()).context("the redirect URI")?;
        let client = self
            .client()?
            .set_auth_uri(AuthUrl::new(endpoint).context("the authorization endpoint")?)
            .set_redirect_uri(redirect);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state) = client
            .authorize_url(CsrfToken::new_random)
            .add_scopes(self.scopes())
            .add_extra_param("nonce", nonce)
            .set_pkce_challenge(challenge)
            .url();
        eprintln!("log in at\n\n  {url}\n");
        if open {
            open_browser(url.as_str());
        }
        let expected = Expected {
            state: state.secret().clone(),
            issuer: self.metadata.issuer.clone(),
            names_itself: self.metadata.authorization_response_iss_parameter_supported,
        };
        let code = loopback.code(expected).await?;
        let answer = client
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(verifier)
            .request_async(web)
            .await
            .map_err(refused)?;
        id_token(&answer)
    }

    /// By a code that the person types on another machine.
    pub(crate) async fn by_device(&self, web: &Web, nonce: &str) -> anyhow::Result<Zeroizing<String>> {
        let Some(endpoint) = self.metadata.device_authorization_endpoint.clone() else {
            bail!("the provider does not offer the device grant: log in with a browser, without --device");
        };
        let endpoint = DeviceAuthorizationUrl::new(endpoint).context("the device authorization endpoint")?;
        let client = self.client()?.set_device_authorization_url(endpoint);
        let asked: StandardDeviceAuthorizationResponse = client
            .exchange_device_code()
            .add_scopes(self.scopes())
            .add_extra_param("nonce", nonce)
            .request_async(web)
            .await
            .map_err(refused)?;
        eprintln!(
            "on any machine, open\n\n  {}\n\nand enter\n\n  {}\n",
            one_line(asked.verification_uri().as_str()),
            one_line(asked.user_code().secret())
        );
        if let Some(complete) = asked.verification_uri_complete() {
            eprintln!("or open\n\n  {}\n", one_line(complete.secret()));
        }
        let answer = client
            .exchange_device_access_token(&asked)
            .request_async(web, tokio::time::sleep, None)
            .await
            .map_err(refused)?;
        id_token(&answer)
    }
}

fn id_token(answer: &Answer) -> anyhow::Result<Zeroizing<String>> {
    let token = answer.extra_fields().id_token.clone();
    token.map(Zeroizing::new).ok_or_else(|| {
        anyhow!("the provider sent no ID token: is it OpenID Connect, and may the client ask for `openid`?")
    })
}

/// What went wrong, without any byte of an answer that could be a token.
fn refused<T: ErrorResponse>(error: RequestTokenError<WebError, T>) -> anyhow::Error {
    match error {
        RequestTokenError::ServerResponse(said) => {
            anyhow!("the provider refused: {}", one_line(&said.to_string()))
        }
        RequestTokenError::Request(error) => error.into(),
        RequestTokenError::Parse(error, _) => {
            anyhow!("the provider's answer cannot be read, at {}", one_line(&error.path().to_string()))
        }
        RequestTokenError::Other(why) => anyhow!("the provider's answer: {}", one_line(&why)),
    }
}

/// A browser that does not open is no failure: the address stands on the terminal.
fn open_browser(url: &str) {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let null = std::process::Stdio::null;
    let started =
        std::process::Command::new(opener).arg(url).stdin(null()).stdout(null()).stderr(null()).spawn();
    if started.is_err() {
        eprintln!("(no browser could be started here: open the address yourself, or use --device)\n");
    }
}
