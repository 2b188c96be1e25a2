//! What is known about a request while it is decided about.

use super::strip::Stripped;
use super::trace::Trace;
use super::transform::Transformed;
use crate::base::clock::Now;
use crate::base::tls::{Asked, ShownCertificate, Thumbprint};
use crate::broker::Injected;
use crate::identity::{Identity, VerifiedToken};
use crate::token_service::Minted;
use crate::upstream::Upstream;
use http::HeaderValue;
use ipnet::IpNet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// What is known about a request so far; refused or not, the log and `explain` read it.
#[derive(Debug)]
pub struct Context {
    /// The moment that the request is judged by.
    pub now: Now,
    /// Who is taken for the client: the peer, or behind trusted proxies the last address that is not one of theirs.
    pub client: IpAddr,
    /// The connection it came on.
    pub connection: Rc<Connection>,
    /// `X-Request-Id`.
    pub request_id: HeaderValue,
    /// `traceparent`.
    pub traceparent: HeaderValue,
    /// The stage that the request is at, or was refused by.
    pub stage: Stage,
    /// Index of the route.
    pub route: Option<usize>,
    /// The token, once it is verified.
    pub token: Option<Arc<VerifiedToken>>,
    /// The caller, once it is known that they are still enabled.
    pub caller: Option<Caller>,
    /// The host asked for, as sent; empty where none was.
    pub host: HeaderValue,
    /// The namespace token that the upstream is given.
    pub minted: Option<Arc<Minted>>,
    /// The credential that somebody else made and that the upstream is given.
    pub obtained: Option<Injected>,
    /// The upstream of the caller's namespace, where the route's follows the user.
    pub upstream: Option<Arc<Upstream>>,
    /// What is to become of its trace, where traces are on.
    pub trace: Option<Box<Trace>>,
    /// What the route changes of the request, where it changes anything that has to be remembered.
    pub transformed: Option<Box<Transformed>>,
}

/// The stages that decide about a request, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // Each is a module or function of that name.
pub enum Stage {
    Strip,
    Route,
    Limit,
    Certificate,
    Authenticate,
    UserStatus,
    Authorize,
    RouteLimit,
    Inject,
    Forward,
}

/// A caller who may pass.
#[derive(Debug)]
pub struct Caller {
    /// Who they are, as their issuer says now.
    pub identity: Arc<Identity>,
}

/// What all requests of a connection have in common.
#[derive(Debug)]
pub struct Connection {
    /// The peer's address.
    pub peer: IpAddr,
    /// The same, as it is forwarded.
    pub peer_text: HeaderValue,
    /// Whether it came over TLS.
    pub is_tls: bool,
    /// What came of asking the client for a certificate; none where it was not asked.
    pub asked: Option<Box<Asked>>,
    /// The proxies whose forwarding headers are believed.
    trusted_proxies: Rc<[IpNet]>,
}

impl Connection {
    /// Describes a connection from `peer`.
    pub fn new(peer: IpAddr, is_tls: bool, trusted_proxies: Rc<[IpNet]>) -> Self {
        let peer = peer.to_canonical();
        Self {
            peer,
            // The text of an address is a field value.
            peer_text: HeaderValue::try_from(peer.to_string()).unwrap_or(HeaderValue::from_static("unknown")),
            is_tls,
            asked: None,
            trusted_proxies,
        }
    }

    /// The same connection, with what came of asking the client for a certificate.
    #[must_use]
    pub fn with_asked(self, asked: Option<Box<Asked>>) -> Self {
        Self { asked, ..self }
    }

    /// What a token may be bound to here.
    pub(super) fn thumbprint(&self) -> Option<&Thumbprint> {
        self.asked.as_ref()?.shown.as_ref().map(ShownCertificate::thumbprint)
    }

    /// Whether an address is that of a proxy that is believed.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

impl Context {
    /// What is known before anything of a request was looked at.
    pub fn new(now: Now, connection: Rc<Connection>, request_id: HeaderValue, traceparent: HeaderValue) -> Self {
        Self {
            now,
            client: connection.peer,
            connection,
            request_id,
            traceparent,
            stage: Stage::Strip,
            route: None,
            token: None,
            caller: None,
            host: HeaderValue::from_static(""),
            minted: None,
            obtained: None,
            upstream: None,
            trace: None,
            transformed: None,
        }
    }

    /// A client's own ids are kept where they are harmless.
    pub(super) fn keep(&mut self, stripped: &mut Stripped) {
        if let Some(host) = stripped.host.take() {
            self.host = host;
        }
        if let Some(chain) = &stripped.forwarded_for
            && self.connection.trusts(self.connection.peer)
        {
            let chain = chain.to_str().unwrap_or_default().rsplit(',').map(|part| part.trim().parse::<IpAddr>());
            for address in chain.map_while(Result::ok) {
                self.client = address;
                if !self.connection.trusts(address) {
                    break;
                }
            }
        }
        if let Some(id) = &stripped.request_id {
            self.request_id = id.clone();
        }
        if let Some(parent) = &stripped.traceparent {
            self.traceparent = parent.clone();
        }
        if let Some(trace) = &mut self.trace {
            trace.decide(&mut self.traceparent, stripped.traceparent.is_some());
        }
    }

    /// The namespace that the upstream is told: that of the minted token, else the caller's own.
    pub fn namespace(&self) -> Option<&str> {
        self.minted.as_ref().map(|minted| minted.namespace()).or_else(|| self.own_namespace())
    }

    /// The caller's own.
    pub(super) fn own_namespace(&self) -> Option<&str> {
        self.caller.as_ref()?.identity.namespace.as_deref()
    }
}
