//! The admin socket: HTTP/1 for the process' owner alone, with a table of routes.

use std::{collections::BTreeMap, future::Future, path::Path, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use tokio::net::UnixListener;

use crate::{
    Shutdown,
    http::{Answer, Limits, Whole, answer, bare, serve},
    socket::{SocketError, bind_private_socket},
};

/// Only the owner can connect, so these are against mistakes more than attacks.
const LIMITS: Limits = Limits {
    connections: 16,
    from_one: 16,
    head: Duration::from_secs(5),
    exchange: Duration::from_secs(30),
    body: 64 * 1024,
};

/// What a handler gets.
#[derive(Debug)]
pub struct AdminRequest {
    /// The query string, without `?`; empty if there is none.
    pub query: String,
    /// The body, at most 64 KiB.
    pub body: Bytes,
}

/// What a handler answers.
#[derive(Debug)]
pub struct AdminResponse {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl AdminResponse {
    /// 200 with text.
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// 200 with this value as JSON; a value that JSON cannot hold is a 500.
    pub fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(body) => Self { status: StatusCode::OK, content_type: "application/json", body: body.into() },
            Err(error) => Self::error(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// A refusal with its reason.
    pub fn error(status: StatusCode, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.push('\n');
        Self { status, content_type: "text/plain; charset=utf-8", body: reason.into() }
    }
}

type Handling = Pin<Box<dyn Future<Output = AdminResponse> + Send>>;
type Handler = Arc<dyn Fn(AdminRequest) -> Handling + Send + Sync>;

/// The routes of an admin socket: exact paths, one handler per method.
#[derive(Clone, Default)]
pub struct Routes(BTreeMap<String, Vec<(Method, Handler)>>);

impl Routes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers GET (and HEAD) on this path.
    #[must_use]
    pub fn get<H, F>(self, path: &str, handler: H) -> Self
    where
        H: Fn(AdminRequest) -> F + Send + Sync + 'static,
        F: Future<Output = AdminResponse> + Send + 'static,
    {
        self.on(Method::GET, path, handler)
    }

    /// Answers POST on this path.
    #[must_use]
    pub fn post<H, F>(self, path: &str, handler: H) -> Self
    where
        H: Fn(AdminRequest) -> F + Send + Sync + 'static,
        F: Future<Output = AdminResponse> + Send + 'static,
    {
        self.on(Method::POST, path, handler)
    }

    fn on<H, F>(mut self, method: Method, path: &str, handler: H) -> Self
    where
        H: Fn(AdminRequest) -> F + Send + Sync + 'static,
        F: Future<Output = AdminResponse> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        self.0.entry(path.to_owned()).or_default().push((method, handler));
        self
    }

    async fn answer(&self, request: Whole) -> Answer {
        let Some(methods) = self.0.get(request.uri().path()) else {
            return bare(StatusCode::NOT_FOUND);
        };
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let Some((_, handler)) = methods.iter().find(|(known, _)| known == method) else {
            let mut refusal = bare(StatusCode::METHOD_NOT_ALLOWED);
            let allowed: Vec<_> = methods.iter().map(|(known, _)| known.as_str()).collect();
            if let Ok(allowed) = allowed.join(", ").parse() {
                refusal.headers_mut().insert(header::ALLOW, allowed);
            }
            return refusal;
        };
        let query = request.uri().query().unwrap_or_default().to_owned();
        let response = handler(AdminRequest { query, body: request.into_body() }).await;
        answer(response.status, response.content_type, response.body)
    }
}

/// An admin socket that is bound but does not answer yet.
pub struct AdminServer {
    listener: UnixListener,
    routes: Routes,
}

impl AdminServer {
    /// Binds the socket, see [`bind_private_socket`].
    pub fn bind(path: &Path, routes: Routes) -> Result<Self, SocketError> {
        Ok(Self { listener: bind_private_socket(path)?, routes })
    }

    /// Answers until the process stops; it answers while the process drains.
    pub async fn run(self, shutdown: Shutdown) {
        let Self { listener, routes } = self;
        let routes = Arc::new(routes);
        let handle = move |request: Whole| {
            let routes = routes.clone();
            async move { routes.answer(request).await }
        };
        serve(listener, LIMITS, shutdown, handle).await;
    }
}
