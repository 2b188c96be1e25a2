//! Postern: an authenticating reverse proxy with a token service.

pub mod base;
pub mod config;
pub mod upstream;
