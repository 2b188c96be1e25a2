//! What is seen from outside: metrics, one access line a request, spans of sampled requests, the audit log, the
//! operator's log.

pub mod access_log;
pub mod audit_log;
pub mod credentials;
pub mod encode;
pub mod histogram;
pub mod metrics;
pub mod reason;
pub mod traces;
pub mod upstreams;

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts the operator's log on standard error. A second call changes nothing.
pub fn start_log(log: &Log) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let log_to_stderr = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A log that is already there stays: tests and embedders may have their own.
    let _ = match log.format {
        LogFormat::Text => log_to_stderr.try_init(),
        LogFormat::Json => log_to_stderr.json().try_init(),
    };
}
