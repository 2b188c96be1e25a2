//! The embedded issuer: realms behind a loopback address, steered by methods or by `/dev/…`.

use super::keys::SigningKey;
use super::protocol;
use super::realm::{Counters, Endpoint, Illness, OldKeys, State};
use super::server::Server;
use super::tokens::TokenSpec;
use super::users::{Client, User, UserChange};
use crate::base::clock::Clock;
use crate::config::Algorithm;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The realm that every issuer has.
pub(super) const DEMO: &str = "demo";

/// An issuer shaped like Keycloak. Clones share it; it stops when the last one is dropped.
#[derive(Clone)]
pub struct Issuer {
    shared: Arc<Shared>,
    server: Arc<Mutex<Option<Server>>>,
}

/// What the handles and the server's thread share.
pub(super) struct Shared {
    addr: SocketAddr,
    clock: Clock,
    realms: Mutex<BTreeMap<String, State>>,
}

/// One realm of an issuer. A handle: it does not keep the issuer running.
#[derive(Clone)]
pub struct Realm {
    shared: Arc<Shared>,
    name: String,
}

impl Issuer {
    /// Starts serving on a loopback address (port 0 takes a free one), with the realm `demo`.
    ///
    /// It has a thread and a runtime of its own, so it may be started from anywhere.
    pub fn start(addr: SocketAddr, clock: Clock) -> io::Result<Self> {
        let listener = Server::bind(addr)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { addr, clock, realms: Mutex::default() });
        shared.add_realm(DEMO)?;
        let server = serve(&shared, listener)?;
        Ok(Self { shared, server: Arc::new(Mutex::new(Some(server))) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// The `iss` of a realm's tokens.
    pub fn url(&self, realm: &str) -> String {
        self.shared.url(realm)
    }

    /// The realm of this name; made, with the usual users and clients, if there is none.
    pub fn realm(&self, name: &str) -> io::Result<Realm> {
        self.shared.add_realm(name)?;
        Ok(Realm { shared: self.shared.clone(), name: name.to_owned() })
    }

    /// The realm `demo`.
    pub fn demo(&self) -> Realm {
        Realm { shared: self.shared.clone(), name: DEMO.to_owned() }
    }

    /// A fresh access token of a user of `demo`, who is thereby signed in.
    pub fn token(&self, username: &str) -> String {
        self.issue(&TokenSpec::user(username))
    }

    /// A token of the realm `demo`, made to measure.
    pub fn issue(&self, spec: &TokenSpec) -> String {
        self.demo().issue(spec)
    }

    /// Closes the listener and every connection; users, sessions and keys stay for [`Issuer::restart`].
    pub fn stop(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(server);
    }

    /// Serves again on the same address, after [`Issuer::stop`].
    pub fn restart(&self) -> io::Result<()> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.is_none() {
            *server = Some(serve(&self.shared, Server::bind(self.shared.addr)?)?);
        }
        Ok(())
    }
}

fn serve(shared: &Arc<Shared>, listener: std::net::TcpListener) -> io::Result<Server> {
    let shared = shared.clone();
    Server::serve(listener, "dev-issuer", move |request| {
        let shared = shared.clone();
        async move { protocol::answer(&shared, request).await }
    })
}

impl Shared {
    pub(super) fn url(&self, realm: &str) -> String {
        format!("http://{}/realms/{realm}", self.addr)
    }

    pub(super) fn now(&self) -> i64 {
        self.clock.now().unix_seconds()
    }

    /// Runs `f` on a realm; `None` if there is no such realm.
    pub(super) fn with<T>(&self, realm: &str, f: impl FnOnce(&mut State) -> T) -> Option<T> {
        self.realms().get_mut(realm).map(f)
    }

    fn add_realm(&self, name: &str) -> io::Result<()> {
        let mut realms = self.realms();
        if !realms.contains_key(name) {
            let state = State::new(self.url(name)).map_err(|_| io::Error::other("no key can be made"))?;
            realms.insert(name.to_owned(), state);
        }
        Ok(())
    }

    fn realms(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.realms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Realm {
    /// The `iss` of its tokens.
    pub fn url(&self) -> String {
        self.shared.url(&self.name)
    }

    /// Makes a token. Where the realm knows the user, it is signed in by that.
    pub fn issue(&self, spec: &TokenSpec) -> String {
        let now = self.shared.now();
        self.with(|state| state.issue(spec, now))
    }

    /// Adds a user, or puts it in the place of the one with its name.
    pub fn add_user(&self, user: User) {
        self.with(|state| {
            state.users.retain(|known| known.username != user.username);
            state.users.push(user);
        });
    }

    /// The user as it stands.
    pub fn user(&self, username: &str) -> Option<User> {
        self.with(|state| state.user(username).cloned())
    }

    /// Changes a user; false if there is none of that name.
    pub fn change_user(&self, username: &str, change: UserChange) -> bool {
        self.with(|state| state.change_user(username, change))
    }

    /// Disables or enables a user; false if there is none of that name. Sessions stay, as with Keycloak.
    pub fn set_enabled(&self, username: &str, enabled: bool) -> bool {
        self.change_user(username, UserChange { enabled: Some(enabled), ..UserChange::default() })
    }

    /// Deletes a user; false if there was none of that name.
    pub fn delete_user(&self, username: &str) -> bool {
        self.with(|state| {
            let before = state.users.len();
            state.users.retain(|user| user.username != username);
            state.users.len() < before
        })
    }

    /// Ends every session of a user, as an administrator's logout does.
    pub fn end_sessions(&self, username: &str) {
        self.with(|state| {
            if let Some(id) = state.user(username).map(|user| user.id.clone()) {
                state.end_sessions_of(&id);
            }
        });
    }

    /// Ends one session; false if there is none of that `sid`.
    pub fn end_session(&self, sid: &str) -> bool {
        self.with(|state| state.end_session(sid))
    }

    /// Adds a client, or puts it in the place of the one with its name.
    pub fn add_client(&self, client: Client) {
        self.with(|state| state.add_client(client));
    }

    /// The client as it stands.
    pub fn client(&self, id: &str) -> Option<Client> {
        self.with(|state| state.client(id).cloned())
    }

    /// The key that signs with an algorithm now; made if there is none. Kept over a rotation, it forges.
    pub fn signing_key(&self, algorithm: Algorithm) -> Arc<SigningKey> {
        self.with(|state| state.signing_key(algorithm))
    }

    /// New keys sign from now on.
    pub fn rotate_keys(&self, old: OldKeys) -> io::Result<()> {
        self.with(|state| state.rotate(old)).map_err(|_| io::Error::other("no key can be made"))
    }

    /// The key set as it is published.
    pub fn key_set(&self) -> Value {
        self.with(|state| state.key_set())
    }

    /// Publishes these entries beside the realm's keys, whatever they hold.
    pub fn set_extra_keys(&self, entries: Vec<Value>) {
        self.with(|state| state.extra_keys = entries);
    }

    /// Seconds that access and ID tokens live from now on.
    pub fn set_token_lifetime(&self, seconds: i64) {
        self.with(|state| state.lifetime = seconds);
    }

    /// Makes an endpoint ill, or well again (`None`).
    pub fn set_illness(&self, endpoint: Endpoint, illness: Option<Illness>) {
        self.with(|state| match illness {
            Some(illness) => state.illnesses.insert(endpoint, illness),
            None => state.illnesses.remove(&endpoint),
        });
    }

    /// How often its endpoints were asked.
    pub fn counters(&self) -> Counters {
        self.with(|state| state.counters)
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        self.shared.with(&self.name, f).expect("a realm that has a handle is never removed")
    }
}
