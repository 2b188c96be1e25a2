//! Sign-in by password, and refreshing, for programs outside: `/auth/token` passes the grants of listed clients on to the issuer's token
//! endpoint (RFC 6749 §4.3, §6), and its answers back.
//!
//! Nothing goes through that is not on a list: `request` says which parameters, `answer` which members. `limit` keeps wrong passwords few, so
//! that nobody locks out another.

mod answer;
mod limit;
mod request;

use super::reply;
use super::{Authorization, Endpoints, Head, Outcome};
use crate::base::clock::Clock;
use crate::config;
use crate::issuer::{GrantError, Issuer};
use crate::telemetry::audit_log::Record;
use answer::{Answer, Odd, Who};
use bytes::Bytes;
use http::header::{PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use limit::{Limits, Permit, TooMany};
use request::{Grant, Mistake};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The endpoint as one configuration has it.
pub(super) struct AuthToken {
    config: config::AuthToken,
    issuer: Arc<Issuer>,
    limits: Arc<Limits>,
    /// Whether the last call failed: said when it begins, not once a call.
    is_failing: AtomicBool,
}

/// Why a grant cannot be passed on, or its answer not back.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Call(#[from] GrantError),
    #[error(transparent)]
    Answer(#[from] Odd),
}

impl AuthToken {
    /// Counts of wrong passwords go on where their limits stay the same.
    pub(super) fn new<'a>(
        config: &config::AuthToken,
        mut issuers: impl Iterator<Item = &'a Arc<Issuer>>,
        clock: &Clock,
        former: Option<&Self>,
    ) -> Option<Self> {
        let issuer = Arc::clone(issuers.find(|issuer| issuer.config().name == config.issuer)?);
        let known = former.map(|former| &former.limits).filter(|limits| limits.are_of(config));
        let limits = known.cloned().unwrap_or_else(|| Arc::new(Limits::new(config, clock.clone())));
        Some(Self { config: config.clone(), issuer, limits, is_failing: AtomicBool::new(false) })
    }

    fn note(&self, failure: Option<&Failure>) {
        let was_failing = self.is_failing.swap(failure.is_some(), Ordering::Relaxed);
        let issuer = self.config.issuer.as_str();
        match failure {
            Some(error) if !was_failing => tracing::error!(issuer, %error, "grants cannot be passed on"),
            None if was_failing => tracing::info!(issuer, "grants are passed on again"),
            _ => {}
        }
    }
}

