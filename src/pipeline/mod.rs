//! The way of a request: strip → route → limit by address → authenticate → user status → authorize → limit by
//! user, namespace and route → inject → forward.
//!
//! [`Pipeline::decide`] is all of it but the last step, in one visible order; the gateway and `postern explain` run the same
//! function. Only [`forward`] touches the body and the upstream.

mod again;
pub mod authenticate;
pub mod authorize;
mod certificate;
pub mod context;
mod cors;
pub mod forbidden;
pub mod forward;
mod grpc;
pub mod inject;
pub mod limit;
mod obtain;
pub mod record;
pub mod reject;
pub mod route_limit;
mod serve;
pub mod streams;
pub mod strip;
mod switch;
pub mod trace;
mod transform;
pub mod worker;

pub use context::{Caller, Connection, Context, Stage};
pub use reject::Rejection;
pub use strip::{Presented, Stripped};
pub use transform::Transformed;
pub use worker::Worker;

use crate::base::clock::{Clock, Now};
use crate::base::tls::ClientTrust;
use crate::broker::Broker;
use crate::config::{self, Access, ClaimPath, ClientCertificate, Config, Credential, Route, Upgrade};
use crate::endpoints::{Endpoints, Site};
use crate::identity::{LocalCache, Verifier};
use crate::router::{Router, path};
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use crate::telemetry::reason::Reason;
use crate::token_service::TokenService;
use crate::upstream::{KeepTrailer, Upstream, UpstreamError};
use authenticate::{authenticate, is_known};
use authorize::authorize;
use http::request::Parts;
use http::{HeaderValue, Method};
use inject::inject;
use limit::Limits;
use obtain::obtain;
use route_limit::RouteLimits;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use strip::strip;

/// What becomes of a request that nothing is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It goes to its upstream.
    Forward,
    /// It is a browser's question about another request (CORS): nobody was authenticated, and Postern answers it itself.
    Preflight,
}

/// One configuration, ready to decide about requests. Immutable; a reload makes another.
pub struct Pipeline {
    routes: Vec<Arc<Route>>,
    router: Router,
    /// By index of the route.
    upstreams: Vec<Arc<Upstream>>,
    /// By index of the route.
    metrics: Vec<RouteMetrics>,
    no_route: RouteMetrics,
    verifier: Arc<Verifier>,
    token_service: Arc<TokenService>,
    limits: Limits,
    route_limits: RouteLimits,
    /// Where Postern answers itself.
    site: Site,
    /// What it answers there beside its documents.
    endpoints: Option<Arc<Endpoints>>,
    /// Who gets credentials that somebody else makes; `explain` has nobody.
    broker: Option<Arc<Broker>>,
    /// Who judges clients' certificates, where any are.
    client_trust: Option<Arc<ClientTrust>>,
    /// Folded names that only Postern may send, of all routes: a header that one route adds must not come from a client on another.
    identity_headers: HashSet<String>,
    /// What may pass as a trailer: what may pass in the head, but for headers that carry a secret on some route.
    keep_trailer: KeepTrailer,
    /// Some route takes WebSockets.
    takes_websockets: bool,
    /// Whether Postern answers preflights on any route.
    has_cors: bool,
    realm: HeaderValue,
    clock: Clock,
}

