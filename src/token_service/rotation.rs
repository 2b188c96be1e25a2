//! Which key signs now, and which are published. Keys that Postern makes itself lie in a folder; a file's name says from
//! when its key signs, so the folder is all the state there is and every replica reads the same from it.

use super::keys::{KeyError, SigningKey};
use crate::base::clock::Now;
use crate::config::{self, SigningKeys};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A new key is published this long before it signs, so that receivers who cache the key set know it in time.
const PUBLISHED_AHEAD: i64 = 3600;

/// A key is published this long after its successor took over: the longest life of a token and an hour for clocks.
const PUBLISHED_AFTER: i64 = 1800 + 3600;

/// The signing keys at one moment.
#[derive(Debug, PartialEq)]
pub struct KeyRing {
    current: Arc<SigningKey>,
    published: Vec<Arc<SigningKey>>,
}

impl KeyRing {
    /// Reads the keys; in a folder of Postern's own, makes and removes those that are due.
    pub(super) fn load(config: &config::TokenService, now: Now) -> Result<Self, KeyError> {
        match &config.signing_keys {
            SigningKeys::Files(paths) => {
                let keys =
                    paths.iter().map(|path| SigningKey::load(path).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
                let current = keys.first().cloned().ok_or(KeyError::Generate(config.algorithm))?;
                Ok(Self { current, published: keys })
            }
            SigningKeys::Directory { path, rotate_every } => {
                let mut folder = Folder::open(path)?;
                folder.rotate(config, *rotate_every, now.unix_seconds())?;
                folder.ring(now.unix_seconds())
            }
        }
    }

    /// One new key that is kept nowhere.
    pub(super) fn ephemeral(algorithm: config::SigningAlgorithm) -> Result<Self, KeyError> {
        let (key, _) = SigningKey::generate(algorithm)?;
        let current = Arc::new(key);
        Ok(Self { published: vec![Arc::clone(&current)], current })
    }

    /// The key that signs.
    pub fn current(&self) -> &SigningKey {
        &self.current
    }

    /// Every key that a receiver should know.
    pub fn published(&self) -> &[Arc<SigningKey>] {
        &self.published
    }
}

/// Keys by the second from which they sign, in that order. File names are `SECONDS.pem`.
struct Folder<'a> {
    path: &'a Path,
    since: Vec<i64>,
}

impl<'a> Folder<'a> {
    fn open(path: &'a Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io { path: path.to_owned(), source };
        create_private(path).map_err(io)?;
        let mut since = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            since.extend(name.to_str().and_then(|name| name.strip_suffix(".pem")?.parse::<i64>().ok()));
        }
        since.sort_unstable();
        Ok(Self { path, since })
    }

    fn file(&self, since: i64) -> PathBuf {
        self.path.join(format!("{since}.pem"))
    }

    /// The last key that signs already; if none does, the first that will.
    fn current(&self, now: i64) -> Option<i64> {
        self.since.iter().rfind(|since| **since <= now).or(self.since.first()).copied()
    }

    fn rotate(&mut self, config: &config::TokenService, every: Duration, now: i64) -> Result<(), KeyError> {
        let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
        let due = match self.current(now) {
            None => Some(now),
            Some(_) if self.since.last().is_some_and(|last| *last > now) => None,
            Some(current) if now.saturating_add(PUBLISHED_AHEAD) < current.saturating_add(every) => None,
            Some(_) => Some(now + PUBLISHED_AHEAD),
        };
        if let Some(since) = due {
            let (_, pem) = SigningKey::generate(config.algorithm)?;
            write_private(&self.file(since), pem.as_bytes())
                .map_err(|source| KeyError::Io { path: self.file(since), source })?;
            self.since.push(since);
        }
        // A key goes when its successor has signed for so long that no token of it lives.
        while let [oldest, next, ..] = self.since[..]
            && next + PUBLISHED_AFTER < now
        {
            let path = self.file(oldest);
            std::fs::remove_file(&path).map_err(|source| KeyError::Io { path, source })?;
            self.since.remove(0);
        }
        Ok(())
    }

    fn ring(&self, now: i64) -> Result<KeyRing, KeyError> {
        let mut published = Vec::new();
        let mut current = None;
        for since in &self.since {
            let key = Arc::new(SigningKey::load(&self.file(*since))?);
            if Some(*since) == self.current(now) {
                current = Some(Arc::clone(&key));
            }
            published.push(key);
        }
        let current = current.ok_or_else(|| KeyError::NoKey { path: self.path.to_owned() })?;
        Ok(KeyRing { current, published })
    }
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a whole file or none, readable by its owner alone.
fn write_private(path: &Path, text: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let unfinished = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::config;
    use super::*;
    use crate::base::clock::Clock;
    use crate::config::SigningAlgorithm;
    use std::os::unix::fs::PermissionsExt;

    const DAY: u64 = 86_400;

    #[test]
    fn keys_survive_a_restart_and_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), SigningAlgorithm::Es256);
        let now = Clock::manual(1_800_000_000).now();
        let first = KeyRing::load(&config, now).unwrap();
        assert_eq!(first, KeyRing::load(&config, now).unwrap());
        let file = std::fs::read_dir(folder.path().join("keys")).unwrap().next().unwrap().unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_new_key_is_published_an_hour_before_it_signs_and_the_old_one_until_its_last_token_died() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), SigningAlgorithm::EdDsa);
        let clock = Clock::manual(1_800_000_000);
        let first = KeyRing::load(&config, clock.now()).unwrap();
        let old = first.current().id().to_owned();

        clock.advance(Duration::from_secs(30 * DAY - 3_600));
        let ahead = KeyRing::load(&config, clock.now()).unwrap();
        assert_eq!((ahead.current().id(), ahead.published().len()), (old.as_str(), 2));

        clock.advance(Duration::from_secs(3_599));
        assert_eq!(KeyRing::load(&config, clock.now()).unwrap().current().id(), old);

        clock.advance(Duration::from_secs(1));
        let turned = KeyRing::load(&config, clock.now()).unwrap();
        assert_ne!(turned.current().id(), old);
        assert_eq!(turned.published().len(), 2);

        clock.advance(Duration::from_secs(1_800));
        assert_eq!(KeyRing::load(&config, clock.now()).unwrap().published().len(), 2);
        clock.advance(Duration::from_secs(3_601));
        assert_eq!(KeyRing::load(&config, clock.now()).unwrap().published().len(), 1);
    }

    #[test]
    fn of_listed_files_the_first_signs_and_all_are_published() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path(), SigningAlgorithm::Es256);
        let paths = ["a.pem", "b.pem"].map(|name| folder.path().join(name));
        for path in &paths {
            std::fs::write(path, SigningKey::generate(SigningAlgorithm::Es256).unwrap().1.as_bytes()).unwrap();
        }
        config.signing_keys = SigningKeys::Files(paths.to_vec());
        let ring = KeyRing::load(&config, Clock::manual(0).now()).unwrap();
        assert_eq!(ring.current().id(), SigningKey::load(&paths[0]).unwrap().id());
        assert_eq!(ring.published().len(), 2);
    }
}
