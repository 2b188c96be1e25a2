//! Certificates made for one test, and a server that has one.

use super::Stage;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// A certificate for `localhost` that vouches for itself, as `NAME.pem` and `NAME.key` in the stage's folder.
pub(crate) fn write_certificate(stage: &Stage, name: &str) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(stage.path(&format!("{name}.pem")), pair.cert.pem()).unwrap();
    std::fs::write(stage.path(&format!("{name}.key")), pair.signing_key.serialize_pem()).unwrap();
}

/// A client that trusts `NAME.pem` alone.
pub(crate) fn client(stage: &Stage, name: &str, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(stage.path(&format!("{name}.pem"))).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Starts an upstream with the certificate `NAME.pem`, for as long as the process runs. It answers each HTTP/1.1 request with
/// its request line.
pub(crate) fn start_upstream(stage: &Stage, name: &str) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_file(stage.path(&format!("{name}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(stage.path(&format!("{name}.key"))).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((tcp, _)) = listener.accept() {
            let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            std::thread::spawn(move || serve(BufReader::new(StreamOwned::new(tls, tcp))));
        }
    });
    addr
}

fn serve(mut io: BufReader<impl std::io::Read + Write>) {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if io.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if !line.trim_end().is_empty() {
            head.push(line.trim_end().to_owned());
            continue;
        }
        let first = std::mem::take(&mut head).remove(0);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{first}", first.len());
        // A gateway that has seen enough may have closed the connection.
        let _ = io.get_mut().write_all(answer.as_bytes());
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