impl Pipeline {
    /// Prepares a configuration. The verifier and the token service may outlive it; connections to an upstream that is the same
    /// as under `former` stay in use.
    ///
    /// # Errors
    /// [`UpstreamError`] names the upstream whose TLS files cannot be used.
    pub fn new(
        config: &Config,
        verifier: Arc<Verifier>,
        token_service: Arc<TokenService>,
        metrics: &Metrics,
        clock: Clock,
        former: Option<&Self>,
    ) -> Result<Self, UpstreamError> {
        let mut known: Vec<Arc<Upstream>> = former.map(|former| former.upstreams.clone()).unwrap_or_default();
        // TLS files may have changed under an unchanged configuration.
        known.retain(|upstream| !upstream.config.is_tls);
        let mut upstreams = Vec::new();
        for route in &config.routes {
            if !known.iter().any(|known| known.config == route.upstream) {
                let name = &route.upstream.name;
                let upstream = Upstream::new(Arc::clone(&route.upstream), metrics.upstream(name))?;
                let former = former.and_then(|former| former.upstreams.iter().find(|known| known.config.name == *name));
                former.into_iter().for_each(|former| upstream.adopt(former));
                known.push(Arc::new(upstream));
            }
            upstreams.extend(known.iter().find(|known| known.config == route.upstream).cloned());
        }
        let headers = config.routes.iter().flat_map(|route| route.headers_of_identity());
        let identity_headers: HashSet<_> = headers.map(|name| forbidden::fold(name.as_str())).collect();
        let secrets = config.routes.iter().filter_map(|route| match &route.credential {
            Credential::Secret { header, .. } => Some(forbidden::fold(header.as_str())),
            _ => None,
        });
        let taken = config.routes.iter().flat_map(|route| route.headers_taken().cloned());
        let forbidden_trailers: HashSet<_> = identity_headers.iter().cloned().chain(secrets).chain(taken).collect();
        let has_cors = |route: &Arc<Route>| route.transform.as_ref().is_some_and(|transform| transform.cors.is_some());
        Ok(Self {
            router: Router::new(&config.routes),
            upstreams,
            metrics: config.routes.iter().map(|route| metrics.route(&route.name)).collect(),
            no_route: metrics.route(""),
            routes: config.routes.clone(),
            verifier,
            site: Site::new(&token_service.config().issuer),
            endpoints: None,
            broker: None,
            client_trust: None,
            token_service,
            limits: Limits::new(&config.limits, former.map(|former| &former.limits)),
            route_limits: RouteLimits::new(&config.routes, former.map(|former| &former.route_limits)),
            keep_trailer: KeepTrailer::new(move |name| !forbidden::is_forbidden(name.as_str(), &forbidden_trailers)),
            has_cors: config.routes.iter().any(has_cors),
            identity_headers,
            takes_websockets: config.routes.iter().any(|route| route.upstream.upgrades.contains(&Upgrade::WebSocket)),
            realm: HeaderValue::from_static("Bearer realm=\"postern\""),
            clock,
        })
    }

    /// The same pipeline with endpoints of Postern's own.
    #[must_use]
    pub fn with_endpoints(self, endpoints: Arc<Endpoints>) -> Self {
        Self { endpoints: Some(endpoints), ..self }
    }

    /// The same pipeline with one who gets credentials that somebody else makes.
    #[must_use]
    pub fn with_broker(self, broker: Arc<Broker>) -> Self {
        Self { broker: Some(broker), ..self }
    }

    /// The same pipeline with one who judges clients' certificates.
    #[must_use]
    pub fn with_client_trust(self, client_trust: Option<Arc<ClientTrust>>) -> Self {
        Self { client_trust, ..self }
    }

    /// Who gets credentials that somebody else makes, if anybody does.
    pub fn broker(&self) -> Option<&Broker> {
        self.broker.as_deref()
    }

    /// Postern's own endpoints, if there are any.
    pub fn endpoints(&self) -> Option<&Arc<Endpoints>> {
        self.endpoints.as_ref()
    }

    /// The claims that the routes of a configuration ask about.
    pub fn claims_asked(config: &Config) -> Vec<ClaimPath> {
        let mut asked = Vec::new();
        for route in &config.routes {
            if let Access::Token(required) = &route.access {
                asked.extend(required.claims.iter().map(|(path, _)| path.clone()));
            }
        }
        asked.sort_by(|a: &ClaimPath, b| a.parts().cmp(b.parts()));
        asked.dedup();
        asked
    }

    /// Decides about one request: what may go to the upstream, which is left in `stripped` and `context`, or why nothing goes.
    ///
    /// # Errors
    /// [`Rejection`]; the context then shows how far the request came.
    pub async fn decide(
        &self,
        tokens: &LocalCache,
        parts: &mut Parts,
        context: &mut Context,
        stripped: &mut Stripped,
    ) -> Result<Verdict, Rejection> {
        strip(parts, &self.identity_headers, stripped)?;
        context.keep(stripped);
        context.stage = Stage::Route;
        let (route, is_preflight) = self.route(parts, stripped, context)?;
        if let Some(transform) = &route.transform {
            cors::note_origin(transform, stripped, context);
        }
        context.stage = Stage::Limit;
        let (client, now) = (context.client, context.now);
        self.limits.admit(client, now)?;
        self.route_limits.admit_address(context)?;
        if is_preflight {
            return Ok(Verdict::Preflight);
        }
        if let Some(ClientCertificate::Required(allowed)) = &route.client_certificate {
            context.stage = Stage::Certificate;
            certificate::demand(self, allowed, parts, context)?;
        }
        if let Access::Token(required) = &route.access {
            if self.limits.is_over_failures(client, now) && !is_known(&self.verifier, tokens, &stripped.authorization) {
                return Err(self.limits.over_failures(client, now));
            }
            let count = |refused: &Rejection| self.limits.refused(client, refused.reason, now);
            context.stage = Stage::Authenticate;
            let token = authenticate(&self.verifier, tokens, &stripped.authorization, route, context).await;
            let token = context.token.insert(token.inspect_err(count)?);
            context.stage = Stage::UserStatus;
            let identity = self.verifier.confirm(token, now).await.map_err(Rejection::from).inspect_err(count)?;
            let caller = context.caller.insert(Caller { identity });
            context.stage = Stage::Authorize;
            authorize(required, &caller.identity)?;
        }
        context.stage = Stage::RouteLimit;
        self.route_limits.admit_caller(context)?;
        context.stage = Stage::Inject;
        if let Credential::Exchange(_) | Credential::ClientCredentials(_) | Credential::ServiceAccount(_) =
            route.credential
        {
            // Boxed, so that a request with a credential of Postern's own does not carry the room for this.
            Box::pin(obtain(self, context)).await?;
        }
        inject(self, route, stripped, context)?;
        if let Some(transform) = &route.transform {
            transform::request(transform, parts, stripped, context)?;
        }
        context.stage = Stage::Forward;
        Ok(Verdict::Forward)
    }

