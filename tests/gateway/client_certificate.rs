//! Client certificates as a demand of routes: held against each request, whatever the connection was opened for.

use crate::support::tls::{Authority, certificate, client_as, write_certificate_for};
use crate::support::{Client, File, Gateway, Liar, START, Stage, bearer, h2, introspection};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern::dev::TokenSpec;
use rcgen::{DnType, SanType, date_time_ymd};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Some connections wait for their turn, on a machine that does much else.
const TLS: &str = "tls = { certificate = 'server.pem', key = 'server.key', client_ca = 'clients.pem' }\n\
                   header_timeout = '10m'\nidle_timeout = '10m'";

/// Two hosts, of which one demands a certificate.
const ROUTES: &str = "[[route]]\nname = 'secure'\nhost = 'secure.example'\npath = '/**'\nupstream = 'up'\ncredential = 'none'\n\
                      client_certificate = 'required'\n\
                      [[route]]\nname = 'plain'\nhost = 'plain.example'\npath = '/**'\nupstream = 'up'\ncredential = 'none'\n";

const fn file<'a>(server: &'a str, rest: &'a str) -> File<'a> {
    File { server, issuer: "user_status = 'none'", log: "access = 'off'", tokens: "", rest }
}

/// The certificates of `TLS`, and an authority with a client's certificate `good`.
fn stage() -> (Stage, Authority) {
    let stage = Stage::new();
    let hosts = ["localhost", "plain.example", "secure.example", "a.many.example", "b.many.example"];
    write_certificate_for(&stage, "server", &hosts);
    let clients = Authority::new(&stage, "clients");
    clients.issue(&stage, "good", |_| {});
    (stage, clients)
}

/// A client that shows this certificate.
fn showing(stage: &Stage, name: impl Into<Option<&'static str>>) -> Arc<ClientConfig> {
    Arc::new(client_as(stage, &["server"], name.into(), &[]))
}

/// A new connection for this host.
fn connect(gateway: &Gateway, config: &Arc<ClientConfig>, host: &'static str) -> Client {
    Client::shake_hands(gateway.addr(), config, host).unwrap().0
}

/// What comes of a request with a good token.
fn outcome(stage: &Stage, connection: &mut Client, host: &str) -> (u16, String) {
    connection.get_from(host, &[&bearer(&stage.issuer.token("alice"))]).outcome()
}

fn refused(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

fn passed() -> (u16, String) {
    refused(200, "")
}

#[test]
fn a_route_that_demands_a_certificate_needs_a_good_one_and_the_token() {
    let (stage, _) = stage();
    Authority::new(&stage, "others").issue(&stage, "foreign", |_| {});
    let gateway = stage.gateway(file(TLS, ROUTES));
    for (shown, of_secure) in [
        (None, refused(403, "client_certificate_missing")),
        (Some("good"), passed()),
        (Some("foreign"), refused(403, "client_certificate_invalid")),
    ] {
        let config = showing(&stage, shown);
        let mut secure = connect(&gateway, &config, "secure.example");
        assert_eq!(outcome(&stage, &mut secure, "secure.example"), of_secure, "{shown:?}");
        let bare = secure.get_from("secure.example", &[]);
        let of_bare = if of_secure.0 == 200 { refused(401, "missing_token") } else { of_secure };
        assert_eq!(bare.outcome(), of_bare, "{shown:?}");
        // No token helps, so none is asked for.
        assert_eq!(bare.header("www-authenticate").is_some(), of_bare.0 == 401);
        let mut plain = connect(&gateway, &config, "plain.example");
        assert_eq!(outcome(&stage, &mut plain, "plain.example"), passed(), "{shown:?}");
    }
    assert_eq!(gateway.metric("postern_refusals_total{route=\"secure\",reason=\"client_certificate_invalid\"}"), 2);
}

#[test]
fn a_certificate_alone_opens_a_public_route_that_demands_one() {
    let (stage, _) = stage();
    let rest = "[[route]]\npath = '/**'\nupstream = 'up'\naccess = 'public'\nclient_certificate = 'required'\n";
    let gateway = stage.gateway(File { issuer: "", ..file(TLS, rest) });
    let get = |shown: Option<&'static str>| {
        connect(&gateway, &showing(&stage, shown), "localhost").get_from("localhost", &[]).outcome()
    };
    assert_eq!(get(Some("good")), passed());
    assert_eq!(get(None), refused(403, "client_certificate_missing"));
}

