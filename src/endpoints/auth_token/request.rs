//! What is passed on: a fixed list of parameters for each grant, none twice, of a client that is listed. Others are left out, as RFC 6749 §3.2
//! has it: client libraries send some that nobody knows.

use crate::base::secret::Secret;
use crate::config::{ExternalClient, GrantType};
use crate::endpoints::form::{Form, FormError};

/// The scope that has a refresh token outlive its session.
pub(super) const OFFLINE_ACCESS: &str = "offline_access";

/// No name of a user is longer, in bytes.
const MAX_USERNAME: usize = 1024;

/// What shows that a client has a secret (RFC 6749 §2.3.1, RFC 7521 §4.2).
const SECRETS: [&str; 2] = ["client_secret", "client_assertion"];

/// A grant that may be passed on. Nothing of it can be printed.
#[derive(Debug)]
pub(super) struct Grant {
    client: String,
    grant_type: GrantType,
    offline_access: bool,
    username: Option<Secret>,
    /// The other parameters.
    rest: Vec<(&'static str, Secret)>,
}

/// Why a form is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mistake {
    #[error(transparent)]
    Form(#[from] FormError),
    #[error("the parameter `{0}` is missing")]
    Missing(&'static str),
    #[error("the name of the user is too long")]
    TooLong,
    /// Left out it would be as if the client were public.
    #[error("clients have no secret here: leave `{0}` out")]
    Secret(&'static str),
    #[error("only `password` and `refresh_token` are passed on")]
    GrantType,
    #[error("the client is not listed here")]
    Client,
    #[error("the client may not use this grant here")]
    NotItsGrant,
    #[error("`scope` is not a list of words with one space between them")]
    Scope,
    #[error("the client may not have `offline_access`")]
    Offline,
}

impl Mistake {
    /// The code of RFC 6749 §5.2.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Form(_) | Self::Missing(_) | Self::TooLong => "invalid_request",
            Self::GrantType => "unsupported_grant_type",
            Self::Client | Self::Secret(_) => "invalid_client",
            Self::NotItsGrant => "unauthorized_client",
            Self::Scope | Self::Offline => "invalid_scope",
        }
    }
}

impl Grant {
    /// Reads a form.
    ///
    /// # Errors
    /// [`Mistake`].
    pub(super) fn parse(body: &[u8], clients: &[ExternalClient]) -> Result<Self, Mistake> {
        let form = Form::parse(body)?;
        let needed = |name| form.get(name).ok_or(Mistake::Missing(name));
        let grant_type = GrantType::from_name(needed("grant_type")?).ok_or(Mistake::GrantType)?;
        let parameters: &[&'static str] = match grant_type {
            GrantType::Password => &["password", "totp", "scope"],
            GrantType::RefreshToken => &["refresh_token", "scope"],
        };
        if let Some(secret) = SECRETS.iter().find(|name| form.get(name).is_some()) {
            return Err(Mistake::Secret(secret));
        }
        let id = needed("client_id")?;
        let client = clients.iter().find(|client| client.id == id).ok_or(Mistake::Client)?;
        if !client.grants.contains(&grant_type) {
            return Err(Mistake::NotItsGrant);
        }
        if let Some(scope) = form.get("scope") {
            check_scope(scope, client.offline_access)?;
        }
        let username = match grant_type {
            GrantType::Password => {
                needed("password")?;
                Some(needed("username")?)
            }
            GrantType::RefreshToken => {
                needed("refresh_token")?;
                None
            }
        };
        if username.is_some_and(|name| name.len() > MAX_USERNAME) {
            return Err(Mistake::TooLong);
        }
        let given = parameters.iter().filter_map(|name| Some((*name, Secret::new(form.get(name)?))));
        Ok(Self {
            client: client.id.clone(),
            grant_type,
            offline_access: client.offline_access,
            username: username.map(Secret::new),
            rest: given.collect(),
        })
    }

