//! Which key signs now, and which are published; where they come from.

use super::folder;
use super::kept::KeptKeys;
use super::keys::{KeyError, SigningKey};
use crate::base::clock::Now;
use crate::config::{self, SigningKeys};
use arc_swap::ArcSwapOption;
use std::sync::Arc;

/// The signing keys at one moment. There may be none yet, where they are kept in a Secret.
#[derive(Debug, Default, PartialEq)]
pub struct KeyRing {
    current: Option<Arc<SigningKey>>,
    published: Vec<Arc<SigningKey>>,
}

/// The keys of the Secret `postern-signing-keys`, as they were last seen in it and found good. Outlives reloads.
#[derive(Debug, Default)]
pub struct SharedKeys(ArcSwapOption<KeptKeys>);

impl SharedKeys {
    /// Puts in force what is in the Secret. From now on until [`super::TokenService::maintain`] the old keys sign.
    pub fn put(&self, keys: KeptKeys) {
        self.0.store(Some(Arc::new(keys)));
    }

    /// What was last seen.
    pub fn get(&self) -> Option<Arc<KeptKeys>> {
        self.0.load_full()
    }
}

impl KeyRing {
    pub(super) fn new(current: Option<Arc<SigningKey>>, published: Vec<Arc<SigningKey>>) -> Self {
        Self { current, published }
    }

    /// Reads the keys; in a folder of Postern's own, makes and removes those that are due.
    pub(super) fn load(config: &config::TokenService, shared: Option<&SharedKeys>, now: Now) -> Result<Self, KeyError> {
        match &config.signing_keys {
            SigningKeys::Files(paths) => {
                let keys =
                    paths.iter().map(|path| SigningKey::load(path).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
                Ok(Self { current: keys.first().cloned(), published: keys })
            }
            SigningKeys::Directory { path, rotate_every } => {
                let now = now.unix_seconds();
                Ok(folder::maintain(path, config.algorithm, *rotate_every, now)?.ring(now))
            }
            SigningKeys::Secret { .. } => {
                let keys = shared.ok_or(KeyError::Elsewhere)?.get();
                Ok(keys.map(|keys| keys.ring(now.unix_seconds())).unwrap_or_default())
            }
        }
    }

    /// One new key that is kept nowhere.
    pub(super) fn ephemeral(algorithm: config::SigningAlgorithm) -> Result<Self, KeyError> {
        let (key, _) = SigningKey::generate(algorithm)?;
        let current = Arc::new(key);
        Ok(Self { published: vec![Arc::clone(&current)], current: Some(current) })
    }

    /// The key that signs; `None` while there is none.
    pub fn current(&self) -> Option<&SigningKey> {
        self.current.as_deref()
    }

    /// Every key that a receiver should know.
    pub fn published(&self) -> &[Arc<SigningKey>] {
        &self.published
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::config;
    use super::*;
    use crate::base::clock::Clock;
    use crate::config::SigningAlgorithm;

    #[test]
    fn of_listed_files_the_first_signs_and_all_are_published() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path(), SigningAlgorithm::Es256);
        let paths = ["a.pem", "b.pem"].map(|name| folder.path().join(name));
        for path in &paths {
            std::fs::write(path, SigningKey::generate(SigningAlgorithm::Es256).unwrap().1.as_bytes()).unwrap();
        }
        config.signing_keys = SigningKeys::Files(paths.to_vec());
        let ring = KeyRing::load(&config, None, Clock::manual(0).now()).unwrap();
        assert_eq!(ring.current().unwrap().id(), SigningKey::load(&paths[0]).unwrap().id());
        assert_eq!(ring.published().len(), 2);
    }
}
