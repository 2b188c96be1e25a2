//! TLS towards clients: which certificate they are shown, whether they are asked for theirs. All of it can be exchanged while
//! connections run.

mod asking;
mod by_name;
mod take_any;
mod turns;

use crate::base::tls::{self, Asked, ClientTrust, ShownCertificate, TlsError};
use crate::config::{Config, UnknownName};
use arc_swap::ArcSwap;
use asking::{Ask, Asking};
use by_name::ByName;
use rustls::ServerConfig;
use rustls::server::{Acceptor, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::io;
use std::sync::Arc;
use take_any::TakeAny;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};
pub use turns::Turns;

/// What is in force. Clones share it.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<ArcSwap<Prepared>>);

/// Files that were read, ready to be put in force.
#[derive(Debug)]
pub struct Prepared {
    /// The default first.
    keys: Vec<Arc<CertifiedKey>>,
    unknown_name: UnknownName,
    trust: Option<Arc<ClientTrust>>,
    asking: Asking,
    /// By [`Ask`]. Each remembers its own sessions, so none that began without being asked goes on where one is.
    configs: [Arc<ServerConfig>; 3],
}

impl Prepared {
    /// Reads the files that a configuration names; none where it asks for clear text. Its routes say which hosts' clients are asked for a
    /// certificate.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn read(config: &Config) -> Result<Option<Self>, TlsError> {
        let Some(files) = &config.server.tls else { return Ok(None) };
        let mut keys = vec![tls::certified_key(&files.default.certificate, &files.default.key)?];
        for pair in &files.by_name {
            let key = tls::certified_key(&pair.certificate, &pair.key)?;
            if by_name::names(&key).is_empty() {
                return Err(TlsError::Nameless { path: pair.certificate.clone() });
            }
            keys.push(key);
        }
        let load = |ca| ClientTrust::load(ca, files.client_crl.as_deref());
        let trust = files.client_ca.as_deref().map(load).transpose()?.map(Arc::new);
        let shown: Arc<dyn ResolvesServerCert> = Arc::new(ByName::new(&keys, files.unknown_name));
        let hints = trust.as_ref().map(|trust| trust.hints().to_vec());
        let configs = [
            server_config(&shown, None)?,
            server_config(&shown, hints.map(TakeAny::new))?,
            server_config(&shown, Some(TakeAny::new(Vec::new())))?,
        ];
        let (unknown_name, asking) = (files.unknown_name, Asking::new(&config.routes));
        Ok(Some(Self { keys, unknown_name, trust, asking, configs }))
    }

    /// Who judges clients' certificates.
    pub fn trust(&self) -> Option<&Arc<ClientTrust>> {
        self.trust.as_ref()
    }

    /// Whether the other was made of the same.
    fn is_same_as(&self, other: &Self) -> bool {
        let chains = |of: &Self| of.keys.iter().map(|key| key.cert.clone()).collect::<Vec<_>>();
        let is_trust_same = match (&self.trust, &other.trust) {
            (Some(one), Some(other)) => one.is_same_as(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        is_trust_same
            && self.unknown_name == other.unknown_name
            && self.asking == other.asking
            && chains(self) == chains(other)
    }
}

fn server_config(shown: &Arc<dyn ResolvesServerCert>, asks: Option<TakeAny>) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = tls::server_builder()?;
    let builder = match asks {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::new(verifier)),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(shown));
    // A client that offers nothing of these is refused (RFC 7301 §3.2).
    config.alpn_protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"].map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

impl ServerTls {
    /// Puts what was read in force for the first time.
    pub fn new(prepared: Prepared) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(prepared)))
    }

    /// Puts what was read in force for new connections; those that are open keep what they have. If nothing is new, clients may go
    /// on with their sessions.
    pub fn replace(&self, prepared: Prepared) {
        if !self.0.load().is_same_as(&prepared) {
            self.0.store(Arc::new(prepared));
        }
    }

    /// Shakes hands. Also gives what came of asking for a certificate, where that was done.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Option<Box<Asked>>)> {
        let prepared = self.0.load_full();
        if !prepared.asking.is_any() {
            let config = Arc::clone(&prepared.configs[Ask::Nothing as usize]);
            return Ok((TlsAcceptor::from(config).accept(stream).await?, None));
        }
        let started = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let ask = prepared.asking.of(started.client_hello().server_name());
        let stream = started.into_stream(Arc::clone(&prepared.configs[ask as usize])).await?;
        let session = stream.get_ref().1;
        let asked = (ask != Ask::Nothing).then(|| {
            Box::new(Asked {
                server_name: session.server_name().map(Box::from),
                shown: session.peer_certificates().and_then(ShownCertificate::new),
            })
        });
        Ok((stream, asked))
    }
}