    /// Stage 2: the route, for a path that every server reads alike; and whether the request is a preflight for it.
    fn route(
        &self,
        parts: &Parts,
        stripped: &Stripped,
        context: &mut Context,
    ) -> Result<(&Arc<Route>, bool), Rejection> {
        let refused = |error| Rejection::because(Reason::PathNotCanonical, error);
        let path = parts.uri.path();
        let canonical = path::canonical(path).map_err(refused)?;
        // Some servers act on bytes that the grammar of a query does not hold (RFC 3986 §3.4).
        if !parts.uri.query().unwrap_or_default().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Reason::MalformedRequest.into());
        }
        let host = if self.router.has_hosts() { host_name(&context.host) } else { String::new() };
        let is_asked = self.has_cors && parts.method == Method::OPTIONS;
        let preflighted = if is_asked { cors::preflighted(self, stripped, &host, path) } else { None };
        let index = match preflighted {
            Some(index) => index,
            None => self.router.find(&host, &parts.method, path)?,
        };
        let route = &self.routes[index];
        context.route = Some(index);
        match canonical.encoded_slash {
            Some(at) if !(route.allow_encoded_slash && at >= last_part(&route.path, path)) => {
                Err(refused(path::NotCanonical::Encoded(b'/')))
            }
            _ => Ok((route, preflighted.is_some())),
        }
    }

    /// The routes, in the order of the configuration.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The upstreams of the routes, each once.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        let all = self.upstreams.iter().enumerate();
        all.filter(|(at, one)| !self.upstreams[..*at].iter().any(|other| Arc::ptr_eq(other, one))).map(|(_, one)| one)
    }

    /// Whether some route takes WebSockets, so that clients of HTTP/2 may ask for one.
    pub fn takes_websockets(&self) -> bool {
        self.takes_websockets
    }

    /// Who verifies tokens.
    pub fn verifier(&self) -> &Arc<Verifier> {
        &self.verifier
    }

    /// Who mints them.
    pub fn token_service(&self) -> &Arc<TokenService> {
        &self.token_service
    }

    /// What one address may ask for.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What a route may be asked for.
    pub fn route_limits(&self) -> &RouteLimits {
        &self.route_limits
    }

    /// The time by the pipeline's clock.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Whether the upstream of the request's route follows the user.
    fn follows_user(&self, context: &Context) -> bool {
        context.route.is_some_and(|index| self.upstreams[index].follows_user)
    }

    fn metrics(&self, route: Option<usize>) -> &RouteMetrics {
        route.and_then(|index| self.metrics.get(index)).unwrap_or(&self.no_route)
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("routes", &self.routes.len()).finish_non_exhaustive()
    }
}

/// The host without port and final dot, in lower case.
fn host_name(host: &HeaderValue) -> String {
    let text = host.to_str().unwrap_or_default();
    let name = match text.rfind(':') {
        Some(at) if !text[at..].contains(']') => &text[..at],
        _ => text,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Where the part of `path` begins that the pattern's last `*` or `**` captures; past its end if there is none.
fn last_part(pattern: &config::PathPattern, path: &str) -> usize {
    let captured_from = match pattern.segments.last() {
        _ if pattern.open_ended => pattern.segments.len(),
        Some(None) => pattern.segments.len() - 1,
        _ => return path.len(),
    };
    path.match_indices('/').nth(captured_from).map_or(path.len(), |(at, _)| at + 1)
}
