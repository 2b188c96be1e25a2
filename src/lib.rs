//! Postern: an authenticating reverse proxy with a token service.

pub mod base;
pub mod config;
pub mod router;
pub mod telemetry;
pub mod token_service;
