//! The least that keeps tokens in Secrets, over the real module of Kubernetes: what the oracle is held against first.

use super::keycloak::Realm;
use super::world::ISSUER;
use postern::base::secret::Secret;
use postern::config;
use postern::delivery::Roster;
use postern::identity::{Links, News};
use postern::kubernetes::lease::Leadership;
use postern::kubernetes::{Change, Cluster, Content, Ensured, Namespaces, Owner, Secrets, UserSecret, Watch, Write};
use postern::replica::Replica;
use postern::token_service::{CredentialCache, Grant, NamespaceKind, TokenService};
use postern::users::{State, UserId, Users};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub(crate) struct Toy {
    cluster: Cluster,
    users: Arc<Users>,
    leadership: Leadership,
    realm: Realm,
    tokens: Arc<TokenService>,
    shared: Arc<Replica>,
    news: mpsc::UnboundedReceiver<News>,
    signed_in: BTreeSet<String>,
    changed: BTreeSet<String>,
    seen: BTreeMap<String, UserSecret>,
    template: Arc<config::NamespaceToken>,
}

impl Toy {
    pub(crate) fn new(
        cluster: Cluster,
        users: &Arc<Users>,
        links: &Links,
        leadership: Leadership,
        realm: Realm,
        tokens: &Arc<TokenService>,
        shared: &Arc<Replica>,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            cluster,
            users: Arc::clone(users),
            leadership,
            realm,
            tokens: Arc::clone(tokens),
            news: links.bulletin().listen().unwrap(),
            signed_in: BTreeSet::new(),
            changed: BTreeSet::new(),
            seen: BTreeMap::new(),
            template: super::scenario::config().delivery.unwrap().token,
        }
    }

    pub(crate) async fn run(mut self) {
        let (to, mut changes) = mpsc::channel(100);
        tokio::spawn(Watch::user_secrets(&self.cluster).unwrap().run(to));
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            while let Ok(change) = changes.try_recv() {
                match change {
                    Change::Seen(secret) => drop(self.seen.insert(secret.namespace.clone(), secret)),
                    Change::Gone(namespace) => drop(self.seen.remove(&namespace)),
                    Change::Synced | Change::Interrupted(_) => {}
                }
            }
            while let Ok(news) = self.news.try_recv() {
                match news {
                    News::SignedIn(id) => drop(self.signed_in.insert(id.subject().to_string())),
                    News::Changed(id) => drop(self.changed.insert(id.subject().to_string())),
                    _ => {}
                }
            }
            for subject in self.signed_in.clone() {
                self.look_after(&subject).await;
            }
        }
    }

    async fn look_after(&mut self, subject: &str) -> Option<()> {
        let clock = self.realm.line.clock.clone();
        let id = UserId::new(ISSUER, subject).unwrap();
        let namespace = subject.strip_prefix("id-").unwrap();
        let (secrets, owner) = (Secrets::new(self.cluster.clone()), Owner::new(ISSUER, subject));
        let (state, epoch) = self.users.standing(&id, clock.now());
        let seen = self.seen.get(namespace).cloned();
        if state != State::Active {
            let seen = seen.filter(|seen| !seen.is_empty())?;
            self.shared.refresh(std::slice::from_ref(&id)).await.ok()?;
            if self.users.standing(&id, clock.now()).0 == State::Active {
                return None;
            }
            self.take(secrets.empty(&seen, &owner).await.ok()?);
            return None;
        }
        let held = seen.as_ref().and_then(|seen| match &seen.content {
            Content::Token(token) => claims(token),
            _ => None,
        });
        let left = held.map_or(0, |held| if held.1 == epoch { held.0 - clock.now().unix_seconds() } else { 0 });
        if (left > 18 * 60 && !self.changed.contains(subject)) || !self.leadership.is_leader(clock.now()) {
            return None;
        }
        let person = self.realm.person(subject).await.ok()?.value.filter(|person| person.listed.enabled)?;
        let seen = match seen {
            Some(seen) => seen,
            None => {
                let ensured = Namespaces::new(self.cluster.clone()).ensure(namespace, &owner).await.ok()?;
                let Ensured::Ours(_) = ensured else { return None };
                match secrets.create(namespace, &owner).await.ok()? {
                    Write::Done(made) => made,
                    _ => return None,
                }
            }
        };
        self.shared.refresh(std::slice::from_ref(&id)).await.ok()?;
        let grant = Grant {
            template: &self.template,
            subject,
            original_issuer: "https://keycloak.example",
            namespace,
            kind: NamespaceKind::Own,
            email: "",
            username: Some(&person.listed.username),
            authorized_party: None,
            epoch,
            roles: &person.roles,
            groups: &[],
        };
        let minted = self.tokens.credential(&CredentialCache::default(), &grant, clock.now()).unwrap();
        let token = Secret::new(minted.header().to_str().unwrap().strip_prefix("Bearer ").unwrap());
        let is_sound = self.users.standing(&id, clock.now()) == (State::Active, epoch);
        if !is_sound || !self.leadership.is_leader(clock.now()) {
            return None;
        }
        let written = secrets.fill(&seen, &owner, &token).await.ok()?;
        if matches!(written, Write::Held { .. }) {
            let emptied = secrets.empty(&seen, &owner).await.ok()?;
            self.take(emptied);
            return None;
        }
        self.changed.remove(subject);
        self.take(written);
        None
    }

    fn take(&mut self, written: Write<UserSecret>) {
        if let Write::Done(secret) = written {
            self.seen.insert(secret.namespace.clone(), secret);
        }
    }
}

fn claims(token: &Secret) -> Option<(i64, u64)> {
    use base64::Engine as _;
    let payload = token.expose().split('.').nth(1)?;
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    Some((claims["exp"].as_i64()?, claims["epoch"].as_u64().unwrap_or(0)))
}
