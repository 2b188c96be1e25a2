//! Tokens of Postern's own that are kept ready for users: they pass while their user has no other token in use.

use super::*;
use crate::base::json::tests::object;
use crate::identity::status::StatusError;
use crate::identity::{KeptToken, Recorded};
use crate::users::{Act, Proof, UserId};

const BOUND: u64 = 30;

struct Stage {
    clock: Clock,
    verifier: Arc<Verifier>,
    service: TokenService,
    shared: Shared,
}

impl Stage {
    fn new() -> Self {
        let clock = Clock::manual(1_800_000_000);
        let shared = shared(&clock);
        let introspection = Introspection {
            client_id: "gateway".into(),
            client_secret: Secret::new("secret"),
            bound: Duration::from_secs(BOUND),
            timeout: Duration::from_secs(2),
            when_unknown: WhenUnknown::Deny,
        };
        let config = crate::config::Issuer { user_status: UserStatus::Introspection(introspection), ..issuer() };
        let jwks = json!({ "keys": [KEYS[0].jwk()] }).to_string();
        let issuer = Issuer::offline(Arc::new(config), clock.clone(), &jwks).unwrap();
        let service = own();
        let verifier = Verifier::new(vec![Arc::new(issuer)], Vec::new(), &service, shared.clone(), 100).unwrap();
        Self { clock, verifier: Arc::new(verifier), service, shared }
    }

    /// A token with these roles, in the namespace `alice`.
    fn mint(&self, roles: &[String]) -> String {
        let audience = "https://postern.example".into();
        let template = Arc::new(NamespaceToken { audience, roles: vec!["*".into()], ..NamespaceToken::default() });
        let grant = Grant {
            template: &template,
            subject: "alice",
            original_issuer: &issuer().url,
            namespace: "alice",
            kind: NamespaceKind::Own,
            email: "",
            username: None,
            authorized_party: None,
            epoch: 0,
            roles,
            groups: &[],
        };
        let minted = self.service.credential(&CredentialCache::default(), &grant, self.clock.now()).unwrap();
        minted.header().to_str().unwrap().trim_start_matches("Bearer ").to_owned()
    }

    fn keep(&self, namespace: &str, roles: &[&str]) {
        let kept = KeptToken {
            named_unix_ms: 0,
            token: Secret::new("the one that is kept now"),
            expires: 0,
            epoch: 0,
            namespace: namespace.into(),
            roles: roles.iter().map(ToString::to_string).collect(),
            groups: Vec::new(),
        };
        self.shared.links.bulletin().keep(&user(), Some(Arc::new(kept)));
    }

    fn hear(&self) {
        self.shared.links.bulletin().hear(user().issuer(), self.clock.now().monotonic_ms);
    }

    async fn confirm(&self, token: &str) -> Result<Option<String>, StatusError> {
        let now = self.clock.now();
        let verified = self.verifier.verify(&LocalCache::default(), token.as_bytes(), now).await.unwrap();
        self.verifier.confirm(&verified, now).await.map(|identity| identity.namespace.clone())
    }
}

fn user() -> UserId {
    UserId::new("main", "alice").unwrap()
}

#[tokio::test]
async fn it_passes_as_long_as_the_issuer_told_about_its_users_within_the_bound() {
    let stage = Stage::new();
    let token = stage.mint(&["reader".into()]);
    stage.keep("alice", &["reader", "writer"]);
    assert_eq!(stage.confirm(&token).await, Err(StatusError::Unknown), "nothing was told");
    stage.clock.advance(Duration::from_secs(1));
    stage.hear();
    assert_eq!(stage.confirm(&token).await, Ok(Some("alice".into())));
    stage.clock.advance(Duration::from_secs(BOUND));
    assert_eq!(stage.confirm(&token).await, Ok(Some("alice".into())));
    stage.clock.advance(Duration::from_secs(1));
    assert_eq!(stage.confirm(&token).await, Err(StatusError::Unknown));
}

#[tokio::test]
async fn it_does_not_pass_once_something_changed() {
    let stage = Stage::new();
    let token = stage.mint(&["reader".into()]);
    stage.hear();
    stage.keep("alice", &["writer"]);
    assert_eq!(stage.confirm(&token).await, Err(StatusError::Unknown), "a role is gone");
    stage.keep("elsewhere", &["reader"]);
    assert_eq!(stage.confirm(&token).await, Err(StatusError::Unknown), "another namespace");
    stage.keep("alice", &["reader"]);
    assert!(stage.confirm(&token).await.is_ok());
    let act = Act { by: "olga".into(), reason: "left".into() };
    stage.shared.users.block(&user(), Proof::Operator(act)).unwrap();
    assert!(matches!(stage.confirm(&token).await, Err(StatusError::Refused(_))));
    stage.shared.links.bulletin().keep(&user(), None);
    assert!(stage.confirm(&token).await.is_err());
}

#[tokio::test]
async fn it_passes_where_another_process_keeps_it_and_records_what_it_says() {
    let stage = Stage::new();
    let token = stage.mint(&["reader".into()]);
    stage.clock.advance(Duration::from_secs(1));
    stage.hear();
    let note = |namespace: &str, roles: &[&str]| {
        let roles = roles.iter().map(ToString::to_string).collect();
        let recorded = Recorded { namespace: namespace.into(), roles, groups: Vec::new() };
        stage.shared.links.bulletin().note(&user(), Some(recorded));
    };
    assert_eq!(stage.confirm(&token).await, Err(StatusError::Unknown), "nothing is recorded");
    note("alice", &["writer"]);
    assert_eq!(stage.confirm(&token).await, Err(StatusError::Unknown), "a role is gone");
    note("elsewhere", &["reader"]);
    assert_eq!(stage.confirm(&token).await, Err(StatusError::Unknown), "another namespace");
    note("alice", &["reader", "writer"]);
    assert_eq!(stage.confirm(&token).await, Ok(Some("alice".into())));
    stage.clock.advance(Duration::from_secs(BOUND + 1));
    assert_eq!(stage.confirm(&token).await, Err(StatusError::Unknown), "the issuer is silent");
    stage.hear();
    assert!(stage.confirm(&token).await.is_ok());
    let act = Act { by: "olga".into(), reason: "left".into() };
    stage.shared.users.block(&user(), Proof::Operator(act)).unwrap();
    assert!(matches!(stage.confirm(&token).await, Err(StatusError::Refused(_))));
    stage.shared.links.bulletin().note(&user(), None);
    assert!(stage.confirm(&token).await.is_err());
}

#[tokio::test]
async fn the_recorded_namespace_comes_before_the_claim() {
    let stage = Stage::new();
    let verifier = verifier();
    let issuer = Arc::clone(verifier.issuers().next().unwrap());
    let claims = object(json!({"sub": "alice", "namespace": "claimed"}));
    let namespace = || stage.verifier.identity(&claims, &issuer).unwrap().namespace.clone();
    assert_eq!(namespace().as_deref(), Some("claimed"));
    stage.shared.links.bulletin().record(&user(), Some("recorded"));
    assert_eq!(namespace().as_deref(), Some("recorded"));
    stage.shared.links.bulletin().record(&user(), None);
    assert_eq!(namespace().as_deref(), Some("claimed"));
}
