//! One question to an issuer about one token, and what its answer means. Runs on the control plane.

use super::claims::{self, ClaimError};
use super::news::News;
use super::source::Asking;
use super::status::{LastActive, Standing, UserRecord, Verdict};
use super::verifier::{VerifiedToken, Verifier};
use super::{Identity, jws};
use crate::base::json::{self, Json, Object};
use crate::issuer::{IntrospectError, Introspected};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a call about a token came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    /// It is good, by a question that was asked then.
    Active { asked_ms: u64 },
    /// It is not.
    Ended,
    /// Nothing is known.
    Failed,
}

impl Verifier {
    /// Asks about a token, and keeps the answer with it.
    pub(super) async fn ask(&self, token: &Arc<VerifiedToken>, asking: &Asking) -> Answered {
        let asked_ms = self.clock.now().monotonic_ms;
        let text = std::str::from_utf8(token.bytes()).unwrap_or_default();
        let answer = token.issuer().introspect(text).await;
        let Some(answer) = self.heard(&token.source, answer) else { return Answered::Failed };
        let verdict = self.verdict(token, asking, answer, asked_ms);
        let answered = match verdict {
            Verdict::Active(_) => Answered::Active { asked_ms },
            Verdict::Inactive { .. } | Verdict::Mismatch(_) => Answered::Ended,
        };
        let known = token.status.standing.swap(Some(Arc::new(Standing { asked_ms, verdict })));
        if known.is_none() && matches!(answered, Answered::Active { .. }) {
            asking.link.bulletin().tell(|| token.status.user.get()?.id().map(News::SignedIn));
        }
        if answered == Answered::Ended {
            // Not before the answer is there to be seen.
            self.refusals.fetch_add(1, Ordering::Release);
        }
        // A block that came while this was worked out has made it void.
        self.renew(token);
        answered
    }

    /// Notes how a call went; the answer, if there is one.
    pub(super) fn heard(
        &self,
        source: &super::source::Source,
        answer: Result<Introspected, IntrospectError>,
    ) -> Option<Introspected> {
        match answer {
            Ok(answer) => {
                source.note_success();
                if answer == Introspected::Inactive {
                    self.counts.inactive.fetch_add(1, Ordering::Relaxed);
                }
                Some(answer)
            }
            Err(error) => {
                // Said once when it begins to fail, not once a request.
                if source.note_failure(self.clock.now()) {
                    tracing::error!(issuer = source.issuer.config().name, %error, "user status cannot be read");
                }
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    pub(super) fn verdict(
        &self,
        token: &VerifiedToken,
        asking: &Asking,
        answer: Introspected,
        asked_ms: u64,
    ) -> Verdict {
        let Introspected::Active(answer) = answer else {
            let is_past_expiry = self.clock.now().unix_seconds() >= token.facts.expires;
            // The user may be disabled or gone, which only reading them tells.
            if asking.is_watched
                && !is_past_expiry
                && let Some(user) = token.status.user.get().and_then(|user| user.id())
            {
                asking.link.reread(user);
            }
            return Verdict::Inactive { is_past_expiry };
        };
        // What no token says, each answer has to; and a token does not change hands.
        let known = token.status.user.get().map(|user| &*user.subject);
        let checked = claims::check_answer(&answer, token.issuer().config(), token.stated_subject()).and_then(|()| {
            let answered = answer.get("sub").and_then(Json::as_str);
            if known.is_some() && answered.is_some() && known != answered {
                return Err(ClaimError::Unusable("sub"));
            }
            // What the token says was checked, so the answer may not say more.
            if answer.get("cnf").is_some() && claims::binding(&answer)? != token.facts.bound {
                return Err(ClaimError::Bound);
            }
            let claims = completed(token.bytes(), answer);
            self.identity(&claims, token.issuer()).ok_or(ClaimError::Unusable("sub"))
        });
        match checked {
            Ok(identity) => {
                let user = token.status.user.get_or_init(|| self.user(&identity.issuer.name, &identity.subject));
                self.note_active(user, &identity, token.facts.session.clone(), asked_ms);
                Verdict::Active(identity)
            }
            Err(error) => {
                self.note_mismatch(&token.source, error);
                Verdict::Mismatch(error)
            }
        }
    }

    /// Remembers that a user was active, by a question that was asked then.
    pub(super) fn note_active(
        &self,
        user: &UserRecord,
        identity: &Arc<Identity>,
        session: Option<String>,
        asked_ms: u64,
    ) {
        self.counts.active.fetch_add(1, Ordering::Relaxed);
        user.note_active(LastActive { asked_ms, identity: Arc::clone(identity), session });
    }

    pub(super) fn note_mismatch(&self, source: &super::source::Source, error: ClaimError) {
        self.counts.mismatch.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(issuer = source.issuer.config().name, %error, "introspection answer does not fit its token");
    }
}

/// An answer that repeats the token's `jti` describes the token in full, as Keycloak's does: what it lacks is gone. To any other
/// answer the token's own claims are added, for a plain RFC 7662 server says little more than `active`. An opaque token has none.
fn completed(token: &[u8], answer: Object<'static>) -> Object<'static> {
    let Ok(jws) = jws::parse(token) else { return answer };
    match json::parse_object(&jws.payload) {
        Some(stated) if answer.get("jti").is_none() || answer.get("jti") != stated.get("jti") => {
            stated.overlaid(answer).into_owned()
        }
        _ => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::json::tests::object;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(claims: Value, answer: Value, expected: Value) {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let token = format!("{}.{}.AA", part(&json!({"alg": "ES256"})), part(&claims));
        assert_eq!(completed(token.as_bytes(), object(answer)).to_value(), expected);
    }

    #[test]
    fn an_answer_about_this_very_token_is_all_that_counts() {
        let answer = json!({"active": true, "jti": "1", "roles": ["reader"]});
        check(json!({"jti": "1", "roles": ["admin"], "groups": ["staff"]}), answer.clone(), answer);
    }

    #[test]
    fn what_another_answer_leaves_out_the_token_says() {
        let said = json!({"jti": "1", "roles": ["admin"], "groups": ["staff"]});
        let answer = json!({"active": true, "roles": ["reader"]});
        let both = json!({"active": true, "jti": "1", "roles": ["reader"], "groups": ["staff"]});
        check(said.clone(), answer, both);
        let answer = json!({"active": true, "jti": "2", "roles": []});
        check(said, answer, json!({"active": true, "jti": "2", "roles": [], "groups": ["staff"]}));
    }

    #[test]
    fn to_what_is_said_of_an_opaque_token_nothing_is_added() {
        let answer = json!({"active": true, "sub": "alice"});
        assert_eq!(completed(b"opaque", object(answer.clone())).to_value(), answer);
    }
}
