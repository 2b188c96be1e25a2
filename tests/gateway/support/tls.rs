//! Certificates made for one test, and a server that has one.

use super::Stage;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// A certificate for `localhost` that vouches for itself, as `NAME.pem` and `NAME.key` in the stage's folder.
pub(crate) fn write_certificate(stage: &Stage, name: &str) {
    write_certificate_for(stage, name, &["localhost"]);
}

/// The same for these hosts.
pub(crate) fn write_certificate_for(stage: &Stage, name: &str, hosts: &[&str]) {
    let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let pair = rcgen::generate_simple_self_signed(hosts).unwrap();
    write(stage, name, &pair.cert, &pair.signing_key);
}

fn write(stage: &Stage, name: &str, certificate: &Certificate, key: &KeyPair) {
    std::fs::write(stage.path(&format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(stage.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// Who signs certificates of clients.
pub(crate) struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// A new one, as `NAME.pem` in the stage's folder.
    pub(crate) fn new(stage: &Stage, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        write(stage, name, &params.self_signed(&key).unwrap(), &key);
        Self(Issuer::new(params, key))
    }

    /// A client's certificate, as `NAME.pem` and `NAME.key`, with what the test makes of it. Gives its DER.
    pub(crate) fn issue(&self, stage: &Stage, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        write(stage, name, &certificate, &key);
        certificate.der().to_vec()
    }

    /// What it took back, by serial number, as `NAME.pem`; the next such list is due in this year.
    pub(crate) fn revoke(&self, stage: &Stage, name: &str, serials: &[u64], next: i32) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(next, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        std::fs::write(stage.path(&format!("{name}.pem")), list.signed_by(&self.0).unwrap().pem().unwrap()).unwrap();
    }
}

/// A client that trusts `NAME.pem` alone.
pub(crate) fn client(stage: &Stage, name: &str, protocols: &[&str]) -> Arc<ClientConfig> {
    Arc::new(client_as(stage, &[name], None, protocols))
}

/// A client that trusts these and shows that certificate, if any.
pub(crate) fn client_as(stage: &Stage, trusted: &[&str], shown: Option<&str>, protocols: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for name in trusted {
        roots.add(certificate(stage, name)).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(stage.path(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(vec![certificate(stage, name)], key).unwrap()
        }
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// What stands in `NAME.pem`.
pub(crate) fn certificate(stage: &Stage, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(stage.path(&format!("{name}.pem"))).unwrap()
}

/// Starts an upstream with the certificate `NAME.pem`, for as long as the process runs. It answers each HTTP/1.1 request with
/// its request line.
pub(crate) fn start_upstream(stage: &Stage, name: &str) -> SocketAddr {
    let chain = vec![certificate(stage, name)];
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
