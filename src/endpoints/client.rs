//! Who asks: the clients of `token_service.clients`, by HTTP Basic (RFC 6749 §2.3.1, RFC 7617).

use super::form;
use crate::config;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Everybody who may ask.
#[derive(Debug)]
pub struct Clients(Vec<Arc<Client>>);

/// One who may.
pub struct Client {
    /// `client_id`.
    pub name: Arc<str>,
    /// The audience whose tokens, and whose users' events, it sees.
    pub audience: Arc<str>,
    /// Equal digests take equally long to compare, whatever the length of a secret.
    secret: Digest,
}

/// The `Authorization` fields of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// None.
    Nothing,
    /// Exactly one.
    One(HeaderValue),
    /// More than one.
    Several,
}

/// Why nobody is known to be asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// No credentials were presented, so none were wrong.
    Nobody,
    /// Wrong ones.
    Wrong,
    /// More than one `Authorization` header.
    Ambiguous,
}

impl Clients {
    /// Those of a configuration.
    pub fn new(clients: &[config::Client]) -> Self {
        let client = |client: &config::Client| {
            Arc::new(Client {
                name: client.name.as_str().into(),
                audience: client.audience.as_str().into(),
                secret: digest(&SHA256, client.secret.expose().as_bytes()),
            })
        };
        Self(clients.iter().map(client).collect())
    }

    /// Those there are.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Client>> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which of them is asking.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn authenticate(&self, authorization: &Authorization) -> Result<&Arc<Client>, Unknown> {
        let header = match authorization {
            Authorization::Nothing => return Err(Unknown::Nobody),
            Authorization::Several => return Err(Unknown::Ambiguous),
            Authorization::One(header) => header,
        };
        let plain = basic(header.as_bytes()).ok_or(Unknown::Wrong)?;
        let at = plain.iter().position(|byte| *byte == b':').ok_or(Unknown::Wrong)?;
        let (name, secret) = (&plain[..at], &plain[at + 1..]);
        // RFC 6749 §2.3.1 has both encoded as in a form. Many clients send them as they are, which is nothing but another spelling
        // by somebody who knows the secret.
        let decoded = (form::decode(name).ok(), form::decode(secret).ok().map(Zeroizing::new));
        let encoded = match &decoded {
            (Some(name), Some(secret)) => self.find(name.as_bytes(), secret.as_bytes()),
            _ => None,
        };
        encoded.or_else(|| self.find(name, secret)).ok_or(Unknown::Wrong)
    }

    /// Compares as much for a name that is not known as for one that is.
    fn find(&self, name: &[u8], secret: &[u8]) -> Option<&Arc<Client>> {
        let secret = digest(&SHA256, secret);
        let known = self.0.iter().find(|client| client.name.as_bytes() == name);
        let expected = known.or(self.0.first())?;
        let is_equal = verify_slices_are_equal(expected.secret.as_ref(), secret.as_ref()).is_ok();
        known.filter(|_| is_equal)
    }
}

/// What follows `Basic`, decoded. The scheme is compared without case (RFC 9110 §11.1).
fn basic(header: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    STANDARD.decode(rest.trim_ascii()).ok().map(Zeroizing::new)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("name", &self.name).field("audience", &self.audience).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::secret::Secret;

    pub(in crate::endpoints) fn clients() -> Vec<config::Client> {
        let client = |name: &str, secret: &str, audience: &str| config::Client {
            name: name.into(),
            secret: Secret::new(secret),
            audience: audience.into(),
        };
        vec![client("orders", "s3cret", "orders"), client("bill-ing", "p+q/r=%41", "billing")]
    }

    pub(in crate::endpoints) fn header(name: &str, secret: &str) -> Authorization {
        let text = format!("Basic {}", STANDARD.encode(format!("{name}:{secret}")));
        Authorization::One(HeaderValue::try_from(text).unwrap())
    }

    #[track_caller]
    fn check(authorization: &Authorization, expected: Result<&str, Unknown>) {
        let clients = Clients::new(&clients());
        assert_eq!(clients.authenticate(authorization).map(|client| &*client.name), expected, "{authorization:?}");
    }

    #[test]
    fn a_client_is_known_by_its_secret_encoded_or_not() {
        check(&header("orders", "s3cret"), Ok("orders"));
        check(&header("bill-ing", "p+q/r=%41"), Ok("bill-ing"));
        check(&header("bill%2Ding", "p%2Bq%2Fr%3D%2541"), Ok("bill-ing"));
        let scheme = Authorization::One(HeaderValue::from_static("bAsIc b3JkZXJzOnMzY3JldA=="));
        check(&scheme, Ok("orders"));
    }

    #[test]
    fn nobody_else_is() {
        for (name, secret) in [
            ("orders", ""),
            ("orders", "s3cre"),
            ("orders", "s3cret "),
            ("orders", "p+q/r=%41"),
            ("", ""),
            ("x", "s3cret"),
        ] {
            check(&header(name, secret), Err(Unknown::Wrong));
        }
        for text in
            ["Basic", "Basic ", "Basic !", "Basic b3JkZXJz", "Bearer b3JkZXJzOnMzY3JldA==", "b3JkZXJzOnMzY3JldA=="]
        {
            check(&Authorization::One(HeaderValue::from_static(text)), Err(Unknown::Wrong));
        }
        check(&Authorization::Nothing, Err(Unknown::Nobody));
        check(&Authorization::Several, Err(Unknown::Ambiguous));
    }

    #[test]
    fn where_there_is_no_client_nobody_is_known() {
        assert_eq!(Clients::new(&[]).authenticate(&header("", "")).unwrap_err(), Unknown::Wrong);
    }
}
