//! Several certificates on one listener, chosen by the name that a client asks for.

use crate::support::{Client, File, Gateway, Stage, tls};
use rustls::ClientConfig;
use std::sync::Arc;

const PUBLIC: &str = "[[route]]\npath = '/**'\nupstream = 'up'\naccess = 'public'\n";

const TLS: &str = "tls = { certificate = 'default.pem', key = 'default.key', by_name = [\
                   { certificate = 'shop.pem', key = 'shop.key' }, { certificate = 'eu.pem', key = 'eu.key' }] }";

fn file(server: &str) -> File<'_> {
    File { server, issuer: "", rest: PUBLIC, ..File::default() }
}

/// A stage with the files of `TLS`, and a client that trusts them.
fn stage() -> (Stage, Arc<ClientConfig>) {
    let stage = Stage::new();
    // What else the default is for lets clients accept it.
    tls::write_certificate_for(&stage, "default", &["localhost", "other.example", "a.b.shop.example"]);
    tls::write_certificate_for(&stage, "shop", &["shop.example", "*.shop.example"]);
    tls::write_certificate_for(&stage, "eu", &["eu.shop.example"]);
    let client = tls::client_as(&stage, &["default", "shop", "eu"], None, &[]);
    (stage, Arc::new(client))
}

/// Asserts that who asks for this host is shown that certificate.
#[track_caller]
fn shows(stage: &Stage, gateway: &Gateway, client: &Arc<ClientConfig>, host: &'static str, name: &str) -> Client {
    let (mut connection, handshake) = Client::shake_hands(gateway.addr(), client, host).unwrap();
    assert_eq!(handshake.certificate, tls::certificate(stage, name).to_vec(), "{host}");
    connection.get("/x", &[]).passed();
    connection
}

#[test]
fn a_client_is_shown_the_certificate_of_the_name_that_it_asks_for() {
    let (stage, client) = stage();
    let gateway = stage.gateway(file(TLS));
    for (host, name) in [
        ("localhost", "default"),
        ("shop.example", "shop"),
        ("us.shop.example", "shop"),
        ("US.Shop.Example", "shop"),
        ("eu.shop.example", "eu"),
        // A wildcard stands for one label, and nobody has the other name but the default.
        ("a.b.shop.example", "default"),
        ("other.example", "default"),
    ] {
        shows(&stage, &gateway, &client, host, name);
    }
    let mut nameless = tls::client_as(&stage, &["default"], None, &[]);
    nameless.enable_sni = false;
    shows(&stage, &gateway, &Arc::new(nameless), "localhost", "default");
}

#[test]
fn a_client_that_asks_for_an_unknown_name_is_shown_the_default_or_refused() {
    let (stage, client) = stage();
    let mut nameless = tls::client_as(&stage, &["default"], None, &[]);
    nameless.enable_sni = false;
    let (nameless, refusing) = (Arc::new(nameless), TLS.replace("by_name", "unknown_name = 'refuse', by_name"));
    for (server, is_refused) in [(TLS, false), (refusing.as_str(), true)] {
        let gateway = stage.gateway(file(server));
        shows(&stage, &gateway, &client, "shop.example", "shop");
        shows(&stage, &gateway, &client, "localhost", "default");
        for (client, host) in [(&client, "unknown.example"), (&nameless, "localhost")] {
            let error = Client::shake_hands(gateway.addr(), client, host).err().map(|error| error.to_string());
            let is_alert = error.as_ref().is_some_and(|error| error.contains("fatal alert: AccessDenied"));
            assert_eq!(is_alert, is_refused, "{host}: {error:?}");
        }
    }
}

#[test]
fn each_certificate_is_renewed_while_connections_stay_and_a_bad_pair_changes_nothing() {
    let (stage, old) = stage();
    let gateway = stage.gateway(file(TLS));
    let mut open = shows(&stage, &gateway, &old, "eu.shop.example", "eu");
    tls::write_certificate_for(&stage, "eu", &["eu.shop.example", "uk.shop.example"]);
    gateway.inner.reload(stage.config(file(TLS))).unwrap();
    let new = Arc::new(tls::client_as(&stage, &["default", "shop", "eu"], None, &[]));
    shows(&stage, &gateway, &new, "eu.shop.example", "eu");
    shows(&stage, &gateway, &new, "uk.shop.example", "eu");
    open.get("/old", &[]).passed();
    // The certificate of another pair, no certificate, none with a name: each is the whole reload's failure.
    let (good, key) = (std::fs::read(stage.path("shop.pem")).unwrap(), stage.path("shop.key"));
    let eu = std::fs::read(stage.path("eu.pem")).unwrap();
    let nobody = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
    let good_key = std::fs::read(&key).unwrap();
    let bad = [
        (eu, good_key.clone()),
        (b"no certificate\n".to_vec(), good_key.clone()),
        (nobody.cert.pem().into_bytes(), nobody.signing_key.serialize_pem().into_bytes()),
    ];
    for (certificate, private) in bad {
        std::fs::write(stage.path("shop.pem"), certificate).unwrap();
        std::fs::write(&key, private).unwrap();
        gateway.inner.reload(stage.config(file(TLS))).unwrap_err();
        std::fs::write(stage.path("shop.pem"), &good).unwrap();
        std::fs::write(&key, &good_key).unwrap();
        shows(&stage, &gateway, &new, "us.shop.example", "shop");
        shows(&stage, &gateway, &new, "eu.shop.example", "eu");
    }
    open.get("/old", &[]).passed();
}

#[test]
fn a_certificate_is_added_by_a_reload() {
    let (stage, client) = stage();
    let gateway = stage.gateway(file("tls = { certificate = 'default.pem', key = 'default.key' }"));
    let refused = Client::shake_hands(gateway.addr(), &client, "shop.example").err().unwrap();
    assert!(refused.to_string().contains("not valid for name"), "{refused}");
    gateway.inner.reload(stage.config(file(TLS))).unwrap();
    shows(&stage, &gateway, &client, "shop.example", "shop");
}

#[test]
fn sessions_go_on_through_a_reload_that_leaves_tls_alone_and_end_with_their_certificate() {
    let (stage, client) = stage();
    let gateway = stage.gateway(file(TLS));
    let is_resumed = |client: &Arc<ClientConfig>, host| {
        let (mut connection, handshake) = Client::shake_hands(gateway.addr(), client, host).unwrap();
        connection.get("/x", &[]).passed();
        handshake.is_resumed
    };
    assert!(!is_resumed(&client, "shop.example") && is_resumed(&client, "shop.example"));
    gateway.inner.reload(stage.config(file(TLS))).unwrap();
    assert!(is_resumed(&client, "shop.example"));
    tls::write_certificate_for(&stage, "eu", &["eu.shop.example"]);
    gateway.inner.reload(stage.config(file(TLS))).unwrap();
    assert!(!is_resumed(&client, "shop.example"), "certificates are chosen anew");
}
