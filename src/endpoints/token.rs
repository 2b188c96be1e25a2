//! `GET /token`: a user's own token, for a token of their issuer. Never for one of Postern's own: no token of ours obtains another.

use super::client::Authorization;
use super::reply;
use super::{Endpoints, Outcome, Reply};
use crate::base::clock::Now;
use crate::base::tick::Deadline;
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

impl Endpoints {
    /// Answers a call.
    pub(super) async fn token(&self, authorization: &Authorization) -> Reply {
        let (outcome, response) = match self.caller(authorization).await {
            Ok(user) => match self.kept(user).await {
                Ok(kept) => (Outcome::Done, granted(&kept, self.clock.now())),
                Err(NoToken::NoNamespace) => {
                    let description = "there is no namespace for this user";
                    (Outcome::Refused, reply::error(StatusCode::FORBIDDEN, "insufficient_scope", description))
                }
                Err(NoToken::NotNow) => (Outcome::Unavailable, reply::unavailable()),
            },
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

    /// Who is asking, by the same way as every request goes: verified, and their user still enabled.
    async fn caller(&self, authorization: &Authorization) -> Result<UserId, Refused> {
        let header = match authorization {
            Authorization::Nothing => return Err(Refused::Nobody),
            Authorization::Several => return Err(Refused::Malformed),
            Authorization::One(header) => header.as_bytes(),
        };
        let (scheme, token) = header.split_at_checked(7).ok_or(Refused::Malformed)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(Refused::Malformed);
        }
        let wanted = self.delivered.as_deref().ok_or(Refused::Foreign)?;
        let verified = match self.verifier.verify(&LocalCache::default(), token, self.clock.now()).await {
            Ok(verified) => verified,
            Err(TokenError::KeysUnavailable { .. } | TokenError::Unknown) => return Err(Refused::Unknown),
            Err(_) => return Err(Refused::Invalid),
        };
        if verified.issuer().config().name != wanted {
            return Err(Refused::Foreign);
        }
        match self.verifier.confirm(&verified, self.clock.now()).await {
            Ok(identity) => UserId::new(wanted, identity.subject.as_str()).ok_or(Refused::Invalid),
            Err(StatusError::Unknown) => Err(Refused::Unknown),
            Err(StatusError::Inactive | StatusError::Refused(_) | StatusError::Mismatch(_)) => Err(Refused::Invalid),
        }
    }

    /// The token that is kept for a user, or the one that is made for them now.
    async fn kept(&self, user: UserId) -> Result<Arc<KeptToken>, NoToken> {
        let bulletin = self.links.bulletin();
        if let Some(kept) = bulletin.kept(&user).filter(|kept| self.is_good(&user, kept)) {
            return Ok(kept);
        }
        let (reply, answer) = oneshot::channel();
        let asked = user.clone();
        bulletin.tell(|| Some(News::Wanted { user: asked, reply }));
        let kept = Deadline::after(WAIT).bound(answer).await.and_then(Result::ok).unwrap_or(Err(NoToken::NotNow))?;
        // A block may have come meanwhile.
        if self.is_good(&user, &kept) { Ok(kept) } else { Err(NoToken::NotNow) }
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
