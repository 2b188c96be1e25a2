//! Tokens in files, one a user: `DIRECTORY/ISSUER/USER-ID`. Whoever opens one finds a whole token, or an empty file; never a part,
//! and never another user's.
//!
//! A file is replaced, never written into: what was opened before keeps what it was.

use super::record::digest_of;
use super::sink::Content;
use crate::base::secret::Secret;
use crate::users::UserId;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The folder.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
}

/// Names of unfinished files begin so; no user's name does.
const UNFINISHED: &str = ".new-";

/// The longest name that is an id as it is, beside the mark of an unfinished one. File systems take 255.
const LONGEST: usize = 200;

/// No token is larger; what is, is none of ours.
const MOST: u64 = 64 * 1024;

impl Files {
    /// Makes the folder of an issuer, and removes what a process that was killed left unfinished.
    ///
    /// # Errors
    /// It cannot be made or read.
    pub fn open(directory: &Path, issuer: &str) -> io::Result<Self> {
        let root = directory.join(encode(issuer));
        DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        for entry in std::fs::read_dir(&root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { root })
    }

    /// Where a user's token is.
    pub fn path(&self, user: &UserId) -> PathBuf {
        self.root.join(encode(user.subject()))
    }

    /// Puts a text, which may be empty, in the place of what is there. It is on the disk when this returns.
    ///
    /// # Errors
    /// Nothing changed, unless only the folder could not be synced.
    pub fn write(&self, user: &UserId, text: &str) -> io::Result<()> {
        let name = encode(user.subject());
        let unfinished = self.root.join(format!("{UNFINISHED}{name}"));
        // Whatever lies there is ours, and unfinished.
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        let outcome = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        drop(file);
        match outcome.and_then(|()| std::fs::rename(&unfinished, self.root.join(name))) {
            Ok(()) => File::open(&self.root)?.sync_all(),
            Err(error) => {
                // The next write removes it, if this does not.
                let _ = std::fs::remove_file(&unfinished);
                Err(error)
            }
        }
    }

    /// Removes a user's file.
    ///
    /// # Errors
    /// It may still be there.
    pub fn remove(&self, user: &UserId) -> io::Result<()> {
        match std::fs::remove_file(self.path(user)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => File::open(&self.root)?.sync_all(),
        }
    }

    /// What whoever opens the file finds.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, user: &UserId) -> io::Result<Content> {
        let path = self.path(user);
        let found = match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Absent),
            found => found?,
        };
        // A link that somebody put there is replaced, never followed.
        if !found.is_file() || found.len() > MOST {
            return Ok(Content::Foreign);
        }
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        File::open(&path)?.take(MOST).read_to_end(&mut bytes)?;
        Ok(match std::str::from_utf8(&bytes) {
            Ok("") => Content::Empty,
            Ok(text) => Content::Text(Secret::new(text)),
            Err(_) => Content::Foreign,
        })
    }
}

/// An id as a file's name: letters, digits, `-` and `_` as they are, every other byte as `%XX`; so no name is `.` or `..`, none holds
/// a `/`, and no two ids have the same. A name that would be too long is `~` and its digest.
fn encode(id: &str) -> String {
    let mut name = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.len() > LONGEST { format!("~{}", digest_of(id.as_bytes())) } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::os::unix::fs::PermissionsExt;

    fn user(subject: &str) -> UserId {
        UserId::new("main", subject).unwrap()
    }

    fn open(folder: &tempfile::TempDir) -> Files {
        Files::open(&folder.path().join("tokens"), "main").unwrap()
    }

    #[track_caller]
    fn check(files: &Files, user: &UserId, expected: Content) {
        assert_eq!(files.read(user).unwrap(), expected);
    }

    #[test]
    fn a_file_is_replaced_emptied_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (files, alice) = (open(&folder), user("alice"));
        check(&files, &alice, Content::Absent);
        files.write(&alice, "").unwrap();
        check(&files, &alice, Content::Empty);
        files.write(&alice, "one").unwrap();
        // Who has it open keeps what they opened.
        let mut opened = File::open(files.path(&alice)).unwrap();
        files.write(&alice, "another").unwrap();
        let mut text = String::new();
        opened.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
        check(&files, &alice, Content::Text(Secret::new("another")));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&files.path(&alice)), mode(&files.root)), (0o600, 0o700));
        files.remove(&alice).unwrap();
        files.remove(&alice).unwrap();
        check(&files, &alice, Content::Absent);
        assert_eq!(std::fs::read_dir(&files.root).unwrap().count(), 0);
    }

    #[test]
    fn what_was_left_unfinished_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let (files, alice) = (open(&folder), user("alice"));
        files.write(&alice, "one").unwrap();
        let unfinished = files.root.join(".new-alice");
        std::fs::write(&unfinished, "hal").unwrap();
        files.write(&alice, "two").unwrap();
        check(&files, &alice, Content::Text(Secret::new("two")));
        std::fs::write(&unfinished, "hal").unwrap();
        let files = open(&folder);
        assert!(!unfinished.exists());
        check(&files, &alice, Content::Text(Secret::new("two")));
    }

    #[test]
    fn what_others_put_there_is_seen_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (files, alice) = (open(&folder), user("alice"));
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, files.path(&alice)).unwrap();
        check(&files, &alice, Content::Foreign);
        files.write(&alice, "one").unwrap();
        check(&files, &alice, Content::Text(Secret::new("one")));
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "precious");
        std::fs::write(files.path(&alice), [0xff, 0xfe]).unwrap();
        check(&files, &alice, Content::Foreign);
        std::fs::write(files.path(&alice), "a".repeat(100_000)).unwrap();
        check(&files, &alice, Content::Foreign);
    }

    #[test]
    fn ids_that_look_alike_have_files_of_their_own() {
        let long = "ä".repeat(255);
        let ids = ["a", "A", "a%2F", "a/", "..", ".", "~a", ".new-a", "a\0", "a\n", &long, &format!("{}x", &long[2..])];
        let names: HashSet<_> = ids.iter().map(|id| encode(id)).collect();
        assert_eq!(names.len(), ids.len());
    }

    proptest! {
        #[test]
        fn whatever_an_id_holds_its_file_stays_in_the_folder(id in "(?s).{1,255}") {
            let name = encode(&id);
            prop_assert!(!name.is_empty() && name.len() <= LONGEST && !name.starts_with('.'));
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_%~".contains(&byte)));
        }

        #[test]
        fn no_two_ids_have_the_same_file(one in "(?s).{1,80}", other in "(?s).{1,80}") {
            prop_assert_eq!(encode(&one) == encode(&other), one == other);
        }
    }
}
