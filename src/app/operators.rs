//! The thread of the operators' API: an act waits for the disk, which must keep neither requests nor the control plane waiting.

use super::workers::until_drain;
use super::{Gateway, StartError};
use crate::base::tick;
use crate::config;
use crate::identity::Shared;
use crate::operator::{self, Operators};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::runtime::LocalOptions;

/// Opens the listener, where there is to be one, and checks the files that it needs.
pub(super) fn bind(
    config: Option<&config::Operator>,
) -> Result<Option<(TcpListener, Arc<config::Operator>)>, StartError> {
    let Some(config) = config else { return Ok(None) };
    operator::check(config).map_err(StartError::Operator)?;
    let listen = || {
        let listener = TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let listener = listen().map_err(|source| StartError::Listen { address: config.listen, source })?;
    Ok(Some((listener, Arc::new(config.clone()))))
}

impl Gateway {
    pub(super) fn start_operators(
        &self,
        listener: TcpListener,
        config: Arc<config::Operator>,
    ) -> Result<JoinHandle<()>, StartError> {
        let pipeline = Arc::clone(&self.pipeline);
        let operators = Operators {
            config,
            users: Arc::clone(&self.shared().users),
            clock: self.shared().clock.clone(),
            verifier: Arc::new(move || Arc::clone(pipeline.load().verifier())),
            issuer_clocks: self.issuer_clocks(),
            delivered: self
                .delivery
                .clone()
                .map(|delivery| -> operator::Delivered { Arc::new(move || delivery.shown().to_json()) }),
        };
        let mut phase = self.phase.subscribe();
        let run = move || {
            let runtime =
                match tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                    Ok(runtime) => runtime,
                    Err(error) => return tracing::error!(%error, "the operators' API cannot be served"),
                };
            runtime.block_on(async move {
                tokio::task::spawn_local(tick::run());
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => drop(tokio::task::spawn_local(operators.serve(listener))),
                    Err(error) => tracing::error!(%error, "the operators' API cannot be served"),
                }
                until_drain(&mut phase).await;
            });
        };
        std::thread::Builder::new().name("operators".into()).spawn(run).map_err(StartError::Thread)
    }

    /// The clock of an issuer that is watched, asked where the watch runs; ours for another.
    fn issuer_clocks(&self) -> operator::IssuerClocks {
        let watches = Arc::clone(&self.watches);
        let Shared { clock, control, .. } = self.shared().clone();
        Arc::new(move |issuer| {
            let (watch, clock, control) = (watches.of(issuer), clock.clone(), control.clone());
            Box::pin(async move {
                let Some(watch) = watch else { return Some(clock.now().unix_ms) };
                let asked = control.spawn(async move { watch.directory().ask_time().await });
                asked.await.ok()?.ok().map(|time| time.latest_ms)
            })
        })
    }
}
