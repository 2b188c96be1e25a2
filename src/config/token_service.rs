//! `[token_service]`: Postern as an issuer.

use std::path::PathBuf;
use std::time::Duration;

/// How Postern's own tokens are made and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenService {
    /// `issuer`: the `iss` of minted tokens, and where discovery and keys are served. Default: the origin of the first
    /// `server.listen` where that is loopback with a fixed port; else it must be given.
    pub issuer: String,
    /// `audience` of the tokens that users may present to Postern itself (issuer `self`). Default: the value of `issuer`.
    pub audience: String,
    /// `algorithm` of keys that Postern makes. Default ES256.
    pub algorithm: SigningAlgorithm,
    /// `lifetime` of a minted token. Default `30m`, from `20m` to `30m`.
    pub lifetime: Duration,
    /// `signing_keys`.
    pub signing_keys: SigningKeys,
}

/// Algorithms that Postern signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256.
    Es256,
    /// RSA PKCS#1 v1.5, 2048 bits.
    Rs256,
    /// Ed25519.
    EdDsa,
}

/// Where signing keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningKeys {
    /// `{ directory = "…", rotate_every = "30d" }`: made and rotated by Postern. Default: `postern-keys` beside the file.
    Directory {
        /// The folder, made with mode 0700 if absent.
        path: PathBuf,
        /// How long a key signs. Default 30 days, at least 2 hours.
        rotate_every: Duration,
    },
    /// `{ files = ["new.pem", "old.pem"] }`: PKCS#8 PEM; the first signs, all are published.
    Files(Vec<PathBuf>),
}
