//! The keys that Postern makes itself, as one value: what is due of them is decided here and nowhere else. They are kept as a few
//! named texts, `SECONDS.pem`, in a folder or in a Secret; the name says from when its key signs, so these texts are all the state
//! there is, and every replica reads the same from it.

use super::keys::{KeyError, SigningKey};
use super::ring::KeyRing;
use crate::base::secret::Secret;
use crate::config::SigningAlgorithm;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A new key is published this long before it signs, so that receivers who cache the key set know it in time, and every replica
/// has time to publish it.
const PUBLISHED_AHEAD: i64 = 3600;

/// A key is published this long after its successor took over: the longest life of a token and an hour for clocks.
const PUBLISHED_AFTER: i64 = 1800 + 3600;

/// Keys by the second from which they sign.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeptKeys(BTreeMap<i64, Kept>);

#[derive(Debug, Clone)]
struct Kept {
    key: Arc<SigningKey>,
    pem: Secret,
}

impl PartialEq for Kept {
    /// How the text is written is nothing.
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl KeptKeys {
    /// Reads the texts that [`KeptKeys::files`] gave. Other names are passed over.
    ///
    /// # Errors
    /// [`KeyError::NoKey`] with the name of a text that holds no key.
    pub fn parse<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, KeyError> {
        let mut keys = BTreeMap::new();
        for (name, pem) in files {
            let Some(since) = since(name) else { continue };
            let key = SigningKey::from_pem(pem.as_bytes()).ok_or_else(|| KeyError::NoKey { path: name.into() })?;
            keys.insert(since, Kept { key: Arc::new(key), pem: Secret::new(pem) });
        }
        Ok(Self(keys))
    }

    /// The texts to keep, by name. Names are fit for files and for the data of a Secret.
    pub fn files(&self) -> BTreeMap<String, Secret> {
        self.0.iter().map(|(since, kept)| (name(*since), kept.pem.clone())).collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is to be kept instead, if anything is due at `now` (seconds since 1970): the first key, the next one, or less.
    ///
    /// # Errors
    /// [`KeyError::Generate`].
    pub fn maintained(&self, algorithm: SigningAlgorithm, every: Duration, now: i64) -> Result<Option<Self>, KeyError> {
        let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
        let due = match self.current(now) {
            None => Some(now),
            Some(_) if self.0.last_key_value().is_some_and(|(last, _)| *last > now) => None,
            Some(current) if now.saturating_add(PUBLISHED_AHEAD) < current.saturating_add(every) => None,
            Some(_) => Some(now + PUBLISHED_AHEAD),
        };
        let mut next = self.clone();
        if let Some(since) = due {
            let (key, pem) = SigningKey::generate(algorithm)?;
            next.0.insert(since, Kept { key: Arc::new(key), pem: Secret::new(pem.as_str()) });
        }
        // A key goes when its successor has signed for so long that no token of it lives.
        while let Some(successor) = next.0.keys().nth(1)
            && successor + PUBLISHED_AFTER < now
        {
            next.0.pop_first();
        }
        Ok((next != *self).then_some(next))
    }

    /// The keys in force at `now`.
    pub(super) fn ring(&self, now: i64) -> KeyRing {
        let current = self.current(now).and_then(|since| self.0.get(&since)).map(|kept| Arc::clone(&kept.key));
        KeyRing::new(current, self.0.values().map(|kept| Arc::clone(&kept.key)).collect())
    }

    /// The last key that signs already; if none does, the first that will.
    fn current(&self, now: i64) -> Option<i64> {
        self.0.range(..=now).next_back().or_else(|| self.0.first_key_value()).map(|(since, _)| *since)
    }
}

fn name(since: i64) -> String {
    format!("{since}.pem")
}

fn since(name: &str) -> Option<i64> {
    name.strip_suffix(".pem")?.parse().ok()
}

/// The path of a text that could not be used, below where the texts lie.
pub(super) fn below(place: &std::path::Path, error: KeyError) -> KeyError {
    match error {
        KeyError::NoKey { path } => KeyError::NoKey { path: PathBuf::from(place).join(path) },
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;
    const START: i64 = 1_800_000_000;
    const EVERY: Duration = Duration::from_secs(30 * 86_400);

    fn next(keys: &KeptKeys, now: i64) -> Option<KeptKeys> {
        keys.maintained(SigningAlgorithm::EdDsa, EVERY, now).unwrap()
    }

    fn signer(keys: &KeptKeys, now: i64) -> String {
        keys.ring(now).current().unwrap().id().to_owned()
    }

    #[test]
    fn a_new_key_is_published_an_hour_before_it_signs_and_the_old_one_until_its_last_token_died() {
        let first = next(&KeptKeys::default(), START).unwrap();
        let old = signer(&first, START);
        assert_eq!(next(&first, START + 30 * DAY - 3_601), None);

        let ahead = START + 30 * DAY - 3_600;
        let both = next(&first, ahead).unwrap();
        assert_eq!((signer(&both, ahead), both.ring(ahead).published().len()), (old.clone(), 2));
        assert_eq!(next(&both, ahead), None, "it is made once");
        assert_eq!(signer(&both, ahead + 3_599), old);

        let turned = ahead + 3_600;
        assert_ne!(signer(&both, turned), old);
        assert_eq!(next(&both, turned + 5_400), None);
        let alone = next(&both, turned + 5_401).unwrap();
        assert_eq!(alone.ring(turned + 5_401).published().len(), 1);
        assert_eq!(signer(&alone, turned + 5_401), signer(&both, turned));
    }

    /// However seldom anybody looks: whatever was published by a replica an hour ago signs, and what signed within the life of a
    /// token is published.
    #[test]
    fn who_looks_seldom_loses_no_key() {
        for pause in [60, 1_800, 3_000, 86_400, 45 * DAY] {
            let mut keys = next(&KeptKeys::default(), START).unwrap();
            let (mut now, mut last) = (START, signer(&keys, START));
            for _ in 0..200 {
                now += pause;
                let known: Vec<_> = keys.ring(now).published().iter().map(|key| key.id().to_owned()).collect();
                let signing = signer(&keys, now);
                assert!(known.contains(&last) && known.contains(&signing), "after {pause} s");
                if let Some(changed) = next(&keys, now) {
                    keys = changed;
                }
                assert_eq!(signer(&keys, now), signing, "a change never changes who signs now, every {pause} s");
                last = signing;
            }
        }
    }

    #[test]
    fn what_was_written_is_read_back_and_a_text_that_is_no_key_is_named() {
        let keys = next(&KeptKeys::default(), START).unwrap();
        let files = keys.files();
        let texts = || files.iter().map(|(name, text)| (name.as_str(), text.expose()));
        assert_eq!(KeptKeys::parse(texts().chain([("current.pem", "x"), ("notes", "y")])).unwrap(), keys);
        let damaged = KeptKeys::parse(texts().chain([("1900000000.pem", "x")])).unwrap_err();
        assert!(damaged.to_string().contains("`1900000000.pem`"), "{damaged}");
        assert!(!format!("{keys:?}").contains("PRIVATE"));
    }
}
