//! What operators ask for, and what becomes of it.

use super::Operators;
use super::access::Caller;
use crate::users::{
    self, Decision, IssuerClock, Lift, Lifted, Proof, Revocation, StoreError, Tokens, UserId, UserView,
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    ShowUser,
    ShowDelivery,
    BlockUser,
    UnblockUser,
    RevokeTokens,
    ShowCluster,
    DisableCluster,
    EnableCluster,
}

impl Act {
    pub(super) fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/user/show" => Self::ShowUser,
            "/v1/delivery/show" => Self::ShowDelivery,
            "/v1/user/block" => Self::BlockUser,
            "/v1/user/unblock" => Self::UnblockUser,
            "/v1/tokens/revoke" => Self::RevokeTokens,
            "/v1/cluster/show" => Self::ShowCluster,
            "/v1/cluster/disable" => Self::DisableCluster,
            "/v1/cluster/enable" => Self::EnableCluster,
            _ => return None,
        })
    }
}

/// Why an act is not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    #[error("the body is not what is expected: {0}")]
    Body(#[from] serde_json::Error),
    #[error("there is no issuer `{0}`")]
    Issuer(String),
    #[error("a subject is 1 to 255 characters")]
    Subject,
    #[error("a reason is needed")]
    Reason,
    #[error("`{0}` is no time: write one as 2026-01-31T12:00:00Z")]
    Time(String),
    #[error("give one of `jti`, `sid` and `sub`, or `issued_before` alone; `sub` and `issued_before` may go together")]
    Tokens,
    #[error("issuer `{0}` does not say what time it is, and a guess could let old sign-ins pass; try again")]
    NoTime(String),
    #[error("{0}")]
    State(&'static str),
    #[error("what is known could not be stored")]
    Store(#[from] StoreError),
}

impl ActError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::State(_) => StatusCode::CONFLICT,
            Self::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoTime(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    issuer: String,
    subject: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WhoAndWhy {
    issuer: String,
    subject: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    issuer: String,
    jti: Option<String>,
    sid: Option<String>,
    sub: Option<String>,
    issued_before: Option<String>,
    reason: String,
}

impl Operators {
    /// Does what is asked for, in the caller's name. Waits for the disk.
    pub(super) async fn act(&self, act: Act, body: &[u8], caller: &Caller) -> Result<Value, ActError> {
        match act {
            Act::ShowUser => {
                let Who { issuer, subject } = serde_json::from_slice(body)?;
                let user = self.user(&issuer, &subject)?;
                Ok(json!({ "user": self.shown(&user) }))
            }
            Act::ShowDelivery => {
                let Nothing {} = serde_json::from_slice(body)?;
                let shown =
                    self.delivered.as_ref().ok_or(ActError::State("no tokens are kept: there is no `[delivery]`"))?;
                Ok(shown())
            }
            Act::BlockUser => {
                let WhoAndWhy { issuer, subject, reason } = serde_json::from_slice(body)?;
                let user = self.user(&issuer, &subject)?;
                let decision = self.users.block(&user, Proof::Operator(signed(caller, reason)?))?;
                Ok(json!({ "changed": decision.is_some(), "user": self.shown(&user) }))
            }
            Act::UnblockUser => {
                let WhoAndWhy { issuer, subject, reason } = serde_json::from_slice(body)?;
                let (user, act) = (self.user(&issuer, &subject)?, signed(caller, reason)?);
                let lift = Lift::Operator { act, issuer_now_ms: self.issuer_now_ms(&issuer).await? };
                match self.users.lift(&user, lift)? {
                    Lifted::Done(_) => Ok(json!({ "changed": true, "user": self.shown(&user) })),
                    Lifted::NotBlocked | Lifted::Stale => Err(ActError::State("no operator has blocked this user")),
                }
            }
            Act::RevokeTokens => self.revoke(serde_json::from_slice(body)?, caller).await,
            Act::ShowCluster => Ok(self.cluster(None)),
            Act::DisableCluster => {
                let Why { reason } = serde_json::from_slice(body)?;
                let decision = self.users.disable_cluster(signed(caller, reason)?)?;
                Ok(self.cluster(Some(decision)))
            }
            Act::EnableCluster => {
                let Why { reason } = serde_json::from_slice(body)?;
                let act = signed(caller, reason)?;
                let verifier = (self.verifier)();
                let names: Vec<_> = verifier.issuers().map(|issuer| issuer.config().name.clone()).collect();
                let mut clocks = Vec::new();
                for issuer in &names {
                    clocks.push(IssuerClock { issuer, now_ms: self.issuer_now_ms(issuer).await? });
                }
                let decision = self.users.enable_cluster(act, &clocks)?;
                Ok(self.cluster(Some(decision)))
            }
        }
    }

    async fn revoke(&self, which: Which, caller: &Caller) -> Result<Value, ActError> {
        let act = signed(caller, which.reason)?;
        self.check_issuer(&which.issuer)?;
        let before = which.issued_before.as_deref().map(time_ms).transpose()?;
        let tokens = match (which.jti, which.sid, which.sub, before) {
            (Some(id), None, None, None) => Tokens::Id(id),
            (None, Some(session), None, None) => Tokens::Session(session),
            (None, None, Some(subject), before) => {
                let issued_before_ms = match before {
                    Some(before) => before,
                    None => self.issuer_now_ms(&which.issuer).await?,
                };
                Tokens::User { subject, issued_before_ms }
            }
            (None, None, None, Some(issued_before_ms)) => Tokens::All { issued_before_ms },
            _ => return Err(ActError::Tokens),
        };
        let revocation = Revocation { issuer: which.issuer.into(), tokens, act, until_ms: None };
        let decision = self.users.revoke(revocation)?;
        Ok(json!({ "changed": decision.is_some() }))
    }

    fn user(&self, issuer: &str, subject: &str) -> Result<UserId, ActError> {
        self.check_issuer(issuer)?;
        UserId::new(issuer, subject).ok_or(ActError::Subject)
    }

    fn check_issuer(&self, issuer: &str) -> Result<(), ActError> {
        let is_known = (self.verifier)().issuers().any(|known| known.config().name == issuer);
        if is_known { Ok(()) } else { Err(ActError::Issuer(issuer.to_owned())) }
    }

    /// Asked now: what an issuer showed a minute ago may be behind a clock that was set forward since.
    async fn issuer_now_ms(&self, issuer: &str) -> Result<u64, ActError> {
        (self.issuer_clocks)(issuer).await.ok_or_else(|| ActError::NoTime(issuer.to_owned()))
    }

    fn shown(&self, user: &UserId) -> Value {
        match self.users.state(user) {
            Some(view) => show(&view),
            None => json!({ "issuer": **user.issuer(), "subject": **user.subject(), "state": "nothing_known" }),
        }
    }

    fn cluster(&self, changed: Option<Option<Arc<Decision>>>) -> Value {
        let view = self.users.cluster();
        let mut answer = json!({
            "is_open": view.closed.is_none() && !view.is_expired,
            "closed_by": view.closed.as_ref().map(|act| json!({ "by": act.by, "reason": act.reason })),
            "valid_until": view.valid_until_ms.map(time_text),
        });
        if let Some(decision) = changed {
            answer["changed"] = decision.is_some().into();
        }
        answer
    }
}

fn signed(caller: &Caller, reason: String) -> Result<users::Act, ActError> {
    if reason.trim().is_empty() {
        return Err(ActError::Reason);
    }
    Ok(users::Act { by: caller.name.clone(), reason })
}

fn show(view: &UserView) -> Value {
    json!({
        "issuer": **view.user.issuer(),
        "subject": **view.user.subject(),
        "state": view.state.code(),
        "blocked_by_issuer": view.by_issuer.map(users::Cause::code),
        "blocked_by_operator": view.by_operator.as_ref().map(|act| json!({ "by": act.by, "reason": act.reason })),
        "sign_in_needed_since": (view.threshold_ms > 0).then(|| time_text(view.threshold_ms)),
        "epoch": view.epoch,
        "changed": (view.changed_ms > 0).then(|| time_text(view.changed_ms)),
        "sessions": view.sessions.iter().map(|(session, began_ms)| {
            json!({ "sid": session, "began": time_text(*began_ms) })
        }).collect::<Vec<_>>(),
    })
}

fn time_text(unix_ms: u64) -> String {
    // Beyond the year 9999 there is no such text.
    let at = UNIX_EPOCH + Duration::from_millis(unix_ms.min(253_402_300_799_000));
    humantime::format_rfc3339_millis(at).to_string()
}

fn time_ms(text: &str) -> Result<u64, ActError> {
    let at = humantime::parse_rfc3339(text).map_err(|_| ActError::Time(text.to_owned()))?;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
