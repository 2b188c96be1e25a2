//! The folder where the material lies: one file for each certificate with its key, for their owner alone.

use super::CertificateError;
use super::material::Material;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What lies in the folder; it is made if it is absent.
pub(super) fn load(folder: &Path) -> Result<Material, CertificateError> {
    let files = read(folder).map_err(|(path, source)| CertificateError::Io { path, source })?;
    Material::parse(files.iter().map(|(name, text)| (name.as_str(), text.as_str())))
}

/// Writes what is new, then removes what went. Whoever stops in between leaves more than is needed, never less.
pub(super) fn store(folder: &Path, old: &Material, new: &Material) -> Result<(), CertificateError> {
    let failed = |path: PathBuf| move |source| CertificateError::Io { path, source };
    let (old, new) = (old.files(), new.files());
    for (name, text) in new.iter().filter(|(name, text)| old.get(*name) != Some(text)) {
        let path = folder.join(name);
        write(&path, text.expose().as_bytes()).map_err(failed(path))?;
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            // Another replica was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(failed(path))?,
        }
    }
    Ok(())
}

fn read(folder: &Path) -> Result<BTreeMap<String, String>, (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let path = entry.map_err(at(folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !name.ends_with(".pem") {
            continue;
        }
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            text => drop(files.insert(name.to_owned(), text.map_err(at(&path))?)),
        }
    }
    Ok(files)
}

/// Writes a whole file or none, readable by its owner alone.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}