    /// `client_id`.
    pub(super) fn client(&self) -> &str {
        &self.client
    }

    /// `grant_type`.
    pub(super) fn grant_type(&self) -> GrantType {
        self.grant_type
    }

    /// Whether the client may have `offline_access`.
    pub(super) fn allows_offline_access(&self) -> bool {
        self.offline_access
    }

    /// Whom a password is for.
    pub(super) fn username(&self) -> Option<&str> {
        self.username.as_ref().map(Secret::expose)
    }

    /// The form that is passed on.
    pub(super) fn form(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let named = [("grant_type", self.grant_type.name()), ("client_id", self.client.as_str())];
        let username = self.username().map(|name| ("username", name));
        let rest = self.rest.iter().map(|(name, value)| (*name, value.expose()));
        named.into_iter().chain(username).chain(rest)
    }
}

/// Words of visible ASCII, as RFC 6749 §3.3 has them: what another server would split elsewhere is none.
fn check_scope(scope: &str, allows_offline_access: bool) -> Result<(), Mistake> {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
    };
    if !scope.split(' ').all(is_word) {
        return Err(Mistake::Scope);
    }
    // Keycloak's dynamic scopes have a parameter behind a colon.
    let name = |word: &str| word.split(':').next().unwrap_or_default().eq_ignore_ascii_case(OFFLINE_ACCESS);
    if !allows_offline_access && scope.split(' ').any(name) { Err(Mistake::Offline) } else { Ok(()) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::endpoints::auth_token) fn clients() -> Vec<ExternalClient> {
        use GrantType::{Password, RefreshToken};
        let client = |id: &str, grants: &[GrantType], offline_access| ExternalClient {
            id: id.into(),
            grants: grants.to_vec(),
            offline_access,
        };
        vec![
            client("cli", &[Password, RefreshToken], false),
            client("daemon", &[RefreshToken], true),
            client("both", &[Password, RefreshToken], true),
        ]
    }

    #[track_caller]
    fn check(body: &str, expected: Result<&[(&str, &str)], Mistake>) {
        let parsed = Grant::parse(body.as_bytes(), &clients());
        let form = parsed.as_ref().map(|grant| grant.form().collect::<Vec<_>>()).map_err(|mistake| *mistake);
        assert_eq!(form, expected.map(<[_]>::to_vec), "{body}");
    }

    const PASSWORD: &str = "grant_type=password&client_id=cli&username=alice&password=p";
    const REFRESH: &str = "grant_type=refresh_token&client_id=cli&refresh_token=r";
    const REFRESHED: &[(&str, &str)] = &[("grant_type", "refresh_token"), ("client_id", "cli"), ("refresh_token", "r")];

    #[test]
    fn what_is_on_the_list_is_passed_on_and_nothing_is_added() {
        let alice = [("grant_type", "password"), ("client_id", "cli"), ("username", "alice"), ("password", "p%+ ä")];
        check("password=p%25%2b+%c3%a4&username=alice&client_id=cli&grant_type=password", Ok(&alice));
        let more = [("totp", "123456"), ("scope", "openid profile")];
        check(
            &format!("{PASSWORD}&scope=openid+profile&totp=123456"),
            Ok(&[&alice[..3], &[("password", "p")], &more[..]].concat()),
        );
        check(REFRESH, Ok(REFRESHED));
        // Without a value it is as if it were not there (RFC 6749 §3.1).
        check(&format!("{REFRESH}&scope="), Ok(REFRESHED));
    }

