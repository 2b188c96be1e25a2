//! What replicas share through one Secret of Postern's own namespace: followed, and where this process may write, looked after.
//!
//! Whatever becomes of the Secret, what was last found good in it stays in force: if it is deleted it is written again from here, if
//! it cannot be read that is said and nothing is written. What is new is put in force only once the server has answered that it
//! is in the Secret.

use crate::base::secret::Secret;
use crate::kubernetes::own_secret::{OwnSecret, Texts};
use crate::kubernetes::{Change, KubernetesError, Write};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How often what is due is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How soon after a write that failed it is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What lies in the Secret.
pub(super) trait Kept: Send + Sync + 'static {
    /// All of it, as a value.
    type Content: Clone + PartialEq + Send + 'static;
    /// Why it cannot be read, or made.
    type Error: Error + Send + Sync + 'static;

    /// Reads texts. `None`: there are none of ours.
    fn read(texts: &BTreeMap<String, Secret>) -> Result<Option<Self::Content>, Self::Error>;

    /// The texts of what is to be kept.
    fn texts(content: &Self::Content) -> BTreeMap<String, Secret>;

    /// What is to be kept instead of what was found, if anything is due. May take a while.
    fn due(&self, found: Option<&Self::Content>) -> Result<Option<Self::Content>, Self::Error>;

    /// Puts in force what is in the Secret now.
    fn adopt(&self, content: &Self::Content);

    /// Counts that it could not be read or written.
    fn count_failure(&self);
}

/// Follows one Secret.
pub(super) struct SharedSecret<K: Kept> {
    secret: OwnSecret,
    /// What it is called in the log.
    what: &'static str,
    kept: Arc<K>,
    is_writer: bool,
    /// As it was last seen, or written.
    seen: Option<Texts>,
    in_force: Option<K::Content>,
    is_synced: bool,
    is_interrupted: bool,
    /// What was said of it last, so that it is said once.
    said: Option<String>,
}

impl<K: Kept> SharedSecret<K> {
    /// What follows `secret`, and changes it if it `is_writer`.
    pub(super) fn new(secret: OwnSecret, what: &'static str, kept: Arc<K>, is_writer: bool) -> Self {
        Self {
            secret,
            what,
            kept,
            is_writer,
            seen: None,
            in_force: None,
            is_synced: false,
            is_interrupted: false,
            said: None,
        }
    }

    /// Follows, for ever.
    pub(super) async fn run(mut self) -> Result<(), KubernetesError> {
        let watch = self.secret.watch()?;
        let (to, mut changes) = mpsc::channel(4);
        let follow = async {
            let mut next = Instant::now() + LOOK_EVERY;
            loop {
                tokio::select! {
                    change = changes.recv() => match change {
                        Some(change) => self.take(change),
                        None => return,
                    },
                    () = tokio::time::sleep_until(next) => {}
                }
                // Before the first list has been told, what was not seen may be there.
                if self.is_synced {
                    next = Instant::now() + self.look().await;
                }
            }
        };
        tokio::select! {
            () = watch.run(to) => {}
            () = follow => {}
        }
        Ok(())
    }

    fn take(&mut self, change: Change<Texts>) {
        match change {
            Change::Seen(texts) => self.seen = Some(texts),
            Change::Gone { .. } => self.seen = None,
            Change::Synced => {
                if std::mem::take(&mut self.is_interrupted) {
                    tracing::info!(what = self.what, "the Secret can be followed again");
                }
                self.is_synced = true;
            }
            Change::Interrupted(error) => {
                if !std::mem::replace(&mut self.is_interrupted, true) {
                    tracing::warn!(what = self.what, error = &error as &dyn Error, "the Secret cannot be followed");
                }
            }
        }
    }

    /// Puts in force what stands there, and writes what is due. Gives when to look again.
    async fn look(&mut self) -> Duration {
        let found = match self.seen.as_ref().map_or(Ok(None), |seen| K::read(seen.texts())) {
            Ok(found) => found,
            Err(error) => {
                self.complain("what was shared through it stays in force: delete it, and it is written again", &error);
                return LOOK_EVERY;
            }
        };
        if let Some(found) = &found {
            self.adopt(found);
        }
        if !self.is_writer {
            if found.is_none() && self.said.is_none() {
                self.said = Some(String::new());
                tracing::warn!(what = self.what, "there is nothing in the Secret: the token service has to make it");
            }
            return LOOK_EVERY;
        }
        match self.write(found).await {
            Ok(()) => LOOK_EVERY,
            Err(error) => {
                self.complain("what is due cannot be written", &*error);
                AGAIN_AFTER
            }
        }
    }

    async fn write(&mut self, found: Option<K::Content>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let (base, kept) = (found.clone().or_else(|| self.in_force.clone()), Arc::clone(&self.kept));
        let (base, due) = tokio::task::spawn_blocking(move || {
            let due = kept.due(base.as_ref());
            (base, due)
        })
        .await?;
        let wanted = match (due?, &found) {
            (Some(due), _) => due,
            (None, Some(_)) => return Ok(()),
            // Deleted by hand, or emptied.
            (None, None) => match base {
                Some(base) => base,
                None => return Ok(()),
            },
        };
        let old = found.as_ref().map(K::texts).unwrap_or_default();
        let mut put = K::texts(&wanted);
        let remove: Vec<_> = old.keys().filter(|name| !put.contains_key(*name)).map(String::as_str).collect();
        let is_made_again = found.is_none() && self.in_force.is_some();
        put.retain(|name, text| old.get(name) != Some(text));
        match self.secret.write(self.seen.as_ref(), &put, &remove).await? {
            Write::Done(written) => {
                if is_made_again {
                    tracing::warn!(what = self.what, "the Secret was gone or empty, and has been written again");
                }
                self.seen = Some(written);
                self.adopt(&wanted);
            }
            // The watch tells what others wrote.
            Write::Stale | Write::Held { .. } => {}
        }
        Ok(())
    }

    fn adopt(&mut self, content: &K::Content) {
        self.said = None;
        if self.in_force.as_ref() != Some(content) {
            self.in_force = Some(content.clone());
            self.kept.adopt(content);
        }
    }

    fn complain(&mut self, message: &str, error: &(dyn Error + 'static)) {
        self.kept.count_failure();
        let text = error.to_string();
        if self.said.as_ref() != Some(&text) {
            tracing::error!(what = self.what, error, "{message}");
            self.said = Some(text);
        }
    }
}
