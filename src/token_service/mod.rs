//! Postern as an issuer: short-lived tokens of its own, scoped to one namespace and one audience.

mod folder;
mod kept;
pub mod keys;
pub mod mint;
pub mod obtained;
pub mod publish;
mod ring;
mod said;

pub use kept::KeptKeys;
pub use keys::{KeyError, SigningKey};
pub use mint::{Grant, MintError, Minted, NamespaceKind};
pub use ring::{KeyRing, SharedKeys};
pub use said::Said;

use crate::base::clock::{Clock, Now};
use crate::config;
use arc_swap::ArcSwap;
use obtained::{Purpose, Slot};
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;

/// A credential is minted anew once it has less than this left, so that at least ten minutes remain whenever one is
/// handed out, clock differences included. In seconds.
const REUSE_FLOOR: i64 = 12 * 60;

/// Mints and publishes. Shared by all workers; read without a lock.
#[derive(Debug)]
pub struct TokenService {
    config: config::TokenService,
    clock: Clock,
    ring: ArcSwap<KeyRing>,
    shared: Option<Arc<SharedKeys>>,
    receipts: OnceLock<mpsc::UnboundedSender<Receipt>>,
}

/// That a token was made for an audience which wants to be told what befalls its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// `orig_iss`.
    pub original_issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`.
    pub audience: String,
    /// `exp`, in seconds since 1970.
    pub expires: i64,
    /// `epoch`.
    pub epoch: u64,
}

impl TokenService {
    /// Loads the signing keys, making the first one where Postern keeps them itself.
    ///
    /// # Errors
    /// [`KeyError`] names the file or folder that cannot be used.
    pub fn start(config: config::TokenService, clock: Clock) -> Result<Self, KeyError> {
        let ring = KeyRing::load(&config, None, clock.now())?;
        Ok(Self::with(config, clock, ring, None))
    }

    /// As [`TokenService::start`]; keys that are kept in a Secret are those that are `shared`, of which there may be none yet.
    ///
    /// # Errors
    /// As [`TokenService::start`].
    pub fn start_shared(
        config: config::TokenService,
        clock: Clock,
        shared: &Arc<SharedKeys>,
    ) -> Result<Self, KeyError> {
        let ring = KeyRing::load(&config, Some(shared), clock.now())?;
        Ok(Self::with(config, clock, ring, Some(Arc::clone(shared))))
    }

    /// A service with a key of its own that nobody knows, for `explain`: nothing is read or written.
    ///
    /// # Errors
    /// No key could be made.
    pub fn ephemeral(config: config::TokenService, clock: Clock) -> Result<Self, KeyError> {
        let ring = KeyRing::ephemeral(config.algorithm)?;
        Ok(Self::with(config, clock, ring, None))
    }

    fn with(config: config::TokenService, clock: Clock, ring: KeyRing, shared: Option<Arc<SharedKeys>>) -> Self {
        Self { config, clock, ring: ArcSwap::from_pointee(ring), shared, receipts: OnceLock::new() }
    }

    /// Has every token that is minted for the audience of a client noted there, before it is handed out. Once; without it
    /// nothing is noted.
    pub fn send_receipts(&self, to: mpsc::UnboundedSender<Receipt>) {
        let _ = self.receipts.set(to);
    }

    /// Rotates keys that are due, and notices key files that changed. Called by the control plane every minute; on an
    /// error the keys in force stay.
    ///
    /// # Errors
    /// As [`TokenService::start`].
    pub fn maintain(&self) -> Result<(), KeyError> {
        let ring = KeyRing::load(&self.config, self.shared.as_deref(), self.clock.now())?;
        if ring != **self.ring.load() {
            let key = ring.current().map(SigningKey::id);
            tracing::info!(key, published = ring.published().len(), "signing keys changed");
            self.ring.store(Arc::new(ring));
        }
        Ok(())
    }

    /// The settings it was started with.
    pub fn config(&self) -> &config::TokenService {
        &self.config
    }

    /// The keys in force; none until the Secret was read, where they are kept in one.
    pub fn ring(&self) -> Arc<KeyRing> {
        self.ring.load_full()
    }

    /// A credential for what `grant` says: the cached one while it has enough life left and its key still signs, else a
    /// fresh one.
    ///
    /// # Errors
    /// [`MintError`] where no sound token can be made; the request is then refused with 503.
    pub fn credential(&self, cached: &CredentialCache, grant: &Grant<'_>, now: Now) -> Result<Arc<Minted>, MintError> {
        let ring = self.ring.load();
        let key = ring.current().ok_or(MintError::NoKey)?;
        let is_usable = |minted: &&Arc<Minted>| {
            minted.is_for(grant) && minted.expires - now.unix_seconds() >= REUSE_FLOOR && minted.key_id() == key.id()
        };
        let minted = cached.minted.get_or_init(ArcSwap::default);
        let known = minted.load();
        if let Some(minted) = known.iter().find(is_usable) {
            return Ok(Arc::clone(minted));
        }
        let fresh = Arc::new(mint::mint(&self.config, key, grant, now)?);
        self.note(grant, fresh.expires);
        // Two workers may mint at once; each hands out a sound token, and one of them stays cached.
        let mut list: Vec<_> = known.iter().filter(|other| !other.is_for(grant)).cloned().collect();
        list.push(Arc::clone(&fresh));
        minted.store(Arc::new(list));
        Ok(fresh)
    }

    /// Without a lock and without waiting.
    fn note(&self, grant: &Grant<'_>, expires: i64) {
        let Some(receipts) = self.receipts.get() else { return };
        let audience = &grant.template.audience;
        if self.config.clients.iter().any(|client| client.audience == *audience) {
            // Nobody takes them any more while the process ends.
            let _ = receipts.send(Receipt {
                original_issuer: grant.original_issuer.to_owned(),
                subject: grant.subject.to_owned(),
                audience: audience.clone(),
                expires,
                epoch: grant.epoch,
            });
        }
    }

    /// Signs a security event token (RFC 8417) over `claims`, which are JSON, with the key in force.
    ///
    /// # Errors
    /// [`MintError`].
    pub fn sign_event(&self, claims: &[u8]) -> Result<String, MintError> {
        let ring = self.ring.load();
        let key = ring.current().ok_or(MintError::NoKey)?;
        key.sign_event(claims).ok_or_else(|| MintError::Sign { key: key.id().to_owned() })
    }
}

/// The credentials made for one identity: few, so lists. Dropped with the identity, which a changed claim replaces.
///
/// A list begins with its first credential: most identities that are read from a token turn out to be known, and are dropped again.
#[derive(Debug, Default)]
pub struct CredentialCache {
    minted: OnceLock<ArcSwap<Vec<Arc<Minted>>>>,
    /// The places of those that others make.
    obtained: OnceLock<ArcSwap<Vec<Arc<Slot>>>>,
}

/// So many places of credentials that others make has one identity at most. A user has few sessions through one client.
const MOST_SLOTS: usize = 64;

impl CredentialCache {
    /// Forgets a token that its upstream did not take. Whether this was the first to say so.
    pub fn purge(&self, refused: &Arc<Minted>) -> bool {
        let minted = self.minted.get_or_init(ArcSwap::default);
        let known = minted.load();
        let others: Vec<_> = known.iter().filter(|minted| !Arc::ptr_eq(minted, refused)).cloned().collect();
        others.len() < known.len() && {
            let before = minted.compare_and_swap(&known, Arc::new(others));
            // If another token came at this moment, the next request says it again.
            Arc::ptr_eq(&before, &known)
        }
    }

    /// The place of a credential that somebody else makes. Where there is none it is made, in place of one that nobody would miss
    /// if there are too many.
    pub fn slot(&self, purpose: &Purpose, now: Now) -> Arc<Slot> {
        let find = |known: &[Arc<Slot>]| known.iter().find(|slot| slot.is_for(purpose)).cloned();
        let obtained = self.obtained.get_or_init(ArcSwap::default);
        if let Some(known) = find(&obtained.load()) {
            return known;
        }
        let new = Arc::new(Slot::new(purpose.clone()));
        let mut chosen = Arc::clone(&new);
        obtained.rcu(|known| {
            chosen = find(known).unwrap_or_else(|| Arc::clone(&new));
            let mut list: Vec<_> =
                known.iter().filter(|slot| !slot.is_for(purpose) && !slot.is_idle(now)).cloned().collect();
            // Whoever holds the oldest goes on with it.
            list.drain(..(list.len() + 1).saturating_sub(MOST_SLOTS));
            list.push(Arc::clone(&chosen));
            list
        });
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn service(folder: &std::path::Path, clock: &Clock) -> TokenService {
        TokenService::start(keys::tests::config(folder, config::SigningAlgorithm::Es256), clock.clone()).unwrap()
    }

    #[test]
    fn a_credential_always_has_ten_minutes_left_and_never_more_than_thirty() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(1_800_000_000);
        let service = service(folder.path(), &clock);
        let cache = CredentialCache::default();
        let template = Arc::new(config::NamespaceToken { audience: "orders".into(), ..Default::default() });
        let grant = mint::tests::grant(&template);
        let mut minted = std::collections::HashSet::new();
        for _ in 0..400 {
            let now = clock.now();
            let credential = service.credential(&cache, &grant, now).unwrap();
            let left = credential.expires - now.unix_seconds();
            assert!((600..=1800).contains(&left), "{left} s left");
            minted.insert(credential.header().to_str().unwrap().to_owned());
            clock.advance(Duration::from_secs(30));
        }
        assert!((8..=20).contains(&minted.len()), "{} tokens in 200 minutes", minted.len());
    }

    #[test]
    fn credentials_for_other_audiences_and_namespaces_are_kept_apart() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(1_800_000_000);
        let service = service(folder.path(), &clock);
        let cache = CredentialCache::default();
        let orders = Arc::new(config::NamespaceToken { audience: "orders".into(), ..Default::default() });
        let billing = Arc::new(config::NamespaceToken { audience: "billing".into(), ..Default::default() });
        let one = service.credential(&cache, &mint::tests::grant(&orders), clock.now()).unwrap();
        let other = service.credential(&cache, &mint::tests::grant(&billing), clock.now()).unwrap();
        let elsewhere = Grant { namespace: "team-b", ..mint::tests::grant(&orders) };
        let third = service.credential(&cache, &elsewhere, clock.now()).unwrap();
        let again = service.credential(&cache, &mint::tests::grant(&orders), clock.now()).unwrap();
        assert!(one.header() != other.header() && one.header() != third.header());
        assert_eq!(one.header(), again.header());
    }

    #[test]
    fn a_purged_token_is_minted_anew_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(1_800_000_000);
        let service = service(folder.path(), &clock);
        let cache = CredentialCache::default();
        let template =
            |audience: &str| Arc::new(config::NamespaceToken { audience: audience.into(), ..Default::default() });
        let (orders, billing) = (template("orders"), template("billing"));
        let mint = |template| service.credential(&cache, &mint::tests::grant(template), clock.now()).unwrap();
        let (refused, other) = (mint(&orders), mint(&billing));
        assert!(cache.purge(&refused) && !cache.purge(&refused));
        assert!(mint(&orders).header() != refused.header() && mint(&billing).header() == other.header());
    }

    #[test]
    fn a_purpose_has_one_place() {
        let (cache, clock) = (CredentialCache::default(), Clock::manual(1_800_000_000));
        let place = |at: &CredentialCache| at.slot(&Purpose::Client, clock.now());
        assert!(Arc::ptr_eq(&place(&cache), &place(&cache)));
        assert!(!Arc::ptr_eq(&place(&cache), &place(&CredentialCache::default())));
    }
}