impl fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthToken").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Endpoints {
    /// Answers a call from `client`. What is wrong with it by itself is found out on the worker; the issuer is asked on the control plane, and
    /// to the end, so that nobody gets a guess for nothing by hanging up.
    pub(super) async fn pass_grant(
        self: &Arc<Self>,
        auth_token: &Arc<AuthToken>,
        body: &[u8],
        client: IpAddr,
    ) -> (Outcome, Response<Bytes>) {
        let grant = match Grant::parse(body, &auth_token.config.clients) {
            Ok(grant) => grant,
            Err(mistake) => return refused(mistake),
        };
        let permit = match auth_token.limits.admit(grant.username(), client) {
            Ok(permit) => permit,
            Err(too_many) => return limited(too_many),
        };
        let (endpoints, auth_token) = (Arc::clone(self), Arc::clone(auth_token));
        let asked = self.control.spawn(async move { endpoints.ask_issuer(&auth_token, &grant, permit, client).await });
        let (outcome, response) = asked.await.unwrap_or_else(|_| (Outcome::Unavailable, reply::unavailable()));
        (outcome, uncached(response))
    }

    async fn ask_issuer(
        &self,
        auth_token: &AuthToken,
        grant: &Grant,
        permit: Permit,
        client: IpAddr,
    ) -> (Outcome, Response<Bytes>) {
        let form: Vec<_> = grant.form().collect();
        let answer = match auth_token.issuer.grant(&form, client, auth_token.config.timeout).await {
            Ok(reply) => answer::read(reply.status, &reply.body, grant).map_err(Failure::from),
            Err(error) => Err(Failure::from(error)),
        };
        auth_token.note(answer.as_ref().err());
        match answer {
            Ok(Answer::Issued { members, who }) => {
                permit.succeeded();
                self.audit_grant(auth_token, grant, client, Ok(&who));
                (Outcome::Done, reply::ok(&members.into()))
            }
            Ok(Answer::Refused { error, description }) => {
                // Only a wrong password is a guess; what is wrong with the client says nothing about a user.
                if error == "invalid_grant" {
                    permit.failed();
                }
                self.audit_grant(auth_token, grant, client, Err(error));
                (Outcome::Refused, reply::error(StatusCode::BAD_REQUEST, error, &description))
            }
            // Nothing was learnt, so nothing was guessed.
            Err(_) => (Outcome::Unavailable, reply::unavailable()),
        }
    }

    /// One line for each issue of tokens, and for each password that was not taken. Names are those of the issuer: what somebody typed for a
    /// name may be a password.
    fn audit_grant(&self, auth_token: &AuthToken, grant: &Grant, client: IpAddr, outcome: Result<&Who, &'static str>) {
        // One that was not taken is no news: refresh tokens expire each day, and anybody can send many.
        if outcome.is_err() && grant.username().is_none() {
            return;
        }
        let (address, who) = (client.to_string(), outcome.ok());
        self.audit.write(&Record {
            unix_ms: self.clock.now().unix_ms,
            event: "token_issue",
            issuer: Some(&auth_token.config.issuer),
            subject: who.and_then(|who| who.subject.as_deref()),
            username: who.and_then(|who| who.username.as_deref()),
            session: who.and_then(|who| who.session.as_deref()),
            client: Some(grant.client()),
            grant: Some(grant.grant_type().name()),
            address: Some(&address),
            outcome: Some(if who.is_some() { "issued" } else { "refused" }),
            cause: outcome.err(),
            ..Record::default()
        });
    }
}

/// What the head alone has refused: a client here has no credentials, what is secret stands in no URL (RFC 6749 §3.2), and no web page may
/// have its readers' browsers try passwords from their addresses.
pub(super) fn refusal(head: &Head<'_>) -> Option<(Outcome, Response<Bytes>)> {
    if *head.authorization != Authorization::Nothing {
        let mut response = reply::error(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "clients have no secret here: leave the Authorization header out and name the client by `client_id`",
        );
        let challenge = HeaderValue::from_static("Basic realm=\"postern\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        return Some((Outcome::Unauthorized, uncached(response)));
    }
    let description = match head {
        Head { has_query: true, .. } => "parameters belong into the body",
        Head { has_origin: true, .. } => "this is not for browsers",
        _ => return None,
    };
    Some((Outcome::Malformed, uncached(reply::invalid_request(description))))
}

/// The answer to a call that is wrong by itself.
fn refused(mistake: Mistake) -> (Outcome, Response<Bytes>) {
    let outcome = match mistake {
        Mistake::Client | Mistake::Secret(_) | Mistake::NotItsGrant => Outcome::Unauthorized,
        _ => Outcome::Malformed,
    };
    (outcome, uncached(reply::error(StatusCode::BAD_REQUEST, mistake.code(), &mistake.to_string())))
}

/// The answer to one call too many.
fn limited(too_many: TooMany) -> (Outcome, Response<Bytes>) {
    let (status, seconds) = match too_many {
        TooMany::Failures(wait) => (StatusCode::TOO_MANY_REQUESTS, wait.as_secs_f64().ceil().max(1.0)),
        TooMany::OfAddress => (StatusCode::TOO_MANY_REQUESTS, 1.0),
        TooMany::InAll => (StatusCode::SERVICE_UNAVAILABLE, 1.0),
    };
    let mut response = reply::error(status, "temporarily_unavailable", &too_many.to_string());
    let seconds = HeaderValue::try_from(format!("{seconds:.0}")).unwrap_or(HeaderValue::from_static("1"));
    response.headers_mut().insert(RETRY_AFTER, seconds);
    (Outcome::Limited, uncached(response))
}

/// RFC 6749 §5.1 asks for both fields.
fn uncached(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}
