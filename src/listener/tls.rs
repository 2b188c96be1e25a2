//! TLS towards clients; the certificate can be exchanged while connections run.

use crate::base::tls::{self, TlsError};
use crate::config;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The certificate in force. Clones share it.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<ArcSwap<ServerConfig>>);

impl ServerTls {
    /// Loads certificate and key.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn load(files: &config::ServerTls) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(ArcSwap::new(server_config(files)?))))
    }

    /// Loads them again; connections that are open keep what they have.
    ///
    /// # Errors
    /// As [`ServerTls::load`]; the old certificate stays in force.
    pub fn reload(&self, files: &config::ServerTls) -> Result<(), TlsError> {
        self.0.store(server_config(files)?);
        Ok(())
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.0.load_full()).accept(stream).await
    }
}

fn server_config(files: &config::ServerTls) -> Result<Arc<ServerConfig>, TlsError> {
    tls::server_config(&files.certificate, &files.key, None, &[b"h2", b"http/1.1"])
}
