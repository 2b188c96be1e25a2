//! What a realm knows: users, clients, sessions, keys, and how well it feels.

use super::keys::{self, Claims, SigningKey};
use super::tokens::{TokenKind, TokenSpec};
use super::users::{Client, User, UserChange};
use crate::config::Algorithm;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Seconds that an access token lives unless told otherwise.
const ACCESS_LIFETIME: i64 = 3600;
/// Seconds that a refresh token lives.
pub(super) const REFRESH_LIFETIME: i64 = 1800;

/// A realm, behind the issuer's lock.
pub(super) struct State {
    /// The `iss` of its tokens.
    pub(super) url: String,
    pub(super) users: Vec<User>,
    pub(super) clients: Vec<Client>,
    /// Newest first; the first of an algorithm signs, all are published.
    keys: Vec<Arc<SigningKey>>,
    /// Published beside the keys, whatever they are.
    pub(super) extra_keys: Vec<Value>,
    refresh_key: hmac::Key,
    /// By `sid`.
    sessions: BTreeMap<String, Session>,
    /// Seconds that an access token lives.
    pub(super) lifetime: i64,
    pub(super) illnesses: BTreeMap<Endpoint, Illness>,
    pub(super) counters: Counters,
}

/// Somebody is signed in, through some client.
pub(super) struct Session {
    pub(super) user_id: String,
    pub(super) client: String,
}

/// The endpoints of a realm that can fall ill and are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// `/.well-known/openid-configuration`.
    Discovery,
    /// The key set.
    Keys,
    /// The token endpoint.
    Token,
    /// Introspection.
    Introspection,
}

/// How an endpoint that is ill answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Illness {
    /// It closes the connection without an answer.
    Refuse,
    /// 500 with a page of HTML.
    ServerError,
    /// It never answers.
    Hang,
    /// 200 with a body that is no JSON.
    Garbage,
}

/// Requests served since the issuer started, those of an ill endpoint included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Of the discovery document.
    pub discovery: u64,
    /// Of the key set.
    pub keys: u64,
    /// To the token endpoint.
    pub token: u64,
    /// To the introspection endpoint.
    pub introspection: u64,
}

/// What becomes of the keys that signed until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldKeys {
    /// They stay published: their tokens stay good.
    Keep,
    /// They vanish from the key set, as a key that Keycloak disabled.
    Drop,
}

impl State {
    pub(super) fn new(url: String) -> Result<Self, Unspecified> {
        let clients = Client::defaults();
        let accounts = clients.iter().filter(|client| client.secret.is_some());
        let mut users = User::defaults();
        users.extend(accounts.map(|client| User::of_service_account(&client.id)));
        Ok(Self {
            url,
            users,
            clients,
            keys: vec![Arc::new(SigningKey::generate(Algorithm::Rs256)?)],
            extra_keys: Vec::new(),
            refresh_key: hmac::Key::new(hmac::HMAC_SHA512, &keys::random::<64>()),
            sessions: BTreeMap::new(),
            lifetime: ACCESS_LIFETIME,
            illnesses: BTreeMap::new(),
            counters: Counters::default(),
        })
    }

    /// Adds a client, or puts it in the place of the one with its name.
    pub(super) fn add_client(&mut self, client: Client) {
        self.clients.retain(|known| known.id != client.id);
        let account = User::of_service_account(&client.id);
        if client.secret.is_some() && self.user(&account.username).is_none() {
            self.users.push(account);
        }
        self.clients.push(client);
    }

    pub(super) fn client(&self, id: &str) -> Option<&Client> {
        self.clients.iter().find(|client| client.id == id)
    }

    pub(super) fn user(&self, username: &str) -> Option<&User> {
        self.users.iter().find(|user| user.username == username)
    }

    pub(super) fn user_by_id(&self, id: &str) -> Option<&User> {
        self.users.iter().find(|user| user.id == id)
    }

    /// False if there is no such user.
    pub(super) fn change_user(&mut self, username: &str, change: UserChange) -> bool {
        let user = self.users.iter_mut().find(|user| user.username == username);
        user.map(|user| user.apply(change)).is_some()
    }

