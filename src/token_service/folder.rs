//! The folder where Postern's own keys lie: one file for each, for their owner alone.

use super::kept::{KeptKeys, below};
use super::keys::KeyError;
use crate::config::SigningAlgorithm;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// The keys of a folder, with what is due of them made and removed. The folder is made if it is absent.
pub(super) fn maintain(
    folder: &Path,
    algorithm: SigningAlgorithm,
    every: Duration,
    now: i64,
) -> Result<KeptKeys, KeyError> {
    let files = read(folder).map_err(|(path, source)| KeyError::Io { path, source })?;
    let texts = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let kept = KeptKeys::parse(texts).map_err(|error| below(folder, error))?;
    let Some(next) = kept.maintained(algorithm, every, now)? else { return Ok(kept) };
    let (old, new) = (kept.files(), next.files());
    for (name, text) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        let path = folder.join(name);
        write_private(&path, text.expose().as_bytes()).map_err(|source| KeyError::Io { path, source })?;
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        let path = folder.join(name);
        std::fs::remove_file(&path).map_err(|source| KeyError::Io { path, source })?;
    }
    Ok(next)
}

fn read(folder: &Path) -> Result<BTreeMap<String, Zeroizing<String>>, (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    create_private(folder).map_err(at(folder))?;
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.ends_with(".pem") {
            // What is no text is no key either, and is told so.
            let bytes = Zeroizing::new(std::fs::read(&path).map_err(at(&path))?);
            files.insert(name.to_owned(), Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    Ok(files)
}

fn create_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a whole file or none, readable by its owner alone.
fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let unfinished = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const EVERY: Duration = Duration::from_secs(30 * 86_400);

    fn look(folder: &Path, now: i64) -> Result<KeptKeys, KeyError> {
        maintain(&folder.join("keys"), SigningAlgorithm::EdDsa, EVERY, now)
    }

    #[test]
    fn keys_survive_a_restart_and_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let first = look(folder.path(), 1_800_000_000).unwrap();
        assert_eq!(first, look(folder.path(), 1_800_000_001).unwrap());
        let file = std::fs::read_dir(folder.path().join("keys")).unwrap().next().unwrap().unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_file_of_a_key_that_is_no_longer_needed_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut counts = Vec::new();
        for days in [0, 29, 30, 31, 60] {
            look(folder.path(), 1_800_000_000 + days * 86_400).unwrap();
            counts.push(std::fs::read_dir(folder.path().join("keys")).unwrap().count());
        }
        assert_eq!(counts, [1, 1, 2, 1, 2]);
    }

    #[test]
    fn a_file_that_is_no_key_is_named_with_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        look(folder.path(), 1_800_000_000).unwrap();
        std::fs::write(folder.path().join("keys/1800000001.pem"), b"\xff\xff").unwrap();
        let said = look(folder.path(), 1_800_000_000).unwrap_err().to_string();
        assert!(said.contains("keys/1800000001.pem"), "{said}");
    }
}
