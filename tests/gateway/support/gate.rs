//! Lets a test say when an upstream goes on.

use super::PATIENCE;
use std::sync::{Arc, Condvar, Mutex};

/// Shut until opened. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open, or the test is long over.
    pub(crate) fn pass(&self) {
        let is_open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(is_open, 3 * PATIENCE, |is_open| !*is_open).unwrap());
    }
}
