//! One client of Postern's own, as a route's credential names it, and how it asks for tokens.

use super::BrokerError;
use super::account;
use super::answer::{AnswerError, Wanted, read};
use crate::base::clock::{Clock, Now};
use crate::base::http_client::{BasicCredentials, HttpClient, HttpError, Reply, shown};
use crate::base::secret::Secret;
use crate::base::tls;
use crate::config::{ClientCredentials, Credential, Exchange, ServiceAccount, TokenEndpoint};
use crate::identity::VerifiedToken;
use crate::identity::ceiling::Kind;
use crate::issuer::{Issuer, TokenEndpointError};
use crate::kubernetes::{Cluster, KubernetesError};
use crate::telemetry::credentials::CredentialCalls;
use crate::telemetry::metrics::Metrics;
use crate::token_service::obtained::{Obtained, ObtainedError, Purpose, Slot};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use url::Url;

/// One line in the log in so much time, however many calls fail. In milliseconds.
const REPORT_EVERY_MS: u64 = 10_000;

/// RFC 8693 §2.1.
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// RFC 8693 §3.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// A client, and what it asks for.
pub(super) struct Party {
    pub(super) what: What,
    calls: CredentialCalls,
    /// When a failure was last reported, in milliseconds of the monotonic clock.
    reported_ms: AtomicU64,
}

pub(super) enum What {
    /// At the issuer of each token.
    Exchange(Arc<Exchange>),
    /// For nobody in particular.
    Client { config: Arc<ClientCredentials>, endpoint: Endpoint, slot: Arc<Slot> },
    /// At the API server of the cluster.
    Account(Arc<ServiceAccount>, Cluster),
}

pub(super) enum Endpoint {
    Issuer(Arc<Issuer>),
    Url(HttpClient, Url),
}

/// Who a credential is for.
pub(super) enum Subject {
    /// Everybody.
    Nobody,
    /// Whose token is exchanged, and their `sub`, as the issuer gives it.
    Caller(Arc<VerifiedToken>, String),
    /// The user of a namespace.
    Namespace(Box<str>),
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Endpoint(#[from] TokenEndpointError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("the caller's token cannot be shown to its issuer")]
    Subject,
    #[error("nobody says whose the credential is to be")]
    Nobody,
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    #[error("the token that was made cannot be used: {0}")]
    Token(#[from] ObtainedError),
}

/// How a call ended that brought nothing.
enum Outcome {
    Refused,
    Insufficient,
    Failed,
}

impl AskError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Answer(AnswerError::Refused { .. }) => Outcome::Refused,
            Self::Answer(error) if error.is_insufficient() => Outcome::Insufficient,
            Self::Token(ObtainedError::BelowFloor(_)) => Outcome::Insufficient,
            Self::Kubernetes(
                KubernetesError::NotFound { .. }
                | KubernetesError::Conflict { .. }
                | KubernetesError::Forbidden { .. }
                | KubernetesError::Invalid { .. },
            ) => Outcome::Refused,
            _ => Outcome::Failed,
        }
    }
}

impl Party {
    pub(super) fn exchange(template: &Arc<Exchange>, metrics: &Metrics) -> Self {
        let calls = metrics.credentials().calls("exchange", &template.client_id);
        Self { what: What::Exchange(Arc::clone(template)), calls, reported_ms: AtomicU64::new(0) }
    }

    /// `slot` is what another configuration's party held for the same client.
    pub(super) fn client(
        config: &Arc<ClientCredentials>,
        issuers: &[&Arc<Issuer>],
        slot: Option<Arc<Slot>>,
        metrics: &Metrics,
    ) -> Result<Self, BrokerError> {
        let endpoint = match &config.endpoint {
            TokenEndpoint::Issuer(named) => {
                let issuer = issuers.iter().find(|issuer| issuer.config().name == named.name);
                Endpoint::Issuer(Arc::clone(issuer.ok_or_else(|| BrokerError::NoIssuer(named.name.clone()))?))
            }
            TokenEndpoint::Url(url, ca) => {
                let tls = tls::client_config(ca.as_deref(), None, &[b"http/1.1"])?;
                Endpoint::Url(HttpClient::new(&tls, config.timeout)?, url.clone())
            }
        };
        let slot = slot.unwrap_or_else(|| Arc::new(Slot::new(Purpose::Client)));
        let calls = metrics.credentials().calls("client-credentials", &config.client_id);
        let what = What::Client { config: Arc::clone(config), endpoint, slot };
        Ok(Self { what, calls, reported_ms: AtomicU64::new(0) })
    }

    pub(super) fn account(config: &Arc<ServiceAccount>, cluster: &Cluster, metrics: &Metrics) -> Self {
        let calls = metrics.credentials().calls("service-account", &config.account);
        Self { what: What::Account(Arc::clone(config), cluster.clone()), calls, reported_ms: AtomicU64::new(0) }
    }

    /// Whether it gets just this.
    pub(super) fn is_of(&self, credential: &Credential) -> bool {
        match (&self.what, credential) {
            (What::Exchange(own), Credential::Exchange(other)) => own == other,
            (What::Client { config, .. }, Credential::ClientCredentials(other)) => config == other,
            (What::Account(own, _), Credential::ServiceAccount(other)) => own == other,
            _ => false,
        }
    }

    /// What the client holds for itself.
    pub(super) fn slot(&self) -> Option<Arc<Slot>> {
        match &self.what {
            What::Client { slot, .. } => Some(Arc::clone(slot)),
            What::Exchange(_) | What::Account(..) => None,
        }
    }

