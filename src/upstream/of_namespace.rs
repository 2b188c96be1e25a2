//! Upstreams whose host follows the user: one for each namespace, of which a worker knows the last used ones.

use crate::upstream::Upstream;
use std::collections::HashMap;
use std::sync::Arc;

/// So many are known. Each may have idle connections, which are closed when another takes its place.
const MOST: usize = 256;

/// Those of one worker.
#[derive(Debug, Default)]
pub(super) struct OfNamespaces {
    /// By namespace; few have more than one.
    known: HashMap<Box<str>, Vec<Known>>,
    count: usize,
    /// Grows with each use.
    uses: u64,
}

#[derive(Debug)]
struct Known {
    /// The id of the upstream with the variable.
    base: u64,
    upstream: Arc<Upstream>,
    used: u64,
}

impl OfNamespaces {
    /// That of a namespace, if it is known; it counts as used.
    pub(super) fn find(&mut self, base: u64, namespace: &str) -> Option<Arc<Upstream>> {
        let known = self.known.get_mut(namespace)?.iter_mut().find(|known| known.base == base)?;
        self.uses += 1;
        known.used = self.uses;
        Some(Arc::clone(&known.upstream))
    }

    /// Adds one that is not known; gives the one that had to go for it.
    pub(super) fn add(&mut self, base: u64, namespace: &str, upstream: Arc<Upstream>) -> Option<Arc<Upstream>> {
        let dropped = if self.count < MOST { None } else { self.drop_oldest() };
        self.uses += 1;
        self.count += 1;
        self.known.entry(namespace.into()).or_default().push(Known { base, upstream, used: self.uses });
        dropped
    }

    fn drop_oldest(&mut self) -> Option<Arc<Upstream>> {
        let all =
            self.known.iter().flat_map(|(namespace, known)| known.iter().map(move |known| (known.used, namespace)));
        let (used, namespace) = all.min()?;
        let namespace = namespace.clone();
        let known = self.known.get_mut(&namespace)?;
        let at = known.iter().position(|known| known.used == used)?;
        let dropped = known.swap_remove(at).upstream;
        if known.is_empty() {
            self.known.remove(&namespace);
        }
        self.count -= 1;
        Some(dropped)
    }
}
