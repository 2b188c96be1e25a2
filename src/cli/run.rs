//! `postern run -c FILE`: starts, reloads on SIGHUP or when a file changed, drains on SIGTERM.

use crate::app::Gateway;
use crate::base::clock::Clock;
use crate::config::{self, Config};
use crate::telemetry;
use anyhow::{Context, anyhow};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often the files are looked at. Mounted ConfigMaps and Secrets change by a swap of links, which no watch of a file sees, so
/// contents are compared instead.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Runs the gateway until it is told to end.
///
/// # Errors
/// The configuration has mistakes, or something that it needs cannot be had.
pub fn run(path: &Path) -> anyhow::Result<()> {
    let config = load(path)?;
    telemetry::start_log(&config.log);
    let mut files = config.files.clone();
    let gateway = Gateway::start(config, Clock::system()).context("cannot start")?;
    for address in gateway.addresses() {
        tracing::info!(%address, "listening");
    }
    if let Some(address) = gateway.admin_address() {
        tracing::info!(%address, "health and metrics");
    }
    if let Some(address) = gateway.operator_address() {
        tracing::info!(%address, "operators");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(path, &gateway, &mut files))?;
    gateway.drain();
    Ok(())
}

fn load(path: &Path) -> anyhow::Result<Config> {
    config::load(path).map_err(|mistakes| anyhow!("the configuration cannot be used\n{mistakes}"))
}

/// Returns on SIGTERM or SIGINT.
async fn watch(path: &Path, gateway: &Gateway, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut seen = fingerprint(path, files);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => gateway.reopen_log(),
            () = tokio::time::sleep(LOOK_EVERY) => {
                if fingerprint(path, files) == seen {
                    continue;
                }
            }
        }
        seen = fingerprint(path, files);
        match reload(path, gateway) {
            Ok(named) => {
                *files = named;
                seen = fingerprint(path, files);
                tracing::info!("configuration reloaded");
            }
            Err(error) => tracing::error!("the old configuration stays in force: {error:#}"),
        }
    }
}

fn reload(path: &Path, gateway: &Gateway) -> anyhow::Result<Vec<PathBuf>> {
    let config = load(path).inspect_err(|_| gateway.count_failed_reload())?;
    let files = config.files.clone();
    gateway.reload(config)?;
    Ok(files)
}

/// Stands for the contents of the configuration and of every file that it names. One that cannot be read counts as empty: its
/// absence is a change too.
fn fingerprint(path: &Path, files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in std::iter::once(path).chain(files.iter().map(PathBuf::as_path)) {
        std::fs::read(file).unwrap_or_default().hash(&mut hasher);
    }
    hasher.finish()
}
