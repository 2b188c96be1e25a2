//! What Postern itself answers on the public listener, under the path of `token_service.issuer`, beside its documents:
//! introspection of its tokens ([`introspect`]), the feed of security events ([`events`]), back-channel logout
//! ([`backchannel_logout`]), a user's own token (`GET /token`), and sign-in for programs outside ([`auth_token`]). Upstreams can verify a token
//! alone, ask, or be told.
//!
//! [`Site::at`] finds out whether a path is one of these. A worker reads the body, which is small; what waits for the disk or for
//! somebody runs on the control plane.

pub mod auth_token;
pub mod backchannel_logout;
pub mod client;
mod counts;
pub mod events;
pub mod form;
pub mod introspect;
mod logout_token;
mod outcome;
mod pod;
mod reply;
mod token;

pub use client::Authorization;
pub use counts::Counts;
pub use events::Feed;

use crate::base::clock::Clock;
use crate::config::{Config, Role};
use crate::identity::link::Links;
use crate::identity::{Shared, Verifier};
use crate::telemetry::audit_log::Audit;
use crate::token_service::TokenService;
use crate::token_service::publish::{Document, INTROSPECT, path_of};
use crate::users::Users;
use auth_token::AuthToken;
use backchannel_logout::{Done, Logout};
use bytes::Bytes;
use client::{Client, Clients, Unknown};
use events::poll::PollRequest;
use http::{HeaderValue, Method, Response};
use outcome::Outcome;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The longest body of a call, in bytes. A logout token has at most 16 KiB.
pub const MAX_BODY: usize = 64 * 1024;

/// How long a body may take.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Polls of the feed.
const EVENTS: &str = "/events/poll";

/// A user's own token.
const TOKEN: &str = "/token";
/// Tokens of an issuer, for programs outside.
const AUTH_TOKEN: &str = "/auth/token";

/// What precedes the name of an issuer.
const LOGOUT: &str = "/backchannel-logout/";

/// Where Postern's own paths lie.
#[derive(Debug)]
pub struct Site {
    base: Box<str>,
}

/// What is served at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served {
    /// A document, for everybody.
    Document(Document),
    /// An endpoint, if the configuration has it: [`Endpoints::admit`] knows.
    Endpoint(Endpoint),
}

/// One of the endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Introspection.
    Introspect,
    /// The feed of events.
    Events,
    /// Back-channel logout, for the issuer of that name.
    Logout(Box<str>),
    /// A user's own token.
    Token,
    /// Sign-in for programs outside.
    AuthToken,
}

impl Endpoint {
    /// Whether it counts failures by itself, and more finely than by address alone.
    pub fn has_own_limits(&self) -> bool {
        matches!(self, Self::AuthToken)
    }
}

/// The head of a call, as far as it matters.
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// Whether the target has a query.
    pub has_query: bool,
    /// Whether there is an `Origin`: a browser sends it with each form of a foreign page (RFC 6454 §7.3).
    pub has_origin: bool,
    /// The credentials.
    pub authorization: &'a Authorization,
    /// The one `Content-Type`.
    pub content_type: Option<&'a HeaderValue>,
    /// Who is taken for the client.
    pub client: IpAddr,
}

impl Site {
    /// The site of an issuer's URL.
    pub fn new(issuer: &str) -> Self {
        Self { base: path_of(issuer).into() }
    }

    /// What a request path asks for; nothing for nearly every request, after one look.
    #[inline]
    pub fn at(&self, path: &str) -> Option<Served> {
        let below = path.strip_prefix(&*self.base);
        match below.unwrap_or(path).as_bytes().get(1)? {
            b'.' => Document::at(&self.base, path).map(Served::Document),
            b'i' | b'e' | b'b' | b't' | b'a' => endpoint(below?).map(Served::Endpoint),
            _ => None,
        }
    }
}

fn endpoint(below: &str) -> Option<Endpoint> {
    match below {
        INTROSPECT => Some(Endpoint::Introspect),
        EVENTS => Some(Endpoint::Events),
        TOKEN => Some(Endpoint::Token),
        AUTH_TOKEN => Some(Endpoint::AuthToken),
        _ => below.strip_prefix(LOGOUT).map(|name| Endpoint::Logout(name.into())),
    }
}