    /// How long a call may take.
    pub(super) fn timeout(&self) -> Duration {
        match &self.what {
            What::Exchange(template) => template.timeout,
            What::Client { config, .. } => config.timeout,
            What::Account(config, _) => config.timeout,
        }
    }

    /// Makes one call, counts it, and says in the log if it brought nothing.
    pub(super) async fn ask(&self, subject: Subject, clock: &Clock) -> Result<Obtained, String> {
        let limit = self.timeout();
        let outcome = match tokio::time::timeout(limit, self.call(subject, clock)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(AskError::Late(limit)),
        };
        match &outcome {
            Ok(_) => &self.calls.ok,
            Err(error) => match error.outcome() {
                Outcome::Refused => &self.calls.refused,
                Outcome::Insufficient => &self.calls.insufficient,
                Outcome::Failed => &self.calls.failed,
            },
        }
        .inc();
        outcome.map_err(|error| {
            self.report(&error, clock.now());
            error.to_string()
        })
    }

    async fn call(&self, subject: Subject, clock: &Clock) -> Result<Obtained, AskError> {
        match (&self.what, subject) {
            (What::Exchange(template), Subject::Caller(token, name)) => exchange(template, &token, &name, clock).await,
            (What::Account(config, cluster), Subject::Namespace(name)) => {
                account::ask(cluster, config, &name, clock).await
            }
            (What::Client { config, endpoint, .. }, _) => client_token(config, endpoint, clock).await,
            (What::Exchange(_) | What::Account(..), _) => Err(AskError::Nobody),
        }
    }

    /// Names scope and client, never a token.
    fn report(&self, error: &AskError, now: Now) {
        let last_ms = self.reported_ms.load(Ordering::Relaxed);
        let is_due = last_ms == 0 || now.monotonic_ms.saturating_sub(last_ms) >= REPORT_EVERY_MS;
        let mine = now.monotonic_ms;
        if !is_due || self.reported_ms.compare_exchange(last_ms, mine, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let (credential, client, audience, scopes, place) = match &self.what {
            What::Account(config, _) => {
                ("service-account", &config.account, "", &Vec::new(), "the Kubernetes API".to_owned())
            }
            What::Exchange(template) => {
                let Exchange { client_id, audience, scopes, issuer, .. } = &**template;
                ("exchange", client_id, audience.as_str(), scopes, issuer.name.clone())
            }
            What::Client { config, endpoint, .. } => {
                let ClientCredentials { client_id, audience, scopes, .. } = &**config;
                let place = match endpoint {
                    Endpoint::Issuer(issuer) => issuer.config().name.clone(),
                    Endpoint::Url(_, url) => shown(url),
                };
                ("client-credentials", client_id, audience.as_deref().unwrap_or_default(), scopes, place)
            }
        };
        let scope = scopes.join(" ");
        tracing::warn!(credential, client, audience, scope, at = place, %error, "no credential for upstreams could be got");
    }
}

/// Exchanges the caller's token (RFC 8693 §2), under the ceiling of what its issuer is asked about users.
async fn exchange(
    template: &Exchange,
    subject: &VerifiedToken,
    name: &str,
    clock: &Clock,
) -> Result<Obtained, AskError> {
    let token = subject.secret().ok_or(AskError::Subject)?;
    let scope = template.scopes.join(" ");
    let mut form = vec![
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", token.expose()),
        ("subject_token_type", ACCESS_TOKEN),
        ("audience", &template.audience),
    ];
    if !scope.is_empty() {
        form.push(("scope", &scope));
    }
    let _permit = match subject.ceiling() {
        Some(ceiling) => Some(ceiling.begin(Kind::Exchange).await),
        None => None,
    };
    let who = BasicCredentials::new(&template.client_id, &template.client_secret);
    let asked_ms = clock.now().monotonic_ms;
    let issuer = subject.issuer();
    let reply = issuer.post_for_token(&who, &form, template.timeout).await?;
    let wanted = Wanted {
        audience: Some(&template.audience),
        scopes: &template.scopes,
        issuer: Some(issuer.config()),
        subject: Some(name),
    };
    obtained(&reply, &wanted, asked_ms)
}

/// Has a token made for the client itself (RFC 6749 §4.4).
async fn client_token(config: &ClientCredentials, at: &Endpoint, clock: &Clock) -> Result<Obtained, AskError> {
    let scope = config.scopes.join(" ");
    let mut form = vec![("grant_type", "client_credentials")];
    if !scope.is_empty() {
        form.push(("scope", &scope));
    }
    if let Some(audience) = &config.audience {
        form.push(("audience", audience));
    }
    let who = BasicCredentials::new(&config.client_id, &config.client_secret);
    let asked_ms = clock.now().monotonic_ms;
    let (reply, issuer) = match at {
        Endpoint::Issuer(issuer) => {
            (issuer.post_for_token(&who, &form, config.timeout).await?, Some(&**issuer.config()))
        }
        Endpoint::Url(http, url) => (http.post_form_for_reply(url, &who, &form, config.timeout).await?, None),
    };
    let wanted = Wanted { audience: config.audience.as_deref(), scopes: &config.scopes, issuer, subject: None };
    obtained(&reply, &wanted, asked_ms)
}

fn obtained(reply: &Reply, wanted: &Wanted<'_>, asked_ms: u64) -> Result<Obtained, AskError> {
    let (token, lifetime): (Secret, Duration) = read(reply, wanted)?;
    Ok(Obtained::new(&token, asked_ms, lifetime)?)
}