    /// The key set as it is published: keys that sign, the one that encrypts (first, as in some realms), and extras.
    pub(super) fn key_set(&self) -> Value {
        // One serves the whole process: nothing is ever encrypted to it, and making one takes a tenth of a second.
        static ENCRYPTION: OnceLock<Option<Value>> = OnceLock::new();
        let encryption = ENCRYPTION.get_or_init(|| keys::encryption_jwk().ok());
        let signing = self.keys.iter().map(|key| key.jwk());
        json!({ "keys": encryption.iter().chain(signing).chain(&self.extra_keys).collect::<Vec<_>>() })
    }

    /// The key that signs with this algorithm; made at its first use, as Keycloak does.
    pub(super) fn signing_key(&mut self, algorithm: Algorithm) -> Arc<SigningKey> {
        if let Some(key) = self.keys.iter().find(|key| key.algorithm() == algorithm) {
            return key.clone();
        }
        let key = Arc::new(SigningKey::generate(algorithm).expect("a machine that made one key makes another"));
        self.keys.push(key.clone());
        key
    }

    /// Puts a new key before each that signs now.
    pub(super) fn rotate(&mut self, old: OldKeys) -> Result<(), Unspecified> {
        let mut algorithms: Vec<Algorithm> = Vec::new();
        for key in &self.keys {
            if !algorithms.contains(&key.algorithm()) {
                algorithms.push(key.algorithm());
            }
        }
        let new = algorithms.into_iter().map(|algorithm| SigningKey::generate(algorithm).map(Arc::new));
        let mut keys = new.collect::<Result<Vec<_>, _>>()?;
        if old == OldKeys::Keep {
            keys.append(&mut self.keys);
        }
        self.keys = keys;
        Ok(())
    }

    /// Signs a user in and gives the `sid`.
    pub(super) fn start_session(&mut self, user_id: &str, client: &str) -> String {
        let sid = keys::uuid();
        self.sessions.insert(sid.clone(), Session { user_id: user_id.to_owned(), client: client.to_owned() });
        sid
    }

    pub(super) fn session(&self, sid: &str) -> Option<&Session> {
        self.sessions.get(sid)
    }

    /// False if there is no such session.
    pub(super) fn end_session(&mut self, sid: &str) -> bool {
        self.sessions.remove(sid).is_some()
    }

    pub(super) fn end_sessions_of(&mut self, user_id: &str) {
        self.sessions.retain(|_, session| session.user_id != user_id);
    }

    /// Makes the token, and a session for it where the user is known.
    pub(super) fn issue(&mut self, spec: &TokenSpec, now: i64) -> String {
        let user = self.user(&spec.user).cloned().unwrap_or_else(|| User::new(&spec.user));
        let sid = self.start_session(&user.id, &spec.client);
        self.issue_in_session(spec, &user, Some(&sid), now)
    }

    /// Makes the token; without a `sid` it is that of a service account.
    pub(super) fn issue_in_session(&mut self, spec: &TokenSpec, user: &User, sid: Option<&str>, now: i64) -> String {
        let client = self.client(&spec.client).cloned().unwrap_or_else(|| Client::public(&spec.client));
        let claims = self.claims(spec, user, &client, sid, now);
        let is_access = spec.kind == TokenKind::Access;
        // Only access tokens follow the client's algorithm.
        let key = self.signing_key(if is_access { client.algorithm } else { Algorithm::Rs256 });
        let typ = match spec.kind {
            TokenKind::Access if client.at_jwt => "at+jwt",
            TokenKind::Logout => "logout+jwt",
            _ => "JWT",
        };
        let mut header = Claims::new();
        header.insert("typ".to_owned(), json!(typ));
        if spec.kind == TokenKind::Refresh {
            header.insert("alg".to_owned(), json!("HS512"));
            let (header, claims) = (Value::Object(header).to_string(), Value::Object(claims).to_string());
            return keys::compact_hs512(&self.refresh_key, header.as_bytes(), claims.as_bytes());
        }
        spec.seal(header, claims, &key)
    }

