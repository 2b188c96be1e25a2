//! A token that a user of a login client really has: whether the gateway would let it in, and what introspection says of it.

use super::issuer::can_introspect;
use super::{Finding, account, listed};
use crate::base::clock::Clock;
use crate::base::json::{self, Json, Object};
use crate::base::secret::Secret;
use crate::config::{self, ClaimPath};
use crate::identity::claims::{ClaimError, Facts, check_answer, find};
use crate::identity::jws;
use crate::issuer::{IntrospectError, Introspected, Issuer};
use std::sync::Arc;

const ALGORITHM: &str =
    "Clients, the login client, Advanced: Access token signature algorithm RS256, PS256, ES256 or EdDSA";

const PASSES: &str = "an enabled user gets in: every request with such a token is refused";

/// An access token to look at. Its text gets nowhere but to its issuer.
#[derive(Debug)]
pub struct Token {
    /// What the operator calls it: the name of its file.
    pub name: String,
    /// The token.
    pub text: Secret,
}

/// Why a token cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum TokenError {
    #[error("the token in `{name}` is no JWT, and no issuer is `opaque`")]
    Opaque { name: String },
    #[error("the token in `{name}` is of issuer `{issuer}`, which the configuration does not have")]
    Foreign { name: String, issuer: String },
}

impl Token {
    /// The place of its issuer among `issuers`. Nothing is verified; the issuer is asked.
    pub(super) fn belongs_to(&self, issuers: &[Arc<config::Issuer>]) -> Result<usize, TokenError> {
        let name = self.name.clone();
        let Some(claims) = claims(self.text.expose()) else {
            return issuers.iter().position(|issuer| issuer.opaque).ok_or(TokenError::Opaque { name });
        };
        let iss = claims.get("iss").and_then(Json::as_str).unwrap_or_default();
        let foreign = || TokenError::Foreign { name, issuer: iss.chars().take(200).collect() };
        issuers.iter().position(|issuer| issuer.url == iss).ok_or_else(foreign)
    }
}

/// The payload of a JWT, whatever its header says.
fn claims(token: &str) -> Option<Object<'static>> {
    use base64::Engine as _;
    let payload = token.split('.').nth(1)?;
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    Some(json::parse_object(&payload)?.into_owned())
}

/// Looks at each token by itself and by introspection.
pub(super) async fn examine(issuer: &Issuer, tokens: &[&Token], clock: &Clock, findings: &mut Vec<Finding>) {
    if tokens.is_empty() {
        let text = "whether tokens of login clients are let in";
        let remedy = "run again with `--token FILE`, an access token of a user, for each login client";
        return findings.push(Finding::unknown("token", text).remedy(remedy));
    }
    let can_ask = can_introspect(issuer);
    for token in tokens {
        let text = token.text.expose();
        let judged = judge_alone(text, issuer.config(), clock);
        let is_of_use = judged.iter().all(|finding| finding.check != ENDED);
        let mut judged: Vec<_> = judged.into_iter().map(|finding| Finding { check: "token", ..finding }).collect();
        if is_of_use && can_ask {
            let answer = issuer.introspect(text).await;
            // That it is inactive says nothing new of a token that is refused without asking.
            if judged.is_empty() || !matches!(answer, Ok(Introspected::Inactive)) {
                judged.extend(judge_answer(text, &answer, issuer.config()));
            }
        }
        if judged.is_empty() {
            judged.push(Finding::ok("token", "active, with what is needed, by itself and by introspection"));
        }
        findings.extend(judged.into_iter().map(|finding| {
            let found = format!("token in `{}`: {}", token.name, finding.found);
            Finding { found, ..finding }
        }));
    }
}

/// Marks, within this module, that there is no sense in asking about a token.
const ENDED: &str = "ended";

