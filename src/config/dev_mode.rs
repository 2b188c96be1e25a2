//! `dev = true`: nothing may be reached from elsewhere, and no secret may leave the machine.

use super::diagnostic::Mistake;
use super::issuer::Issuer;
use super::reader::Reader;
use super::redis::Redis;
use super::route::{Credential, Known, Route};
use super::tree::Section;
use super::web;
use std::net::SocketAddr;
use std::sync::Arc;

/// Notes what is not on loopback.
pub(super) fn check(
    root: &Section,
    listen: impl Iterator<Item = SocketAddr>,
    (issuers, routes, redis): (&Known<Issuer>, &[Arc<Route>], Option<&Redis>),
    reader: &mut Reader<'_>,
) {
    let open = listen.filter(|address| !address.ip().is_loopback()).map(|address| format!("it listens on `{address}`"));
    let known = issuers.all.iter().filter_map(|(_, issuer)| issuer.as_ref());
    let urls = known.flat_map(|issuer| {
        let admin_url = issuer.user_status.keycloak().map(|keycloak| keycloak.admin_url.as_str());
        [Some(issuer.url.as_str()), admin_url].into_iter().flatten()
    });
    let endpoints = routes.iter().filter_map(|route| match &route.credential {
        Credential::ClientCredentials(client) => client.token_endpoint_url(),
        _ => None,
    });
    let far = urls.chain(endpoints).filter(|url| !web::is_on_loopback(url)).map(|url| format!("`{url}` is not"));
    let redis = redis.filter(|redis| !redis.is_on_this_machine()).map(|redis| format!("`{}` is not", redis.place));
    let labels: Vec<_> = open.chain(far).chain(redis).collect();
    for label in labels {
        reader.note(Mistake::at(root.value_span("dev"), "`dev = true` needs everything on loopback").label(label));
    }
}