/// The endpoints of one configuration.
#[derive(Debug)]
pub struct Endpoints {
    clients: Clients,
    logouts: Vec<Arc<Logout>>,
    auth_token: Option<Arc<AuthToken>>,
    verifier: Arc<Verifier>,
    token_service: Arc<TokenService>,
    users: Arc<Users>,
    feed: Option<Arc<Feed>>,
    links: Arc<Links>,
    /// The names of the issuers whose users get tokens.
    delivered: Vec<Box<str>>,
    done: Arc<Done>,
    counts: Arc<Counts>,
    audit: Audit,
    control: Handle,
    clock: Clock,
}

/// What outlives a configuration.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// What the verifiers share, too.
    pub shared: Shared,
    /// The feed; there has to be one where there are clients.
    pub feed: Option<Arc<Feed>>,
    /// The counters.
    pub counts: Arc<Counts>,
    /// The audit log.
    pub audit: Audit,
}

/// A call whose head is good; its body may be read.
#[derive(Debug)]
pub struct Admitted {
    asks: Asks,
}

#[derive(Debug)]
enum Asks {
    Introspect(Arc<Client>),
    Events(Arc<Client>),
    Logout(Arc<Logout>),
    Token(Authorization),
    AuthToken(Arc<AuthToken>, IpAddr),
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// What is sent.
    pub response: Box<Response<Bytes>>,
    /// Whether it counts against the address that it came from: wrong credentials or a forged token.
    pub is_failed_authentication: bool,
}

impl Asks {
    fn name(&self) -> &'static str {
        match self {
            Self::Introspect(_) => "introspect",
            Self::Events(_) => "events",
            Self::Logout(_) => "backchannel_logout",
            Self::Token(_) => "token",
            Self::AuthToken(..) => "auth_token",
        }
    }
}

impl Endpoints {
    /// The endpoints of a configuration. Which logout tokens did their work, and how many passwords were wrong, is taken over from those that
    /// it replaces.
    pub fn new(
        config: &Config,
        verifier: Arc<Verifier>,
        token_service: Arc<TokenService>,
        surroundings: &Surroundings,
        former: Option<&Self>,
    ) -> Self {
        let Surroundings { shared: Shared { users, links, clock, control }, feed, counts, audit } =
            surroundings.clone();
        let formerly = former.and_then(|former| former.auth_token.as_deref());
        let auth_token =
            config.auth_token.as_ref().and_then(|config| AuthToken::new(config, verifier.issuers(), &clock, formerly));
        Self {
            clients: Clients::new(&config.token_service.clients),
            logouts: Logout::all(verifier.issuers()).into_iter().map(Arc::new).collect(),
            auth_token: auth_token.map(Arc::new),
            verifier,
            token_service,
            users,
            feed,
            links,
            delivered: delivered(config),
            done: former.map(|former| Arc::clone(&former.done)).unwrap_or_default(),
            counts,
            audit,
            control,
            clock,
        }
    }

    /// Whether the configuration has an endpoint at all; where not, its path is a route's affair.
    pub fn has(&self, endpoint: &Endpoint) -> bool {
        match endpoint {
            Endpoint::Introspect | Endpoint::Events => !self.clients.is_empty(),
            Endpoint::Logout(_) => !self.logouts.is_empty(),
            Endpoint::Token => !self.delivered.is_empty(),
            Endpoint::AuthToken => self.auth_token.is_some(),
        }
    }

    /// Looks at the head of a call, before its body is read.
    ///
    /// # Errors
    /// The answer, if there is nothing more to look at.
    pub fn admit(&self, endpoint: &Endpoint, head: &Head<'_>) -> Result<Admitted, Reply> {
        if *endpoint == Endpoint::Token {
            if head.method != Method::GET {
                return Err(Reply::from(reply::only("GET")));
            }
            return Ok(Admitted { asks: Asks::Token(head.authorization.clone()) });
        }
        if head.method != Method::POST {
            return Err(Reply::from(reply::only("POST")));
        }
        let asks = match endpoint {
            Endpoint::Token => return Err(Reply::from(reply::not_found())),
            Endpoint::Introspect => Asks::Introspect(self.known("introspect", head.authorization)?),
            Endpoint::Events => Asks::Events(self.known("events", head.authorization)?),
            Endpoint::Logout(name) => {
                let known = self.logouts.iter().find(|logout| *logout.name == **name);
                Asks::Logout(Arc::clone(known.ok_or_else(|| Reply::from(reply::not_found()))?))
            }
            Endpoint::AuthToken => {
                let known = self.auth_token.as_ref().ok_or_else(|| Reply::from(reply::not_found()))?;
                if let Some((outcome, response)) = auth_token::refusal(head) {
                    self.counts.call("auth_token", outcome.code());
                    return Err(Reply::from(response));
                }
                Asks::AuthToken(Arc::clone(known), head.client)
            }
        };
        let expected = match asks {
            Asks::Events(_) => "application/json",
            Asks::Introspect(_) | Asks::Logout(_) | Asks::Token(_) | Asks::AuthToken(..) => {
                "application/x-www-form-urlencoded"
            }
        };
        if head.content_type.is_some_and(|given| is_type(given, expected)) {
            return Ok(Admitted { asks });
        }
        self.counts.call(asks.name(), Outcome::Malformed.code());
        Err(Reply::from(reply::wrong_type(expected)))
    }

