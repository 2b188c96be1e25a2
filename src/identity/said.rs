//! What claims say of a caller, in their own words: most callers are known already, and nothing has to be copied to see that.

use super::Identity;
use super::claims::{find, is_namespace_name};
use super::service_account::ServiceAccount;
use super::verifier::Verifier;
use crate::base::json::{Json, Object};
use crate::config::{self, ClaimPath, IssuerKind};
use crate::issuer::Issuer;
use crate::token_service::CredentialCache;
use crate::users::UserId;
use serde_json::Value;
use std::borrow::Cow;
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

impl Verifier {
    /// The one identity in use that says what `claims` say, or a new one.
    pub(super) fn identity(&self, claims: &Object<'_>, issuer: &Issuer) -> Option<Arc<Identity>> {
        let mut said = Said::read(claims, issuer.config(), &self.asked)?;
        said.epoch = self.users.epoch(&said.issuer.name, said.subject);
        // The one that is recorded as theirs comes before what a claim says.
        let user = UserId::new(said.issuer.name.as_str(), said.subject);
        said.namespace = user.and_then(|user| self.bulletin.namespace(&user)).map(Into::into).or(said.namespace);
        let hash = self.hasher.hash_one((&*said.issuer.name, said.subject, said.authorized_party));
        Some(self.in_use(hash, said, Said::is, Said::identity))
    }

    /// The one identity in use that says the same, or this.
    pub(super) fn shared(&self, identity: Identity) -> Arc<Identity> {
        let party = identity.authorized_party.as_deref();
        let hash = self.hasher.hash_one((&*identity.issuer.name, &*identity.subject, party));
        self.in_use(hash, identity, Identity::says_the_same, |identity| identity)
    }

    /// The identity in use that `is` the same, or one that is made.
    fn in_use<T>(&self, hash: u64, said: T, is: fn(&T, &Identity) -> bool, make: fn(T) -> Identity) -> Arc<Identity> {
        let mut shard = self.identities.shard(hash);
        if let Some(known) = shard.get(&hash).and_then(Weak::upgrade)
            && is(&said, &known)
        {
            return known;
        }
        let identity = Arc::new(make(said));
        shard.insert(hash, Arc::downgrade(&identity));
        identity
    }
}

/// An [`Identity`] to be.
#[derive(Debug)]
pub(super) struct Said<'a> {
    pub(super) issuer: &'a Arc<config::Issuer>,
    pub(super) subject: &'a str,
    pub(super) epoch: u64,
    pub(super) authorized_party: Option<&'a str>,
    pub(super) username: Option<&'a str>,
    pub(super) email: Option<&'a str>,
    pub(super) namespace: Option<Cow<'a, str>>,
    pub(super) roles: Vec<&'a str>,
    pub(super) groups: Vec<Cow<'a, str>>,
    pub(super) scopes: Vec<&'a str>,
    pub(super) claims: Vec<(&'a ClaimPath, &'a Json<'a>)>,
}

impl<'a> Said<'a> {
    /// Reads who the caller is. `claims` has passed [`super::claims::Facts::read`] or [`super::claims::check_answer`]; `asked` are the
    /// claims that routes ask about. `None` without a subject.
    pub(super) fn read(
        claims: &'a Object<'a>,
        issuer: &'a Arc<config::Issuer>,
        asked: &'a [ClaimPath],
    ) -> Option<Self> {
        let asked = asked.iter().filter_map(|path| Some((path, find(claims, path)?))).collect();
        if matches!(issuer.kind, IssuerKind::Kubernetes { .. }) {
            return Some(ServiceAccount::read(claims).ok()?.said(issuer, asked));
        }
        let text = |path: &ClaimPath| find(claims, path).and_then(Json::as_str);
        let mut roles: Vec<_> = issuer.roles_claims.iter().flat_map(|path| names(claims, path)).collect();
        roles.dedup();
        let scopes = claims.get("scope").and_then(Json::as_str).unwrap_or_default();
        Some(Self {
            issuer,
            subject: claims.get("sub")?.as_str()?,
            epoch: 0,
            authorized_party: claims.get("azp").and_then(Json::as_str),
            username: text(&issuer.username_claim),
            email: text(&issuer.email_claim).filter(|email| !email.is_empty()),
            namespace: text(&issuer.namespace_claim).filter(|name| is_namespace_name(name)).map(Cow::Borrowed),
            roles,
            groups: names(claims, &issuer.groups_claim).map(Cow::Borrowed).collect(),
            scopes: scopes.split(' ').filter(|scope| !scope.is_empty()).collect(),
            claims: asked,
        })
    }

