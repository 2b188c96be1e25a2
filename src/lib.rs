//! Postern: an authenticating reverse proxy with a token service.

pub mod admin;
pub mod app;
pub mod base;
pub mod cli;
pub mod config;
pub mod dev;
pub mod identity;
pub mod issuer;
pub mod listener;
pub mod pipeline;
pub mod router;
pub mod telemetry;
pub mod token_service;
pub mod upstream;