fn judge_alone(token: &str, config: &config::Issuer, clock: &Clock) -> Vec<Finding> {
    let Some(claims) = claims(token) else { return Vec::new() };
    let jws = match jws::parse(token.as_bytes()) {
        Ok(jws) => jws,
        Err(error) => {
            let finding = Finding::broken(ENDED, error.to_string()).breaks(PASSES);
            let is_algorithm = error == jws::Malformed::Algorithm;
            return vec![if is_algorithm { finding.remedy(ALGORITHM) } else { finding }];
        }
    };
    let mut findings = Vec::new();
    if !config.algorithms.contains(&jws.algorithm) {
        let text = format!("signed with {}, which is not one of `algorithms`", jws.algorithm.name());
        findings
            .push(Finding::broken("token", text).breaks(PASSES).remedy(format!("widen `algorithms`, or {ALGORITHM}")));
    }
    match Facts::read(&claims, config) {
        Ok(facts) => {
            if facts.expires < clock.now().unix_seconds() {
                let text = "it has expired, so nothing is to be learnt of it";
                findings.push(Finding::unknown(ENDED, text).remedy("run again with a fresh one"));
            }
        }
        Err(ClaimError::Unusable("sub" | "aud")) if !config.lightweight => {
            let finding =
                Finding::broken("token", "it is a lightweight token, without `sub` or `aud`").breaks(PASSES).remedy(
                    "`lightweight = true` for this issuer, or Clients, the login client, Advanced: Always use \
                         lightweight access token off; with another scope `basic` is missing",
                );
            findings.push(finding);
        }
        Err(ClaimError::Audience) => {
            let text = format!("its `aud` holds none of {}", listed(config.audiences.iter().map(String::as_str)));
            let client = config.user_status.introspection().map_or("postern", |status| &status.client_id);
            findings.push(Finding::broken("token", text).breaks(PASSES).remedy(account::mapper(client)));
        }
        Err(error) => findings.push(Finding::broken("token", error.to_string()).breaks(PASSES)),
    }
    findings
}

fn judge_answer(token: &str, answer: &Result<Introspected, IntrospectError>, config: &config::Issuer) -> Vec<Finding> {
    let claims = claims(token).unwrap_or_default();
    let client_id = config.user_status.introspection().map_or("", |status| &status.client_id);
    let answer = match answer {
        Ok(Introspected::Active(answer)) => answer,
        Ok(Introspected::Inactive) => return vec![judge_inactive(&claims, client_id)],
        Err(error) => {
            let finding = Finding::broken("token", error.to_string());
            return vec![finding.breaks("users are checked (every request is a 503)")];
        }
    };
    let on = "Client scopes, the mapper of that claim: Add to token introspection on";
    if let Err(error) = check_answer(answer, config, claims.get("sub").and_then(Json::as_str)) {
        let text = format!("active, but the answer of introspection is refused: {error}");
        return vec![Finding::broken("token", text).breaks(PASSES).remedy(on)];
    }
    let mut findings = Vec::new();
    // An answer that repeats `jti` describes the token in full: what it lacks is gone.
    if answer.get("jti").is_some() {
        let others = [&config.groups_claim, &config.namespace_claim, &config.username_claim, &config.email_claim];
        let is_lost = |path: &&ClaimPath| find(&claims, path).is_some() && find(answer, path).is_none();
        let lost: Vec<_> = config.roles_claims.iter().chain(others).filter(is_lost).collect();
        if !lost.is_empty() {
            let names: Vec<_> = lost.into_iter().map(|path| path.parts().join(".")).collect();
            let names = listed(names.iter().map(String::as_str));
            let finding = Finding::broken("token", format!("introspection leaves out {names}, which the token has"))
                .breaks("a user has the roles, groups and namespace that the issuer says now")
                .remedy(on);
            findings.push(finding);
        }
    } else {
        let text = "introspection describes it in part; what it leaves out is taken from the token, as old as that is";
        findings.push(Finding::note("token", text));
    }
    if find(answer, &config.namespace_claim).or_else(|| find(&claims, &config.namespace_claim)).is_none() {
        let claim = config.namespace_claim.parts().join(".");
        let text = format!("it has no claim `{claim}`: where a namespace is needed the answer is 403");
        findings.push(Finding::note("token", text));
    }
    findings
}

/// Keycloak does not say why.
fn judge_inactive(claims: &Object<'_>, client_id: &str) -> Finding {
    let holds = |audience: &Json<'_>| match audience {
        Json::String(name) => name == client_id,
        Json::Array(names) => names.iter().any(|name| name.as_str() == Some(client_id)),
        _ => false,
    };
    match claims.get("aud") {
        Some(audience) if !holds(audience) => {
            Finding::broken("token", format!("inactive for `{client_id}`, which is not in its `aud`"))
                .breaks(PASSES)
                .remedy(account::mapper(client_id))
        }
        Some(_) => Finding::unknown("token", "inactive: its session has ended, or its user is disabled")
            .remedy("run again with a fresh one of an enabled user"),
        // A lightweight or an opaque token says nothing of it.
        None => Finding::broken(
            "token",
            format!("inactive: `{client_id}` is not an audience of it, its session has ended, or its user is disabled"),
        )
        .breaks(PASSES)
        .remedy(format!("run again with a fresh one; if that is inactive too: {}", account::mapper(client_id))),
    }
}
