//! What a token is to say and by whom it is signed.

use super::keys::{Claims, SigningKey, encode};
use aws_lc_rs::hmac;
use serde_json::{Value, json};
use std::sync::Arc;

/// A token to be made: that of a user and a client as the realm would make it, with every part replaceable.
///
/// A user whom the realm does not know may be named: the token is then that of a user who was deleted.
#[derive(Debug, Clone)]
pub struct TokenSpec {
    pub(super) user: String,
    pub(super) client: String,
    pub(super) kind: TokenKind,
    pub(super) scope: String,
    pub(super) issued_ago: i64,
    pub(super) lifetime: Option<i64>,
    pub(super) signer: Signer,
    pub(super) header: Vec<(String, Option<Value>)>,
    pub(super) claims: Vec<(String, Option<Value>)>,
}

/// The kinds of token that Keycloak makes; the claim `typ` tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// `Bearer`.
    Access,
    /// `ID`; its `aud` is the client.
    Id,
    /// `Refresh`; signed with HS512 by a key that is not published.
    Refresh,
    /// `Logout` (OpenID Connect back-channel logout).
    Logout,
}

/// Who signs.
#[derive(Debug, Clone)]
pub enum Signer {
    /// The realm's own key for the client's algorithm.
    Realm,
    /// Any key; the header names its algorithm and its `kid`.
    Key(Arc<SigningKey>),
    /// HS256 with this secret, for the attack that passes a public key off as one.
    Hs256(Vec<u8>),
    /// These bytes in place of a signature.
    Bytes(Vec<u8>),
}

impl TokenSpec {
    /// An access token of this user, made for the client `cli`.
    pub fn user(name: &str) -> Self {
        Self {
            user: name.to_owned(),
            client: "cli".to_owned(),
            kind: TokenKind::Access,
            scope: "profile email".to_owned(),
            issued_ago: 0,
            lifetime: None,
            signer: Signer::Realm,
            header: Vec::new(),
            claims: Vec::new(),
        }
    }

    /// For another client: `azp`, audience and algorithm are that client's.
    pub fn client(mut self, id: &str) -> Self {
        id.clone_into(&mut self.client);
        self
    }

    /// A token of another kind.
    pub fn kind(mut self, kind: TokenKind) -> Self {
        self.kind = kind;
        self
    }

    /// The words of `scope`.
    pub fn scope(mut self, words: &str) -> Self {
        words.clone_into(&mut self.scope);
        self
    }

    /// Seconds from `iat` to `exp`; negative gives a token that never was valid.
    pub fn lifetime(mut self, seconds: i64) -> Self {
        self.lifetime = Some(seconds);
        self
    }

    /// Seconds by which `iat` lies in the past; negative lies in the future.
    pub fn issued_ago(mut self, seconds: i64) -> Self {
        self.issued_ago = seconds;
        self
    }

    /// Signed by someone else.
    pub fn signed_by(mut self, signer: Signer) -> Self {
        self.signer = signer;
        self
    }

    /// Sets a claim, whatever the realm would have said.
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.push((name.to_owned(), Some(value.into())));
        self
    }

    /// Leaves a claim out.
    pub fn without_claim(mut self, name: &str) -> Self {
        self.claims.push((name.to_owned(), None));
        self
    }

    /// Sets a member of the header.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.push((name.to_owned(), Some(value.into())));
        self
    }

    /// Leaves a member of the header out.
    pub fn without_header(mut self, name: &str) -> Self {
        self.header.push((name.to_owned(), None));
        self
    }

    /// The compact form, once the realm has said its claims; `key` is the realm's.
    pub(super) fn seal(&self, mut header: Claims, mut claims: Claims, key: &SigningKey) -> String {
        let (algorithm, kid) = match &self.signer {
            Signer::Realm | Signer::Bytes(_) => (key.algorithm().name(), Some(key.kid())),
            Signer::Key(other) => (other.algorithm().name(), Some(other.kid())),
            Signer::Hs256(_) => ("HS256", Some(key.kid())),
        };
        header.insert("alg".to_owned(), json!(algorithm));
        header.extend(kid.map(|kid| ("kid".to_owned(), json!(kid))));
        replace(&mut header, &self.header);
        replace(&mut claims, &self.claims);
        let header = Value::Object(header).to_string();
        let payload = Value::Object(claims).to_string();
        let input = format!("{}.{}", encode(header), encode(payload));
        let signature = match &self.signer {
            Signer::Realm => key.sign(input.as_bytes()).expect("a key that was made here signs"),
            Signer::Key(other) => other.sign(input.as_bytes()).expect("a key that was made here signs"),
            Signer::Hs256(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes()).as_ref().to_vec()
            }
            Signer::Bytes(bytes) => bytes.clone(),
        };
        format!("{input}.{}", encode(signature))
    }
}

fn replace(members: &mut Claims, changes: &[(String, Option<Value>)]) {
    for (name, value) in changes {
        match value {
            Some(value) => members.insert(name.clone(), value.clone()),
            None => members.remove(name),
        };
    }
}
