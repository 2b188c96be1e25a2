//! The configuration: one TOML file in, values that cannot be wrong out.
//!
//! [`load`] reads a file and [`parse`] a text. Both give either a [`Config`] or every mistake of the file
//! at once ([`Diagnostics`]); no other module ever sees TOML.

mod issuer;
mod route;
mod server;
mod token_service;
mod upstream;

pub use issuer::{Algorithm, ClaimPath, Introspection, Issuer, KeyPolicy, UserStatus, WhenUnknown};
pub use route::{
    Access, Credential, HeaderSource, IdentityHeader, IssuerName, NamespaceToken, PathPattern, Requirements, Route,
    TargetNamespace,
};
pub use server::{AccessLog, Admin, Log, LogFormat, Server, ServerTls};
pub use token_service::{SigningAlgorithm, SigningKeys, TokenService};
pub use upstream::{Protocol, Upstream, UpstreamTls};

use std::sync::Arc;

/// A whole, checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the gateway listens, and its limits.
    pub server: Server,
    /// The admin listener: health and metrics.
    pub admin: Admin,
    /// What is logged, and where.
    pub log: Log,
    /// The issuers whose tokens are accepted, in the order of the file.
    pub issuers: Vec<Arc<Issuer>>,
    /// The upstreams that requests go to, in the order of the file.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The routes, in the order of the file.
    pub routes: Vec<Arc<Route>>,
    /// How Postern's own tokens are made.
    pub token_service: TokenService,
}