    fn claims(&self, spec: &TokenSpec, user: &User, client: &Client, sid: Option<&str>, now: i64) -> Claims {
        let iat = now - spec.issued_ago;
        let usual_lifetime = match spec.kind {
            TokenKind::Refresh => REFRESH_LIFETIME,
            TokenKind::Logout => 120,
            TokenKind::Access | TokenKind::Id => self.lifetime,
        };
        let jti_prefix = if sid.is_some() { "onrtro" } else { "trrtcc" };
        let mut claims = Claims::new();
        let mut say = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        say("iss", json!(self.url));
        say("iat", json!(iat));
        say("exp", json!(iat + spec.lifetime.unwrap_or(usual_lifetime)));
        say("jti", json!(format!("{jti_prefix}:{}", keys::uuid())));
        say("azp", json!(client.id));
        say("scope", json!(spec.scope));
        if let Some(sid) = sid {
            say("sid", json!(sid));
        }
        match spec.kind {
            TokenKind::Access => {
                say("typ", json!("Bearer"));
                if !client.lightweight {
                    say("aud", audience(client));
                    say("acr", json!("1"));
                    say("resource_access", json!({ "account": { "roles": ["view-profile"] } }));
                    claims.extend(user.claims());
                }
            }
            TokenKind::Id => {
                say("typ", json!("ID"));
                say("aud", json!(client.id));
                say("acr", json!("1"));
                claims.extend(user.claims());
            }
            TokenKind::Refresh => {
                say("typ", json!("Refresh"));
                say("aud", json!(self.url));
                say("sub", json!(user.id));
            }
            TokenKind::Logout => {
                say("typ", json!("Logout"));
                say("aud", json!(client.id));
                say("sub", json!(user.id));
                say("events", json!({ "http://schemas.openid.net/event/backchannel-logout": {} }));
            }
        }
        claims
    }

    /// The claims of an access token of ours as they stand now; `None` where it is of no use any more.
    ///
    /// As with Keycloak: whatever the user is and has is told anew, and only a client in `aud` is told anything.
    pub(super) fn introspect(&self, asking: &str, token: &str, now: i64) -> Option<Claims> {
        let (mut claims, user, client) = self.live(token, now)?;
        for name in User::CLAIMS {
            claims.remove(name);
        }
        claims.extend(user.claims());
        claims.entry("aud").or_insert_with(|| audience(client));
        let is_meant = match &claims["aud"] {
            Value::Array(all) => all.iter().any(|one| one == asking),
            one => one == asking,
        };
        claims.insert("active".to_owned(), json!(true));
        claims.insert("client_id".to_owned(), json!(client.id));
        claims.insert("username".to_owned(), json!(user.username));
        claims.insert("token_type".to_owned(), json!("Bearer"));
        is_meant.then_some(claims)
    }

    /// What an access token says that is still good, whose it is, and the client that asked for it.
    pub(super) fn live(&self, token: &str, now: i64) -> Option<(Claims, &User, &Client)> {
        let (header, claims) = keys::decode(token)?;
        let key = self.keys.iter().find(|key| header.get("kid").is_some_and(|kid| kid == key.kid()))?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let is_ours = text("iss") == Some(&self.url) && text("typ") == Some("Bearer") && key.verifies(token);
        let is_fresh = claims.get("exp").and_then(Value::as_i64).is_some_and(|exp| exp > now);
        let session = match text("sid") {
            Some(sid) => Some(self.session(sid)?),
            None => None,
        };
        let user_id = text("sub").or(session.map(|session| session.user_id.as_str()))?;
        let user = self.user_by_id(user_id).filter(|user| user.enabled)?;
        let client = self.client(text("azp")?)?;
        (is_ours && is_fresh).then(|| (claims.clone(), user, client))
    }

    /// The `sid` of a refresh token of ours, if it is still good.
    pub(super) fn refresh_session(&self, token: &str, now: i64) -> Option<String> {
        let (_, claims) = keys::decode(token).filter(|_| keys::verify_hs512(&self.refresh_key, token))?;
        let is_fresh = claims["exp"].as_i64().is_some_and(|exp| exp > now);
        claims["sid"].as_str().filter(|_| is_fresh).map(str::to_owned)
    }
}

/// `aud`: a text where there is one, else a list.
fn audience(client: &Client) -> Value {
    let mut all = client.audiences.clone();
    all.push("account".to_owned());
    if let [one] = all.as_slice() { json!(one) } else { json!(all) }
}
