//! Users' tokens where nothing keeps them: a gateway makes one when it is asked for, by what the token service recorded.

use super::directory::Directory;
use super::plan::{Why, why_empty};
use super::record::{Issue, User};
use crate::base::clock::{Clock, Now};
use crate::base::secret::Secret;
use crate::identity::{Bulletin, KeptToken, News, NoToken};
use crate::token_service::{CredentialCache, TokenService};
use crate::users::{UserId, Users};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How tokens for the users of one issuer are made.
#[derive(Debug, Clone)]
pub struct Terms {
    /// What they say.
    pub issue: Issue,
    /// None is made once the issuer has not told about its users for so long: its bound, and for how long its silence is excused.
    pub silence: Duration,
}

/// Gives the terms of an issuer, by its name.
pub type TermsOf = dyn Fn(&str) -> Option<Terms> + Send + Sync;

/// Makes them.
pub struct Desk {
    /// What is known of users.
    pub directory: Arc<Directory>,
    /// The terms of an issuer, by its name; `None`: nobody of it gets a token here.
    pub terms: Box<TermsOf>,
    /// Gives the token service in force.
    pub token_service: Box<dyn Fn() -> Arc<TokenService> + Send + Sync>,
    /// Who is out.
    pub users: Arc<Users>,
    /// Where news come from, and when the issuer told about its users.
    pub bulletin: Arc<Bulletin>,
    /// The time.
    pub clock: Clock,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// Takes up news, and gives back what is none of its business.
    pub fn take(&self, news: News) -> Option<News> {
        match news {
            News::Wanted { user, reply } => {
                // Whoever asked may have given up.
                let _ = reply.send(self.token(&user));
                None
            }
            News::Swept { issuer, began_ms } => {
                self.bulletin.hear(&issuer, began_ms);
                None
            }
            News::Created(_) | News::SignedIn(_) | News::Changed(_) => Some(news),
        }
    }

    /// A fresh token for a user. It is not kept: the next says what is recorded then.
    ///
    /// # Errors
    /// [`NoToken`].
    pub fn token(&self, id: &UserId) -> Result<Arc<KeptToken>, NoToken> {
        let now = self.clock.now();
        let terms = (self.terms)(id.issuer()).ok_or(NoToken::NoNamespace)?;
        let record = self.directory.record(id).ok_or(NoToken::NoNamespace)?;
        let (state, epoch) = self.users.standing(id, now);
        let user = User { record: (*record).clone(), ..User::default() };
        match why_empty(&user, state) {
            None => {}
            Some(Why::NoNamespace) => return Err(NoToken::NoNamespace),
            Some(Why::NeverSignedIn) => return Err(NoToken::NeverSignedIn),
            Some(Why::Out(_) | Why::SaidToBeOut) => return Err(NoToken::NotNow),
        }
        if !self.is_told(id, &terms, now) {
            return Err(NoToken::NotNow);
        }
        let grant = record.own_namespace().and_then(|_| record.grant(&terms.issue, id.subject(), epoch));
        let grant = grant.ok_or(NoToken::NoNamespace)?;
        let minted = (self.token_service)().credential(&CredentialCache::default(), &grant, now).map_err(|error| {
            tracing::error!(%error, "no token can be minted");
            NoToken::NotNow
        })?;
        let text = minted.header().to_str().ok().and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
        Ok(Arc::new(KeptToken {
            token: Secret::new(text),
            expires: minted.expires,
            epoch,
            namespace: grant.namespace.to_owned(),
            named_unix_ms: record.named_unix_ms,
            roles: record.facts.roles.clone(),
            groups: record.facts.groups.clone(),
        }))
    }

    /// Whether it is known who is out: the issuer told about its users not long ago.
    fn is_told(&self, user: &UserId, terms: &Terms, now: Now) -> bool {
        let heard_ms = self.bulletin.heard_ms(user.issuer());
        let silent = Duration::from_millis(now.monotonic_ms.saturating_sub(heard_ms));
        heard_ms > 0 && silent <= terms.silence
    }
}
