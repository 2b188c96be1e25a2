//! Everything on one machine: an issuer shaped like Keycloak, an upstream that echoes, and a tour of the gateway.
//!
//! Nothing here is part of a gateway in production. The issuer signs with keys of its own, which live and die with it;
//! it never sees a key of the token service. Tests use it as their fake issuer.

mod control;
pub mod echo;
mod http_client;
mod issuer;
mod keys;
mod protocol;
mod realm;
mod server;
mod tokens;
pub mod tour;
mod users;

pub use issuer::{Issuer, Realm};
pub use keys::{Claims, SigningKey, decode};
pub use realm::{Counters, Endpoint, Illness, OldKeys};
pub use tokens::{Signer, TokenKind, TokenSpec};
pub use users::{Client, User, UserChange};

#[cfg(test)]
mod tests;
