//! Tokens that a gateway makes by what the token service recorded.

use super::stage::{START, config, id};
use crate::base::clock::Clock;
use crate::config::NamespaceToken;
use crate::delivery::desk::{Desk, Terms};
use crate::delivery::directory::Directory;
use crate::delivery::record::{Facts, Issue, Record};
use crate::identity::{Bulletin, News, NoToken};
use crate::token_service::TokenService;
use crate::users::{IssuerCause, IssuerTime, Proof, UserId, Users};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

struct Stage {
    clock: Clock,
    users: Arc<Users>,
    desk: Desk,
}

impl Stage {
    /// `alice` signed in, and the issuer has just told about everybody.
    fn new() -> Self {
        let clock = Clock::manual(START);
        let service = Arc::new(TokenService::ephemeral(config().token_service, clock.clone()).unwrap());
        let (users, bulletin) = (Users::in_memory(clock.clone()), Arc::<Bulletin>::default());
        let template = Arc::new(NamespaceToken { audience: "https://postern.example".into(), ..Default::default() });
        let issue = Issue { template, original_issuer: "https://keycloak.example/realms/demo".into() };
        let terms = Terms { issue, silence: Duration::from_secs(60) };
        let desk = Desk {
            directory: Arc::<Directory>::default(),
            terms: Box::new(move |issuer| (issuer == "main").then(|| terms.clone())),
            token_service: Box::new(move || Arc::clone(&service)),
            users: Arc::clone(&users),
            bulletin,
            clock: clock.clone(),
        };
        let stage = Self { clock, users, desk };
        stage.record("alice", |_| ());
        stage.sweep();
        stage
    }

    fn record(&self, name: &str, change: impl FnOnce(&mut Record)) {
        let facts = Facts { username: name.into(), enabled: true, ..Facts::default() };
        let named_unix_ms = self.clock.now().unix_ms;
        let mut record =
            Record { facts, namespace: Some(name.into()), named_unix_ms, has_signed_in: true, ..Record::default() };
        change(&mut record);
        self.desk.directory.put(&id(name), Some(record), &self.desk.bulletin);
    }

    fn sweep(&self) {
        let began_ms = self.clock.now().monotonic_ms;
        assert!(self.desk.take(News::Swept { issuer: "main".into(), began_ms }).is_none());
    }

    /// The namespace of the token for a user.
    fn want(&self, user: UserId) -> Result<String, NoToken> {
        let (reply, mut answer) = oneshot::channel();
        assert!(self.desk.take(News::Wanted { user, reply }).is_none());
        answer.try_recv().unwrap().map(|kept| kept.namespace.clone())
    }
}

#[test]
fn who_is_recorded_gets_a_token_of_their_namespace_that_lives_for_long() {
    let stage = Stage::new();
    let kept = stage.desk.token(&id("alice")).unwrap();
    let left = kept.expires - stage.clock.now().unix_seconds();
    assert!((1200..=1800).contains(&left), "{left} s");
    assert_eq!((kept.namespace.as_str(), kept.named_unix_ms), ("alice", stage.clock.now().unix_ms));
    assert_eq!(stage.desk.bulletin.owner("alice"), Some(id("alice")));
    assert_eq!(stage.want(id("bob")), Err(NoToken::NoNamespace));
    assert_eq!(stage.want(UserId::new("other", "alice").unwrap()), Err(NoToken::NoNamespace));
}

#[test]
fn who_is_out_or_never_came_gets_none() {
    let stage = Stage::new();
    stage.record("bob", |bob| bob.has_signed_in = false);
    stage.record("carol", |carol| carol.namespace = None);
    stage.record("dave", |dave| dave.facts.enabled = false);
    let answers = ["bob", "carol", "dave"].map(|name| stage.want(id(name)).unwrap_err());
    assert_eq!(answers, [NoToken::NeverSignedIn, NoToken::NoNamespace, NoToken::NotNow]);
    let time = IssuerTime::At(stage.clock.now().unix_ms);
    let proof = Proof::Issuer { cause: IssuerCause::Disabled, time, happened_ms: None };
    stage.users.block(&id("alice"), proof).unwrap();
    assert_eq!(stage.want(id("alice")), Err(NoToken::NotNow));
}

#[test]
fn what_changed_in_the_record_is_not_handed_out_as_it_was() {
    let stage = Stage::new();
    assert!(stage.desk.token(&id("alice")).unwrap().roles.is_empty());
    stage.record("alice", |alice| alice.facts.roles = vec!["reader".into()]);
    assert_eq!(stage.desk.token(&id("alice")).unwrap().roles, ["reader"]);
    stage.desk.directory.put(&id("alice"), None, &stage.desk.bulletin);
    assert_eq!((stage.want(id("alice")), stage.desk.bulletin.owner("alice")), (Err(NoToken::NoNamespace), None));
}

#[test]
fn while_the_issuer_is_silent_for_too_long_none_is_made() {
    let stage = Stage::new();
    stage.clock.advance(Duration::from_secs(60));
    assert!(stage.want(id("alice")).is_ok());
    stage.clock.advance(Duration::from_secs(1));
    assert_eq!(stage.want(id("alice")), Err(NoToken::NotNow));
    stage.sweep();
    assert!(stage.want(id("alice")).is_ok());
}

#[test]
fn what_is_none_of_its_business_is_given_back() {
    let stage = Stage::new();
    assert!(matches!(stage.desk.take(News::SignedIn(id("alice"))), Some(News::SignedIn(_))));
}
