//! What a token says, whether it is yet to be minted or was found somewhere: so that one can be held against the other.

use super::mint::{Grant, outline};
use super::{KeyRing, TokenService};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a token that Postern signed says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// `kid` of the key that signed it.
    pub key: String,
    /// `exp`, in seconds since 1970.
    pub expires: i64,
    /// The user's block epoch when it was minted.
    pub epoch: u64,
    /// The digest of all else that it says about the user: that of [`TokenService::outline`] for the same grant.
    pub claims: String,
}

/// What differs between two tokens that say the same.
const PASSING: [&str; 5] = ["exp", "nbf", "iat", "jti", "epoch"];

impl TokenService {
    /// The digest of all that a token for `grant` says but for its times, its id and its epoch.
    pub fn outline(&self, grant: &Grant<'_>) -> String {
        let claims = outline(self.config(), grant).unwrap_or_default();
        serde_json::from_slice(&claims).map(digest_of).unwrap_or_default()
    }
}

impl KeyRing {
    /// What a token says that one of the published keys signed; `None` for every other text. Whether it has ended is not looked at.
    pub fn said(&self, token: &str) -> Option<Said> {
        let (key, claims) = self.published().iter().find_map(|key| Some((key.id(), key.open(token)?)))?;
        let claims: BTreeMap<String, Value> = serde_json::from_slice(&claims).ok()?;
        let expires = claims.get("exp")?.as_i64()?;
        let epoch = claims.get("epoch").map_or(Some(0), Value::as_u64)?;
        Some(Said { key: key.to_owned(), expires, epoch, claims: digest_of(claims) })
    }
}

fn digest_of(mut claims: BTreeMap<String, Value>) -> String {
    claims.retain(|name, _| !PASSING.contains(&name.as_str()));
    let text = serde_json::to_vec(&claims).unwrap_or_default();
    URL_SAFE_NO_PAD.encode(digest(&SHA256, &text))
}

#[cfg(test)]
mod tests {
    use super::super::{CredentialCache, keys, mint};
    use super::*;
    use crate::base::clock::Clock;
    use crate::config::{self, SigningAlgorithm};
    use std::sync::Arc;

    #[test]
    fn a_token_of_ours_says_what_it_was_minted_for_and_any_other_text_says_nothing() {
        for algorithm in [SigningAlgorithm::Es256, SigningAlgorithm::EdDsa, SigningAlgorithm::Rs256] {
            let folder = tempfile::tempdir().unwrap();
            let clock = Clock::manual(1_800_000_000);
            let service = TokenService::start(keys::tests::config(folder.path(), algorithm), clock.clone()).unwrap();
            let template = Arc::new(config::NamespaceToken { audience: "orders".into(), ..Default::default() });
            let grant = Grant { epoch: 7, ..mint::tests::grant(&template) };
            let minted = service.credential(&CredentialCache::default(), &grant, clock.now()).unwrap();
            let token = minted.header().to_str().unwrap().strip_prefix("Bearer ").unwrap();
            let said = service.ring().said(token).unwrap();
            assert_eq!((said.epoch, said.expires, said.key.as_str()), (7, minted.expires, minted.key_id()));
            assert_eq!(said.claims, service.outline(&Grant { epoch: 8, ..grant }));
            assert_ne!(said.claims, service.outline(&Grant { subject: "another", ..grant }));
            let (start, signature) = token.rsplit_once('.').unwrap();
            let turned: String = signature.chars().rev().collect();
            for text in ["", "..", start, &format!("{start}."), &format!("{start}.{turned}"), &format!("{token}.x")] {
                assert_eq!(service.ring().said(text), None, "{text}");
            }
            let other = TokenService::ephemeral(service.config().clone(), clock).unwrap();
            assert_eq!(other.ring().said(token), None);
        }
    }
}