    #[test]
    fn what_is_not_on_the_list_is_left_out() {
        let of_password = [("grant_type", "password"), ("client_id", "cli"), ("username", "alice"), ("password", "p")];
        // The first is what requests-oauthlib sends.
        for other in [
            "allow_redirects=True",
            "otp=1",
            "audience=x",
            "requested_subject=root",
            "subject_token=x",
            "redirect_uri=x",
            "x",
        ] {
            check(&format!("{PASSWORD}&{other}"), Ok(&of_password));
            check(&format!("{REFRESH}&{other}"), Ok(REFRESHED));
        }
        // Nor what is on that of another grant.
        check(&format!("{PASSWORD}&refresh_token=r"), Ok(&of_password));
        check(&format!("{REFRESH}&username=alice&password=p&totp=1"), Ok(REFRESHED));
    }

    #[test]
    fn a_client_has_no_secret() {
        for name in ["client_secret", "client_assertion"] {
            check(&format!("{PASSWORD}&{name}=s"), Err(Mistake::Secret(name)));
            check(&format!("{REFRESH}&{name}=s"), Err(Mistake::Secret(name)));
        }
        check(&format!("{REFRESH}&client_secret="), Ok(REFRESHED));
    }

    #[test]
    fn nothing_stands_twice_and_nothing_is_missing() {
        for twice in
            ["username=bob", "user%6eame=bob", "client_id=cli", "grant_type=password", "scope=a&scope=b", "x=1&x=1"]
        {
            check(&format!("{PASSWORD}&{twice}"), Err(Mistake::Form(FormError::Twice)));
        }
        check(&format!("{PASSWORD}&scope=%ff"), Err(Mistake::Form(FormError::Encoding)));
        for name in ["grant_type", "client_id", "username", "password"] {
            let without: Vec<_> = PASSWORD.split('&').filter(|part| !part.starts_with(&format!("{name}="))).collect();
            check(&without.join("&"), Err(Mistake::Missing(name)));
            check(&format!("{}&{name}=", without.join("&")), Err(Mistake::Missing(name)));
        }
        check("grant_type=refresh_token&client_id=cli", Err(Mistake::Missing("refresh_token")));
        check("", Err(Mistake::Missing("grant_type")));
        check(&PASSWORD.replace("alice", &"a".repeat(1025)), Err(Mistake::TooLong));
    }

    #[test]
    fn only_listed_clients_use_only_their_grants() {
        for other in ["cl", "cli2", "CLI", "admin-cli", "cli%20"] {
            check(&PASSWORD.replace("=cli&", &format!("={other}&")), Err(Mistake::Client));
        }
        check(&PASSWORD.replace("=cli&", "=daemon&"), Err(Mistake::NotItsGrant));
        for other in
            ["client_credentials", "authorization_code", "urn:ietf:params:oauth:grant-type:token-exchange", "Password"]
        {
            check(&PASSWORD.replace("password&", &format!("{other}&")), Err(Mistake::GrantType));
        }
    }

    #[test]
    fn offline_access_is_for_those_who_may_have_it() {
        let offline = |client: &str, scope: &str| {
            let body = format!("{}&scope={scope}", PASSWORD.replace("=cli&", &format!("={client}&")));
            Grant::parse(body.as_bytes(), &clients()).map(|_| ())
        };
        for scope in ["offline_access", "openid+offline_access", "OFFLINE_access", "offline_access:x+openid"] {
            assert_eq!(offline("cli", scope), Err(Mistake::Offline), "{scope}");
            assert_eq!(offline("both", scope), Ok(()), "{scope}");
        }
        assert_eq!(offline("cli", "offline_accessible"), Ok(()));
        for odd in
            ["openid++offline_access", "+openid", "openid%09offline_access", "openid%0aoffline_access", "%22", "%c2%a0"]
        {
            assert_eq!(offline("cli", odd), Err(Mistake::Scope), "{odd}");
        }
    }

    #[test]
    fn a_grant_is_never_printed_with_what_it_holds() {
        let body = "grant_type=password&client_id=cli&username=alice&password=hunter2&totp=424242";
        let shown = format!("{:?}", Grant::parse(body.as_bytes(), &clients()).unwrap());
        assert!(!["hunter2", "424242", "alice"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
}
