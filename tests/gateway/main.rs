//! The gateway as a whole: started in process from TOML text, between an embedded issuer and an upstream that records, over
//! real sockets.
//!
//! Each test is a sentence and stands alone: ports are free ones, and time is a clock that the test moves. What has to happen
//! in another thread is waited for by [`support::eventually`], which gives up after ten seconds.

// Helpers are no tests, so clippy does not see that a failure in them is a test's failure.
#![allow(clippy::unwrap_used)]

mod auth_token;
mod authenticate;
mod authorize;
mod cli;
mod client_certificate;
mod client_credentials;
mod compiler;
mod cors;
mod credential;
mod endpoints;
mod exchange;
mod follow;
mod forward;
mod grpc;
mod key_set;
mod kubernetes;
mod lifecycle;
mod limit;
mod observed;
mod opaque;
mod operator;
mod own_tokens;
mod paths;
mod protocols;
mod purge;
mod redis;
mod resilience;
mod route_limit;
mod server_names;
mod service_account;
mod shared_limit;
mod streams;
mod strip;
mod support;
mod tidy;
mod traces;
mod transform;
mod user_status;
mod user_store;
mod webhook;
mod websocket;