#[test]
fn only_certificates_with_the_names_that_the_route_allows_pass() {
    let (stage, clients) = stage();
    let named = |name: &'static str, common_name: &str, sans: &[&str]| {
        clients.issue(&stage, name, |params| {
            params.distinguished_name.push(DnType::CommonName, common_name);
            for san in sans {
                let text = (*san).try_into().unwrap();
                params.subject_alt_names.push(if san.contains(':') {
                    SanType::URI(text)
                } else {
                    SanType::DnsName(text)
                });
            }
        });
    };
    named("by-uri", "orders", &["spiffe://example.com/orders"]);
    named("by-host", "orders", &["x.example", "orders.example"]);
    named("by-wildcard", "orders", &["*.example"]);
    named("other-uri", "orders", &["spiffe://example.com/orders/more"]);
    named("other-common-name", "payments", &["spiffe://example.com/orders"]);
    let rest = "[[route]]\npath = '/**'\nupstream = 'up'\ncredential = 'none'\nclient_certificate = \
                { any_san = ['spiffe://example.com/orders', 'orders.example'], any_common_name = ['orders', 'x'] }\n";
    let gateway = stage.gateway(file(TLS, rest));
    let wrong = || refused(403, "wrong_client_certificate");
    for (shown, expected) in [
        ("by-uri", passed()),
        ("by-host", passed()),
        ("by-wildcard", wrong()),
        ("other-uri", wrong()),
        ("other-common-name", wrong()),
        ("good", wrong()),
    ] {
        let mut connection = connect(&gateway, &showing(&stage, shown), "localhost");
        assert_eq!(outcome(&stage, &mut connection, "localhost"), expected, "{shown}");
    }
}

#[test]
fn a_certificate_that_expires_is_refused_on_the_connection_that_is_open() {
    let (stage, clients) = stage();
    // The test begins on 15 January 2027.
    clients.issue(&stage, "short", |params| params.not_after = date_time_ymd(2027, 1, 16));
    clients.issue(&stage, "early", |params| params.not_before = date_time_ymd(2027, 1, 16));
    let gateway = stage.gateway(file(TLS, ROUTES));
    let [mut short, mut early] =
        ["short", "early"].map(|name| connect(&gateway, &showing(&stage, name), "secure.example"));
    let invalid = || refused(403, "client_certificate_invalid");
    for (days, of_short, of_early) in [(0, passed(), invalid()), (2, invalid(), passed())] {
        stage.clock.advance(Duration::from_secs(days * 86_400));
        assert_eq!(outcome(&stage, &mut short, "secure.example"), of_short, "day {days}");
        assert_eq!(outcome(&stage, &mut early, "secure.example"), of_early, "day {days}");
    }
}

#[test]
fn a_certificate_that_is_taken_back_is_refused_on_the_connection_that_is_open() {
    let (stage, clients) = stage();
    clients.issue(&stage, "first", |params| params.serial_number = Some(7.into()));
    clients.revoke(&stage, "crl", &[], 2028);
    let server = TLS.replace("client_ca", "client_crl = 'crl.pem', client_ca");
    let gateway = stage.gateway(file(&server, ROUTES));
    let [mut first, mut good] =
        ["first", "good"].map(|name| connect(&gateway, &showing(&stage, name), "secure.example"));
    let mut outcomes = || [&mut first, &mut good].map(|open| outcome(&stage, open, "secure.example"));
    let invalid = || refused(403, "client_certificate_invalid");
    assert_eq!(outcomes(), [passed(), passed()]);
    clients.revoke(&stage, "crl", &[7], 2028);
    gateway.inner.reload(stage.config(file(&server, ROUTES))).unwrap();
    assert_eq!(outcomes(), [invalid(), passed()]);
    // A list that is overdue may lack what was taken back since.
    stage.clock.advance(Duration::from_secs(366 * 86_400));
    assert_eq!(outcomes(), [invalid(), invalid()]);
    std::fs::write(stage.path("crl.pem"), "no list\n").unwrap();
    gateway.inner.reload(stage.config(file(&server, ROUTES))).unwrap_err();
}

#[test]
fn another_authority_holds_for_open_connections_and_resumed_sessions() {
    let (stage, _) = stage();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let gateway = stage.gateway(file(TLS, ROUTES));
        let mut config = client_as(&stage, &["server"], Some("good"), &[]);
        config = with_version(config, version, &stage);
        let config = Arc::new(config);
        let begin = || Client::shake_hands(gateway.addr(), &config, "secure.example").unwrap();
        let (mut open, first) = begin();
        assert_eq!(outcome(&stage, &mut open, "secure.example"), passed());
        let (mut resumed, second) = begin();
        assert!(!first.is_resumed && second.is_resumed, "{version:?}");
        assert_eq!(outcome(&stage, &mut resumed, "secure.example"), passed(), "it still has its certificate");
        Authority::new(&stage, "others");
        let other = TLS.replace("clients.pem", "others.pem");
        gateway.inner.reload(stage.config(file(&other, ROUTES))).unwrap();
        let (mut new, third) = begin();
        assert!(!third.is_resumed, "{version:?}");
        for connection in [&mut open, &mut resumed, &mut new] {
            let invalid = refused(403, "client_certificate_invalid");
            assert_eq!(outcome(&stage, connection, "secure.example"), invalid, "{version:?}");
        }
        gateway.inner.reload(stage.config(file(TLS, ROUTES))).unwrap();
        assert_eq!(outcome(&stage, &mut open, "secure.example"), passed());
    }
}