    fn known(&self, endpoint: &'static str, authorization: &Authorization) -> Result<Arc<Client>, Reply> {
        self.clients.authenticate(authorization).map(Arc::clone).map_err(|unknown| {
            self.counts.call(endpoint, Outcome::Unauthorized.code());
            let is_failed_authentication = unknown != Unknown::Nobody;
            Reply { is_failed_authentication, ..Reply::from(reply::unauthorized(unknown)) }
        })
    }

    /// Answers a call. Dropped, it ends a poll that waits, but no logout that has begun.
    pub async fn answer(self: &Arc<Self>, admitted: Admitted, body: Bytes) -> Reply {
        let endpoints = Arc::clone(self);
        let name = admitted.asks.name();
        let (outcome, response) = match admitted.asks {
            Asks::Token(authorization) => return self.token(&authorization).await,
            Asks::Introspect(client) => self.introspect(&client, &body, self.clock.now()),
            Asks::Events(client) => {
                let poll = self.control.spawn(async move { endpoints.events(&client, &body).await });
                Ended(poll).join().await
            }
            Asks::Logout(logout) => {
                let now = self.clock.now();
                let ending = self.control.spawn(async move { endpoints.logout(&logout, &body, now).await });
                ending.await.unwrap_or_else(|_| (Outcome::Unavailable, reply::unavailable()))
            }
            Asks::AuthToken(auth_token, client) => self.pass_grant(&auth_token, &body, client).await,
        };
        self.counts.call(name, outcome.code());
        Reply { is_failed_authentication: outcome == Outcome::Forged, ..Reply::from(response) }
    }

    async fn events(&self, client: &Arc<Client>, body: &[u8]) -> (Outcome, Response<Bytes>) {
        let request = match PollRequest::parse(body) {
            Ok(request) => request,
            Err(error) => return (Outcome::Malformed, reply::invalid_poll(&error.to_string())),
        };
        let Some(feed) = &self.feed else { return (Outcome::Unavailable, reply::unavailable()) };
        match feed.poll(client, request, &self.token_service).await {
            Ok(answer) => (Outcome::Done, reply::ok(&answer.into_json())),
            Err(_) => (Outcome::Unavailable, reply::unavailable()),
        }
    }

    /// The answer to a body that is too long.
    pub fn too_large() -> Reply {
        Reply::from(reply::too_large())
    }

    /// The answer to a body that did not come in time, or not at all.
    pub fn too_slow() -> Reply {
        Reply::from(reply::too_slow())
    }
}

/// Whose users get tokens: those of the delivery; or, in a gateway beside the token service, of all issuers that tell about their users.
fn delivered(config: &Config) -> Vec<Box<str>> {
    let is_gateway = config.kubernetes.as_ref().is_some_and(|kubernetes| kubernetes.role == Role::Gateway);
    let recorded = config.issuers.iter().filter(|issuer| is_gateway && issuer.user_status.keycloak().is_some());
    let kept = config.delivery.as_ref().map(|delivery| delivery.issuer.as_str().into());
    recorded.map(|issuer| issuer.name.as_str().into()).chain(kept).collect()
}

impl From<Response<Bytes>> for Reply {
    fn from(response: Response<Bytes>) -> Self {
        Self { response: Box::new(response), is_failed_authentication: false }
    }
}

/// Media types are compared without case and without their parameters (RFC 9110 §8.3.1).
fn is_type(given: &HeaderValue, expected: &str) -> bool {
    let given = given.to_str().unwrap_or_default();
    given.split(';').next().is_some_and(|given| given.trim().eq_ignore_ascii_case(expected))
}

/// A task that ends when nobody waits for it any more.
struct Ended(JoinHandle<(Outcome, Response<Bytes>)>);

impl Ended {
    async fn join(mut self) -> (Outcome, Response<Bytes>) {
        (&mut self.0).await.unwrap_or_else(|_| (Outcome::Unavailable, reply::unavailable()))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
