//! Postern: an authenticating reverse proxy with a token service.
//!
//! Callers come with a Keycloak access token in `Authorization`. Postern verifies it, makes sure that its user is still enabled,
//! and gives the service behind a fresh token of its own, scoped to one namespace and one audience. **This page is the map.**
//!
//! # Two planes
//!
//! - **Data plane**: worker threads, one runtime each. A worker owns its listening sockets, its connections to upstreams and its view
//!   of the verified tokens; nothing that a request needs is locked or shared for writing.
//! - **Control plane**: one thread. It fetches keys, asks about users, watches what happens to them ([`watch`]), serves the admin
//!   listener, looks after signing keys, and swaps the configuration. Workers read what it made as immutable snapshots.
//!
//! # The way of a request
//!
//! 1. [`listener`] accepts, speaks TLS, tells HTTP/1.1 from HTTP/2, and watches over time ([`listener::activity`]).
//! 2. [`pipeline::worker`] makes the [`pipeline::Context`] and calls [`pipeline::Pipeline::decide`], which is, in this order:
//!    1. [`pipeline::strip`]: what a client may not say is gone. First, and without a condition.
//!    2. [`router`]: the one route, for a path that every server reads alike ([`router::path`]); else 404 or 400.
//!    3. [`pipeline::limit`]: what the client's address may still ask for. Else 429.
//!    4. [`pipeline::authenticate`]: exactly one bearer token, verified or found among the verified ([`identity::Verifier`],
//!       [`identity::cache`]); time and key are checked on every use. Keys come from [`issuer`]. Else 401, or 503.
//!    5. [`identity::status`]: the user is still enabled, by an answer younger than the bound. Else 401, or 503.
//!    6. [`pipeline::authorize`]: the route's own demands. Else 403.
//!    7. [`pipeline::inject`]: the credential ([`token_service`], or [`broker`] for what somebody else makes) and the headers for
//!       the upstream.
//! 3. [`pipeline::forward`] sends head and body through [`upstream`], and the answer streams back. A credential that the upstream
//!    does not take any more is got anew, and the request sent again where that is safe (`pipeline::again`).
//!    What does not end at once is listed in [`pipeline::streams`], which ends it when its user is out.
//! 4. [`pipeline::record`] writes the access line and counts ([`telemetry`]) when the answer ends.
//!
//! A refusal is made in one place, [`pipeline::reject`]; its reason is the same word in answer, log and metric
//! ([`telemetry::reason`]). `postern explain` runs the same `decide` ([`cli::explain`]).
//!
//! # Who may import whom
//!
//! Lower never imports higher; `tests/gateway/tidy.rs` holds this table.
//!
//! | level | modules |
//! |---|---|
//! | 0 | [`base`] |
//! | 1 | [`config`], [`telemetry`] |
//! | 2 | [`issuer`], [`upstream`], [`token_service`], [`router`], [`kubernetes`], [`redis`] |
//! | 3 | [`users`], [`rates`] |
//! | 4 | [`identity`], [`replica`] |
//! | 5 | [`watch`], [`endpoints`], [`delivery`], [`broker`] |
//! | 6 | [`pipeline`], [`listener`], [`admin`], [`operator`], [`doctor`], [`dev`], [`webhook`] |
//! | 7 | [`app`] |
//! | 8 | [`cli`] |
//!
//! # What always holds
//!
//! - Only [`config`] knows TOML; every other module receives values that cannot be wrong.
//! - Only [`app`] starts threads and long-lived tasks, but for the Secrets that a [`broker`] follows; dropping the [`app::Gateway`] ends
//!   them all.
//! - Only [`pipeline::reject`] makes a refusal; only [`cli`] writes to the terminal.
//! - A token or a secret is never formatted ([`base::secret`]); the access log has no query and no header.
//! - What is not known is refused with 503, never let through, unless the configuration says otherwise in words.

pub mod base;
pub mod config;
pub mod telemetry;

pub mod issuer;
pub mod kubernetes;
pub mod redis;
pub mod router;
pub mod token_service;
pub mod upstream;

pub mod rates;
pub mod users;

pub mod identity;
pub mod replica;

pub mod broker;
pub mod delivery;
pub mod endpoints;
pub mod watch;

pub mod admin;
pub mod dev;
pub mod doctor;
pub mod listener;
pub mod operator;
pub mod pipeline;
pub mod webhook;

pub mod app;
pub mod cli;
