//! The admission webhook as a part of the gateway. What it does to pods is tested beside it.

use crate::support::{ANY, Client, File, Stage};
use postern::app::Gateway;
use postern::base::clock::Clock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

const SECTION: &str = "[webhook]\nlisten = '127.0.0.1:0'\nnames = ['postern-webhook.postern.svc']\n";

fn start(stage: &Stage) -> Gateway {
    let config = stage.config(File { rest: &format!("{SECTION}{ANY}"), ..File::default() });
    // The client looks at the machine's clock.
    Gateway::start(config, Clock::system()).unwrap()
}

/// A client that trusts what lies in the webhook's folder.
fn connect(stage: &Stage, gateway: &Gateway) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    for file in std::fs::read_dir(stage.path("postern-webhook")).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("authority-") {
            roots.add(CertificateDer::from_pem_file(path).unwrap()).unwrap();
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("postern-webhook.postern.svc").unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(tls, TcpStream::connect(gateway.webhook_address().unwrap()).unwrap())
}

#[test]
fn a_pod_is_reviewed_and_counted_and_the_certificate_outlives_a_restart() {
    let stage = Stage::new();
    let review = include_str!("../webhook/one-container.review.json");
    let head = format!(
        "POST /mutate?timeout=5s HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        review.len()
    );
    for _ in 0..2 {
        let gateway = start(&stage);
        let mut client = connect(&stage, &gateway);
        client.write_all(head.as_bytes()).unwrap();
        client.write_all(review.as_bytes()).unwrap();
        let mut answer = String::new();
        // It may end without a TLS close.
        let _ = client.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"patchType\":\"JSONPatch\""), "{answer}");
        let metrics = Client::connect(gateway.admin_address().unwrap()).get("/metrics", &[]).text();
        assert!(metrics.contains("postern_webhook_reviews_total{outcome=\"patched\"} 1\n"), "{metrics}");
    }
    assert_eq!(std::fs::read_dir(stage.path("postern-webhook")).unwrap().count(), 2);
}

#[test]
fn without_its_section_there_is_no_webhook() {
    let stage = Stage::new();
    let gateway = stage.gateway(File::default());
    assert_eq!(gateway.inner.webhook_address(), None);
    assert!(!stage.path("postern-webhook").exists());
}
