//! Postern: an authenticating reverse proxy with a token service.

pub mod base;
pub mod cli;
pub mod config;
