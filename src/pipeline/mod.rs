//! The way of a request: strip → route → limit by address → authenticate → user status → authorize → inject → forward.
//!
//! [`Pipeline::decide`] is all of it but the last step, in one visible order; the gateway and `postern explain` run the same
//! function. Only [`forward`] touches the body and the upstream.

mod again;
pub mod authenticate;
pub mod authorize;
pub mod context;
pub mod forbidden;
pub mod forward;
pub mod inject;
pub mod limit;
mod obtain;
pub mod record;
pub mod reject;
mod serve;
pub mod streams;
pub mod strip;
pub mod worker;

pub use context::{Caller, Connection, Context, Stage};
pub use reject::Rejection;
pub use strip::{Presented, Stripped};
pub use worker::Worker;

use crate::base::clock::{Clock, Now};
use crate::broker::Broker;
use crate::config::{self, Access, ClaimPath, Config, Credential, Route};
use crate::endpoints::{Endpoints, Site};
use crate::identity::{LocalCache, Verifier};
use crate::router::{Router, path};
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use crate::telemetry::reason::Reason;
use crate::token_service::TokenService;
use crate::upstream::{KeepTrailer, Upstream, UpstreamError};
use authenticate::{authenticate, is_known};
use authorize::authorize;
use http::HeaderValue;
use http::request::Parts;
use inject::inject;
use limit::Limits;
use obtain::obtain;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use strip::strip;

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
    /// Where Postern answers itself.
    site: Site,
    /// What it answers there beside its documents.
    endpoints: Option<Arc<Endpoints>>,
    /// Who gets credentials that somebody else makes; `explain` has nobody.
    broker: Option<Arc<Broker>>,
    /// Folded names that only Postern may send, of all routes: a header that one route adds must not come from a client on another.
    identity_headers: HashSet<String>,
    /// What may pass as a trailer: what may pass in the head, but for headers that carry a secret on some route.
    keep_trailer: KeepTrailer,
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
        let headers = config.routes.iter().flat_map(|route| route.headers.iter().map(|header| &header.name));
        let identity_headers: HashSet<_> = headers.map(|name| forbidden::fold(name.as_str())).collect();
        let secrets = config.routes.iter().filter_map(|route| match &route.credential {
            Credential::Secret { header, .. } => Some(forbidden::fold(header.as_str())),
            _ => None,
        });
        let forbidden_trailers: HashSet<_> = identity_headers.iter().cloned().chain(secrets).collect();
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
            token_service,
            limits: Limits::new(&config.limits, former.map(|former| &former.limits)),
            keep_trailer: KeepTrailer::new(move |name| !forbidden::is_forbidden(name.as_str(), &forbidden_trailers)),
            identity_headers,
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

    /// Decides about one request: what may go to the upstream, which is left in `stripped`, or why nothing goes.
    ///
    /// # Errors
    /// [`Rejection`]; the context then shows how far the request came.
    pub async fn decide(
        &self,
        tokens: &LocalCache,
        parts: &mut Parts,
        context: &mut Context,
        stripped: &mut Stripped,
    ) -> Result<(), Rejection> {
        strip(parts, &self.identity_headers, stripped)?;
        context.keep(stripped);
        context.stage = Stage::Route;
        let route = self.route(parts, context)?;
        context.stage = Stage::Limit;
        let (client, now) = (context.client, context.now);
        self.limits.admit(client, now)?;
        if let Access::Token(required) = &route.access {
            if self.limits.is_over_failures(client, now) && !is_known(&self.verifier, tokens, &stripped.authorization) {
                return Err(Reason::TooManyFailedAuthentications.into());
            }
            let count = |refused: &Rejection| self.limits.refused(client, refused.reason, now);
            context.stage = Stage::Authenticate;
            let token = authenticate(&self.verifier, tokens, &stripped.authorization, route, client, now).await;
            let token = context.token.insert(token.inspect_err(count)?);
            context.stage = Stage::UserStatus;
            let identity = self.verifier.confirm(token, now).await.map_err(Rejection::from).inspect_err(count)?;
            let caller = context.caller.insert(Caller { identity });
            context.stage = Stage::Authorize;
            authorize(required, &caller.identity)?;
        }
        context.stage = Stage::Inject;
        if let Credential::Exchange(_) | Credential::ClientCredentials(_) | Credential::ServiceAccount(_) =
            route.credential
        {
            // Boxed, so that a request with a credential of Postern's own does not carry the room for this.
            Box::pin(obtain(self, context)).await?;
        }
        inject(self, route, stripped, context)?;
        context.stage = Stage::Forward;
        Ok(())
    }

    /// Stage 2: the route, for a path that every server reads alike.
    fn route(&self, parts: &Parts, context: &mut Context) -> Result<&Arc<Route>, Rejection> {
        let refused = |error| Rejection::because(Reason::PathNotCanonical, error);
        let path = parts.uri.path();
        let canonical = path::canonical(path).map_err(refused)?;
        // Some servers act on bytes that the grammar of a query does not hold (RFC 3986 §3.4).
        if !parts.uri.query().unwrap_or_default().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Reason::MalformedRequest.into());
        }
        let host = if self.router.has_hosts() { host_name(&context.host) } else { String::new() };
        let index = self.router.find(&host, &parts.method, path)?;
        let route = &self.routes[index];
        context.route = Some(index);
        match canonical.encoded_slash {
            Some(at) if !(route.allow_encoded_slash && at >= last_part(&route.path, path)) => {
                Err(refused(path::NotCanonical::Encoded(b'/')))
            }
            _ => Ok(route),
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
