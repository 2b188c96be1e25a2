//! A switch that tasks wait for. They are woken in the order in which they came, so that a seed plays the same each time.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::broadcast;

pub(crate) struct Switch {
    is_on: AtomicBool,
    turned: broadcast::Sender<()>,
}

impl Default for Switch {
    fn default() -> Self {
        Self { is_on: AtomicBool::new(false), turned: broadcast::Sender::new(1) }
    }
}

impl Switch {
    pub(crate) fn set(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
        // Nobody may be waiting.
        let _ = self.turned.send(());
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Waits until it is off.
    pub(crate) async fn off(&self) {
        let mut turned = self.turned.subscribe();
        while self.is_on() {
            let _ = turned.recv().await;
        }
    }
}
