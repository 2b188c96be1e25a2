//! `GET /token`: a user's own token, for a token of their issuer, or of a service account of their namespace ([`super::pod`]). Never for one of
//! Postern's own: no token of ours obtains another.

use super::client::Authorization;
use super::pod::{Denied, Pod};
use super::reply;
use super::{Endpoints, Outcome, Reply};
use crate::base::clock::Now;
use crate::base::tick::Deadline;
use crate::config::IssuerKind;
use crate::identity::status::StatusError;
use crate::identity::{KeptToken, LocalCache, News, NoToken, TokenError};
use crate::users::{State, UserId};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What is handed out lives for so long at least, in seconds.
const LEAST: i64 = 10 * 60;

/// How long the first token of a user is waited for: the issuer is asked about them, and the disk keeps what is written.
const WAIT: Duration = Duration::from_secs(5);

/// Why a caller gets none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// No token was shown.
    Nobody,
    /// More than one was, or something else.
    Malformed,
    /// What was shown does not let its bearer in.
    Invalid,
    /// It is not of the issuer whose users get tokens.
    Foreign,
    /// Whether it lets its bearer in is not known.
    Unknown,
}

/// Why a caller who is known gets none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// There is none, or none now.
    NoToken(NoToken),
    /// It is not for this pod.
    Denied(Denied),
}

/// Whose token is asked for, and by which pod, if it is not the user who asks.
#[derive(Debug)]
struct Caller {
    user: Result<UserId, Denied>,
    pod: Option<Pod>,
}

impl Endpoints {
    /// Answers a call.
    pub(super) async fn token(&self, authorization: &Authorization) -> Reply {
        let (outcome, response) = match self.caller(authorization).await {
            Ok(caller) => self.token_for(caller).await,
            Err(Refused::Unknown) => (Outcome::Unavailable, reply::unavailable()),
            Err(Refused::Malformed) => {
                (Outcome::Malformed, reply::invalid_request("one bearer token is expected in `Authorization`"))
            }
            Err(Refused::Nobody) => (Outcome::Unauthorized, reply::bearer_needed(None)),
            Err(Refused::Foreign) => (Outcome::Refused, reply::bearer_needed(Some("invalid_token"))),
            Err(Refused::Invalid) => (Outcome::Forged, reply::bearer_needed(Some("invalid_token"))),
        };
        self.counts.call("token", outcome.code());
        Reply { is_failed_authentication: outcome == Outcome::Forged, ..Reply::from(response) }
    }

    /// The token for a caller who is known, or why there is none.
    async fn token_for(&self, caller: Caller) -> (Outcome, Response<Bytes>) {
        let Caller { user, pod } = caller;
        let kept = match &user {
            Ok(user) => self.kept(user, pod.as_ref()).await,
            Err(denied) => Err(Missing::Denied(*denied)),
        };
        if let (Some(pod), Ok(user), Ok(_)) = (&pod, &user, &kept) {
            self.audit_trade(pod, user);
        }
        match kept {
            Ok(kept) => (Outcome::Done, granted(&kept, self.clock.now())),
            Err(Missing::Denied(denied)) => {
                (Outcome::Refused, reply::access_denied(denied.code(), &denied.to_string()))
            }
            Err(Missing::NoToken(NoToken::NoNamespace)) => {
                let description = "there is no namespace for this user";
                (Outcome::Refused, reply::error(StatusCode::FORBIDDEN, "insufficient_scope", description))
            }
            Err(Missing::NoToken(NoToken::NotNow | NoToken::NeverSignedIn)) => {
                (Outcome::Unavailable, reply::unavailable())
            }
        }
    }

    /// Who is asking, by the same way as every request goes: verified, and their user still enabled.
    async fn caller(&self, authorization: &Authorization) -> Result<Caller, Refused> {
        let header = match authorization {
            Authorization::Nothing => return Err(Refused::Nobody),
            Authorization::Several => return Err(Refused::Malformed),
            Authorization::One(header) => header.as_bytes(),
        };
        let (scheme, token) = header.split_at_checked(7).ok_or(Refused::Malformed)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(Refused::Malformed);
        }
        let verified = match self.verifier.verify(&LocalCache::default(), token, self.clock.now()).await {
            Ok(verified) => verified,
            Err(TokenError::KeysUnavailable { .. } | TokenError::Unknown) => return Err(Refused::Unknown),
            Err(_) => return Err(Refused::Invalid),
        };
        let issuer = verified.issuer().config();
        let is_delivered = self.delivered.iter().any(|name| **name == *issuer.name);
        if !is_delivered && !matches!(issuer.kind, IssuerKind::Kubernetes { .. }) {
            return Err(Refused::Foreign);
        }
        let identity = match self.verifier.confirm(&verified, self.clock.now()).await {
            Ok(identity) => identity,
            Err(StatusError::Unknown) => return Err(Refused::Unknown),
            Err(StatusError::Inactive | StatusError::Refused(_) | StatusError::Mismatch(_)) => {
                return Err(Refused::Invalid);
            }
        };
        if let Some(pod) = Pod::of(issuer, &identity, verified.issued()) {
            return Ok(Caller { user: self.user_of_pod(issuer, &identity), pod: Some(pod) });
        }
        let user = UserId::new(issuer.name.as_str(), identity.subject.as_str()).ok_or(Refused::Invalid)?;
        Ok(Caller { user: Ok(user), pod: None })
    }

    /// The token that is kept for a user, or the one that is made for them now.
    async fn kept(&self, user: &UserId, pod: Option<&Pod>) -> Result<Arc<KeptToken>, Missing> {
        let not_now = Missing::NoToken(NoToken::NotNow);
        let bulletin = self.links.bulletin();
        let kept = match bulletin.kept(user).filter(|kept| self.is_good(user, kept)) {
            Some(kept) => kept,
            None => {
                let (reply, answer) = oneshot::channel();
                if pod.is_none() {
                    bulletin.tell(|| Some(News::SignedIn(user.clone())));
                }
                bulletin.tell(|| Some(News::Wanted { user: user.clone(), reply }));
                match Deadline::after(WAIT).bound(answer).await.and_then(Result::ok) {
                    // A block may have come meanwhile.
                    Some(Ok(kept)) if self.is_good(user, &kept) => kept,
                    Some(Err(NoToken::NoNamespace)) if pod.is_some() => return Err(Missing::Denied(Denied::NoUser)),
                    Some(Err(NoToken::NeverSignedIn)) if pod.is_some() => {
                        return Err(Missing::Denied(Denied::NeverSignedIn));
                    }
                    Some(Err(reason)) => return Err(Missing::NoToken(reason)),
                    Some(Ok(_)) | None => return Err(not_now),
                }
            }
        };
        match pod {
            Some(pod) => pod.check(&kept).map(|()| kept).map_err(Missing::Denied),
            None => Ok(kept),
        }
    }

    fn is_good(&self, user: &UserId, kept: &KeptToken) -> bool {
        let now = self.clock.now();
        let (state, epoch) = self.users.standing(user, now);
        state == State::Active && kept.epoch == epoch && kept.expires - now.unix_seconds() >= LEAST
    }
}

/// The answer of a token endpoint (RFC 6749 §5.1).
fn granted(kept: &KeptToken, now: Now) -> Response<Bytes> {
    reply::ok(&json!({
        "access_token": kept.token.expose(),
        "token_type": "Bearer",
        "expires_in": kept.expires - now.unix_seconds(),
        "namespace": kept.namespace,
    }))
}
