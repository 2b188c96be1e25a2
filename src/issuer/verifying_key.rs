//! A key that tokens are verified with, prepared once for every token that names it.

use crate::config::Algorithm;
use aws_lc_rs::signature::ParsedPublicKey;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// What one `kid` of an issuer names: usually one public key; several where the issuer gave one `kid` to
/// more than one, and then each that fits the algorithm is tried.
pub struct VerifyingKey {
    kid: Option<Box<str>>,
    candidates: Vec<Candidate>,
    retired: AtomicBool,
}

/// One published key.
pub(super) struct Candidate {
    /// The key's bytes and its algorithms: equal for equal keys, whatever else the JWK says.
    pub(super) identity: Vec<u8>,
    /// The key parsed for each algorithm that it may be used with.
    pub(super) prepared: Vec<(Algorithm, ParsedPublicKey)>,
}

impl VerifyingKey {
    pub(super) fn new(kid: Option<Box<str>>, candidate: Candidate) -> Self {
        Self { kid, candidates: vec![candidate], retired: AtomicBool::new(false) }
    }

    /// Adds a further key of the same `kid`. Kept in the order of their bytes: a JWKS has no stable order.
    pub(super) fn add(&mut self, candidate: Candidate) {
        let at = self.candidates.partition_point(|known| known.identity < candidate.identity);
        self.candidates.insert(at, candidate);
    }

    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Whether both are the same keys under the same name.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.candidates.iter(), other.candidates.iter());
        self.kid == other.kid && ours.map(|key| &key.identity).eq(theirs.map(|key| &key.identity))
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// The `kid` that names it, if the issuer gave it one.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether it may be used with that algorithm.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.candidates.iter().any(|key| key.prepared.iter().any(|(known, _)| *known == algorithm))
    }

    /// Whether `signature` is one of `message` by this key and algorithm. ECDSA signatures are the
    /// concatenation of R and S (RFC 7518 §3.4).
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.candidates
            .iter()
            .flat_map(|key| &key.prepared)
            .filter(|(known, _)| *known == algorithm)
            .any(|(_, key)| key.verify_sig(message, signature).is_ok())
    }

    /// Whether the issuer no longer publishes it; what was verified with it is then no longer good.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey").field("kid", &self.kid).field("retired", &self.retired).finish_non_exhaustive()
    }
}