    /// Whether this is what an identity says. Cached credentials are no part of it.
    pub(super) fn is(&self, known: &Identity) -> bool {
        // By name, so that nothing that is added to an identity is forgotten here.
        let Identity {
            issuer,
            subject,
            epoch,
            authorized_party,
            username,
            email,
            namespace,
            roles,
            groups,
            scopes,
            claims,
            credentials: _,
        } = known;
        let is_claim = |((path, said), known): (&(&ClaimPath, &Json<'_>), &(ClaimPath, Value))| {
            **path == known.0 && said.to_value() == known.1
        };
        Arc::ptr_eq(self.issuer, issuer)
            && self.subject == subject
            && self.epoch == *epoch
            && self.authorized_party == authorized_party.as_deref()
            && self.username == username.as_deref()
            && self.email == email.as_deref()
            && self.namespace.as_deref() == namespace.as_deref()
            && self.roles == *roles
            && self.groups == *groups
            && self.scopes == *scopes
            && self.claims.len() == claims.len()
            && self.claims.iter().zip(claims).all(is_claim)
    }

    /// An identity that says this.
    pub(super) fn identity(self) -> Identity {
        let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
        Identity {
            issuer: Arc::clone(self.issuer),
            subject: self.subject.to_owned(),
            epoch: self.epoch,
            authorized_party: self.authorized_party.map(str::to_owned),
            username: self.username.map(str::to_owned),
            email: self.email.map(str::to_owned),
            namespace: self.namespace.map(Cow::into_owned),
            roles: owned(self.roles),
            groups: self.groups.into_iter().map(Cow::into_owned).collect(),
            scopes: owned(self.scopes),
            claims: self.claims.into_iter().map(|(path, value)| (path.clone(), value.to_value())).collect(),
            credentials: CredentialCache::default(),
        }
    }
}

/// A list of names. Only a list: a bare string or an object is not taken for one.
fn names<'a>(claims: &'a Object<'_>, path: &ClaimPath) -> impl Iterator<Item = &'a str> {
    find(claims, path).and_then(Json::as_array).unwrap_or_default().iter().filter_map(Json::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::json::tests::object;
    use crate::identity::claims::tests::{good, issuer};
    use serde_json::json;

    #[test]
    fn an_identity_is_read_as_the_issuer_says() {
        let mut claims = good();
        let more = json!({
            "realm_access": {"roles": ["reader"]}, "roles": ["admin"], "groups": ["/staff"], "namespace": "team-a",
            "scope": "openid  email", "email": "", "preferred_username": "alice", "azp": "cli", "dept": {"id": 7},
        });
        claims.extend(more.as_object().unwrap().clone());
        let dept = ClaimPath::parse("dept.id").unwrap();
        let identity =
            Said::read(&object(claims), &Arc::new(issuer()), std::slice::from_ref(&dept)).unwrap().identity();
        assert_eq!(identity.roles, ["reader", "admin"]);
        assert_eq!((identity.groups.as_slice(), identity.scopes.len()), (&["/staff".to_owned()][..], 2));
        assert_eq!((identity.namespace.as_deref(), identity.email.as_deref()), (Some("team-a"), None));
        assert_eq!(identity.claim(&dept), Some(&json!(7)));
    }

    #[test]
    fn only_lists_hold_roles() {
        for roles in [json!("admin"), json!({"admin": true}), json!(true), json!([{"admin": 1}])] {
            let mut claims = good();
            claims.insert("roles".into(), roles.clone());
            let identity = Said::read(&object(claims), &Arc::new(issuer()), &[]).unwrap().identity();
            assert!(identity.roles.is_empty(), "{roles}");
        }
    }

    #[test]
    fn an_identity_says_what_it_was_made_of_and_nothing_else() {
        let mut claims = good();
        let more = json!({
            "realm_access": {"roles": ["reader"]}, "groups": ["/staff"], "namespace": "team-a", "scope": "openid", "email": "a@b",
            "preferred_username": "alice", "azp": "cli", "dept": {"id": 7},
        });
        claims.extend(more.as_object().unwrap().clone());
        let (issuer, asked) = (Arc::new(issuer()), [ClaimPath::parse("dept.id").unwrap()]);
        let said = object(claims.clone());
        let said = |epoch| Said { epoch, ..Said::read(&said, &issuer, &asked).unwrap() };
        let identity = said(0).identity();
        assert!(said(0).is(&identity) && !said(1).is(&identity));
        let changes = json!({
            "sub": "bob", "realm_access": {"roles": ["reader", "admin"]}, "groups": ["/others"], "namespace": "team-b", "scope": "openid email",
            "email": "c@b", "preferred_username": "bob", "azp": "web", "dept": {"id": 8},
        });
        for (name, change) in changes.as_object().unwrap() {
            for change in [Some(change), None] {
                let mut other = claims.clone();
                match change {
                    Some(change) => drop(other.insert(name.clone(), change.clone())),
                    None => drop(other.remove(name)),
                }
                let other = object(other);
                let is_same = Said::read(&other, &issuer, &asked).is_some_and(|said| said.is(&identity));
                assert!(!is_same, "{name} {change:?}");
            }
        }
        let (elsewhere, claims) = (Arc::new(config::Issuer::clone(&issuer)), object(claims));
        assert!(!Said::read(&claims, &elsewhere, &asked).unwrap().is(&identity));
    }
}