/// The same client, with one version of TLS.
fn with_version(
    config: ClientConfig,
    version: &'static rustls::SupportedProtocolVersion,
    stage: &Stage,
) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate(stage, "server")).unwrap();
    ClientConfig::builder_with_provider(Arc::clone(config.crypto_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(config.client_auth_cert_resolver)
}

#[test]
fn a_session_that_expired_certificates_began_is_no_way_round() {
    let (stage, clients) = stage();
    clients.issue(&stage, "short", |params| params.not_after = date_time_ymd(2027, 1, 16));
    let gateway = stage.gateway(file(TLS, ROUTES));
    let config = showing(&stage, "short");
    assert_eq!(outcome(&stage, &mut connect(&gateway, &config, "secure.example"), "secure.example"), passed());
    stage.clock.advance(Duration::from_secs(2 * 86_400));
    let (mut resumed, handshake) = Client::shake_hands(gateway.addr(), &config, "secure.example").unwrap();
    assert!(handshake.is_resumed);
    assert_eq!(outcome(&stage, &mut resumed, "secure.example"), refused(403, "client_certificate_invalid"));
}

#[test]
fn a_request_for_a_host_with_another_demand_is_misdirected() {
    let (stage, _) = stage();
    let many = "[[route]]\nname = 'many'\nhost = '*.many.example'\npath = '/**'\nupstream = 'up'\ncredential = 'none'\n\
                client_certificate = 'required'\n";
    let gateway = stage.gateway(file(TLS, &format!("{ROUTES}{many}")));
    let token = bearer(&stage.issuer.token("alice"));
    let token = token.strip_prefix("authorization: ").unwrap();
    let missing = || refused(403, "client_certificate_missing");
    let misdirected = || refused(421, "misdirected_request");
    for (shown, opened_for, asked_of, expected) in [
        // Nobody was asked on the connection of a host that demands nothing.
        (Some("good"), "plain.example", "secure.example", misdirected()),
        (Some("good"), "plain.example", "plain.example", passed()),
        (Some("good"), "secure.example", "secure.example", passed()),
        (Some("good"), "secure.example", "plain.example", passed()),
        (Some("good"), "secure.example", "a.many.example", passed()),
        (None, "secure.example", "secure.example", missing()),
        (None, "secure.example", "plain.example", passed()),
        (None, "secure.example", "nowhere.example", refused(404, "no_route")),
        // The same demand: another connection would come to the same.
        (None, "a.many.example", "b.many.example", missing()),
        (None, "a.many.example", "secure.example", missing()),
    ] {
        let config = Arc::new(client_as(&stage, &["server"], shown, &["h2"]));
        let connection = h2::H2Client::connect_tls_for(gateway.addr(), config, opened_for);
        let head = format!("GET http://{asked_of}/x");
        let answer = connection.call(&head, &[("authorization", token)], h2::body("", &[]));
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let got = (answer.head.status.as_u16(), problem["reason"].as_str().unwrap_or_default().to_owned());
        assert_eq!(got, expected, "{shown:?}, {opened_for}, {asked_of}");
    }
}

#[test]
fn other_names_on_the_host_of_the_connection_are_another_demand() {
    let (stage, _) = stage();
    let rest = ROUTES.replace("host = 'plain", "client_certificate = { any_common_name = ['x'] }\nhost = 'plain");
    let gateway = stage.gateway(file(TLS, &rest));
    let mut connection = connect(&gateway, &showing(&stage, "good"), "secure.example");
    assert_eq!(outcome(&stage, &mut connection, "secure.example"), passed());
    assert_eq!(outcome(&stage, &mut connection, "plain.example"), refused(421, "misdirected_request"));
    let mut connection = connect(&gateway, &showing(&stage, "good"), "plain.example");
    assert_eq!(outcome(&stage, &mut connection, "plain.example"), refused(403, "wrong_client_certificate"));
}

#[test]
fn a_demand_that_a_reload_brings_holds_for_open_connections() {
    let (stage, _) = stage();
    let without = ROUTES.replace("client_certificate = 'required'\n", "");
    let gateway = stage.gateway(file(TLS, &without));
    let config = showing(&stage, "good");
    let mut open = connect(&gateway, &config, "secure.example");
    assert_eq!(outcome(&stage, &mut open, "secure.example"), passed());
    gateway.inner.reload(stage.config(file(TLS, ROUTES))).unwrap();
    // Nobody was asked on this one; on another they are.
    assert_eq!(outcome(&stage, &mut open, "secure.example"), refused(421, "misdirected_request"));
    assert_eq!(outcome(&stage, &mut connect(&gateway, &config, "secure.example"), "secure.example"), passed());
}

/// Counts how often a client is asked for a certificate, and for which authorities.
#[derive(Debug)]
struct Counting(Arc<AtomicUsize>, Arc<AtomicUsize>);

impl ResolvesClientCert for Counting {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.fetch_add(hints.len(), Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn only_clients_of_hosts_that_want_one_are_asked() {
    let (stage, _) = stage();
    let asked = "[[route]]\nname = 'many'\nhost = 'a.many.example'\npath = '/**'\nupstream = 'up'\ncredential = 'none'\n\
                 client_certificate = 'asked'\n";
    let gateway = stage.gateway(file(TLS, &format!("{ROUTES}{asked}")));
    for (host, is_asked, hints) in
        [("plain.example", 0, 0), ("secure.example", 1, 1), ("a.many.example", 1, 0), ("b.many.example", 0, 0)]
    {
        let (times, named) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut config = client_as(&stage, &["server"], None, &[]);
        config.client_auth_cert_resolver = Arc::new(Counting(Arc::clone(&times), Arc::clone(&named)));
        let mut connection = connect(&gateway, &Arc::new(config), host);
        connection.get_from(host, &[]);
        let counted = (times.load(Ordering::Relaxed), named.load(Ordering::Relaxed));
        assert_eq!(counted, (is_asked, hints), "{host}");
    }
}

/// `cnf` of a token that is bound to this certificate.
fn confirmation(stage: &Stage, name: &str) -> Value {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate(stage, name));
    json!({ "x5t#S256": URL_SAFE_NO_PAD.encode(digest.as_ref()) })
}

#[test]
fn a_token_that_is_bound_to_a_certificate_needs_it_on_every_use() {
    let (stage, _) = stage();
    // Any certificate will do: the issuer has seen it.
    write_certificate_for(&stage, "own", &["client.example"]);
    let cnf = confirmation(&stage, "own");
    let bound = stage.issuer.issue(&TokenSpec::user("alice").claim("cnf", cnf.clone()));
    let mut more = cnf;
    more["jkt"] = json!("x");
    let bound_twice = stage.issuer.issue(&TokenSpec::user("alice").claim("cnf", more));
    let rest = ROUTES.replace("'required'", "'asked'");
    let gateway = stage.gateway(file(TLS, &rest));
    let get = |shown: Option<&'static str>, host: &'static str, token: &str| {
        connect(&gateway, &showing(&stage, shown), host).get_from(host, &[&bearer(token)]).outcome()
    };
    let invalid = || refused(401, "invalid_token");
    // It is known after its first use, and needs the certificate all the same.
    for _ in 0..2 {
        assert_eq!(get(Some("own"), "secure.example", &bound), passed());
        assert_eq!(get(Some("good"), "secure.example", &bound), invalid());
        assert_eq!(get(None, "secure.example", &bound), invalid());
        assert_eq!(get(Some("own"), "plain.example", &bound), invalid(), "nobody was asked");
        assert_eq!(get(Some("own"), "secure.example", &bound_twice), invalid());
    }
    let free = stage.issuer.token("alice");
    assert_eq!(get(None, "secure.example", &free), passed());
    assert_eq!(get(Some("good"), "secure.example", &free), passed());
}

#[test]
fn what_an_introspection_answer_binds_needs_the_certificate() {
    let (stage, _) = stage();
    let liar = Liar::start(&stage);
    let issuer = format!("opaque = true\n{}\n{}", liar.address(), introspection(""));
    let rest = ROUTES.replace("'required'", "'asked'");
    let gateway = stage.gateway(File { issuer: &issuer, ..file(TLS, &rest) });
    let get = |shown: Option<&'static str>, token: &str| {
        let mut connection = connect(&gateway, &showing(&stage, shown), "secure.example");
        connection.get_from("secure.example", &[&bearer(token)]).outcome()
    };
    let cnf = confirmation(&stage, "good");
    liar.say(json!({ "active": true, "sub": "u-1", "aud": "gateway", "exp": START + 600, "cnf": cnf }));
    for _ in 0..2 {
        assert_eq!(get(None, "opaque"), refused(401, "invalid_token"));
        assert_eq!(get(Some("good"), "opaque"), passed());
    }
    // A token that says nothing of it was not checked for it.
    liar.say(json!({ "active": true, "cnf": cnf }));
    assert_eq!(get(Some("good"), &stage.issuer.token("alice")), refused(401, "invalid_token"));
    let bound = stage.issuer.issue(&TokenSpec::user("alice").claim("cnf", cnf));
    assert_eq!(get(Some("good"), &bound), passed());
    assert_eq!(get(None, &bound), refused(401, "invalid_token"));
}
