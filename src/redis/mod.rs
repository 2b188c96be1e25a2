//! A Redis, asked over one connection that all share. It is made when something is asked and there is none, so it is the same
//! whether the Redis was never there, went away or was replaced: who asks is told, and asks again.
//!
//! The connection runs on the runtime of who asked first, which is the control plane's. What is known to be the Redis's part alone is
//! here; what replicas keep there is a [`Shelf`].

mod error;
mod shelf;

#[cfg(test)]
pub(crate) mod tests;

pub use error::RedisError;
pub use shelf::{Look, Position, Shelf, Swap, Swapped};

use crate::base::tls::{self, TlsError};
use crate::config::{self, RedisPlace};
use arc_swap::ArcSwap;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, ServerErrorKind, Value};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

/// So long a connection may take to be made, and so long any answer. One that takes longer is given up with its connection: it may be
/// that nobody is at its other end any more.
const PATIENCE: Duration = Duration::from_secs(2);

/// A Redis.
pub struct Redis {
    access: ArcSwap<Access>,
    /// Held while one is made: who asks meanwhile waits for that one.
    connection: Mutex<Option<Connection>>,
}

/// How it is reached.
pub struct Access {
    config: config::Redis,
    tls: Option<Arc<ClientConfig>>,
}

/// A connection that is, or was, there.
#[derive(Clone)]
struct Connection {
    asks: MultiplexedConnection,
    /// How it was reached.
    access: Arc<Access>,
    driver: Arc<Driver>,
}

/// What reads and writes the socket; ends with the last who may ask.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Redis {
    /// Nothing is sent before something is asked.
    pub fn new(access: Access) -> Arc<Self> {
        Arc::new(Self { access: ArcSwap::from_pointee(access), connection: Mutex::default() })
    }

    /// From now on it is reached in this way: the next that is asked makes a connection anew.
    pub fn reach(&self, access: Access) {
        self.access.store(Arc::new(access));
    }

    /// A key with the prefix of the configuration. What is in braces lies together in a cluster of Redis.
    pub fn key(&self, name: &str) -> String {
        format!("{{{}}}:{name}", self.access.load().config.prefix)
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// [`RedisError`]. But for [`RedisError::Connect`] it may have been done nevertheless.
    pub async fn ask(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut connection = self.connection().await?;
        let answer = tokio::time::timeout(PATIENCE, command.query_async::<Value>(&mut connection.asks)).await;
        let place = connection.access.config.place.to_string();
        let (error, is_lost) = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(source)) => {
                let is_lost = is_lost(&source);
                (RedisError::Refused { place, source }, is_lost)
            }
            Err(_) => (RedisError::TimedOut { place, after: PATIENCE }, true),
        };
        if is_lost {
            let is_same = |known: &mut Connection| Arc::ptr_eq(&known.driver, &connection.driver);
            self.connection.lock().await.take_if(is_same);
        }
        Err(error)
    }

    /// Runs a script, which is sent once and known by its hash from then on.
    ///
    /// # Errors
    /// As [`Redis::ask`].
    pub(crate) async fn run(&self, script: &Script, keys: &[&str], arguments: &[&[u8]]) -> Result<Value, RedisError> {
        let command = |name: &str, what: &str| {
            let mut command = redis::cmd(name);
            command.arg(what).arg(keys.len()).arg(keys);
            command.arg(arguments);
            command
        };
        match self.ask(&command("EVALSHA", &script.hash)).await {
            Err(RedisError::Refused { source, .. }) if is_unknown_script(&source) => {
                self.ask(&command("EVAL", script.text)).await
            }
            answer => answer,
        }
    }

    async fn connection(&self) -> Result<Connection, RedisError> {
        let mut current = self.connection.lock().await;
        let access = self.access.load_full();
        if let Some(connection) = current.as_ref().filter(|connection| Arc::ptr_eq(&connection.access, &access)) {
            return Ok(connection.clone());
        }
        *current = None;
        let timed_out = |_| RedisError::TimedOut { place: access.config.place.to_string(), after: PATIENCE };
        let (asks, driver) = tokio::time::timeout(PATIENCE, access.connect()).await.map_err(timed_out)??;
        Ok(current.insert(Connection { asks, access, driver: Arc::new(driver) }).clone())
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("place", &self.access.load().config.place).finish_non_exhaustive()
    }
}

/// Whether no further answer is to be expected of the connection, or no better one: a server that was made a replica of another
/// writes nothing, and the name may lead to that other one by now.
fn is_lost(error: &redis::RedisError) -> bool {
    let is_demoted = matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown));
    let is_unknown = matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
    let is_cut = matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed);
    is_demoted || is_unknown || is_cut || error.is_unrecoverable_error()
}

fn is_unknown_script(error: &redis::RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

impl Access {
    /// Reads the files of a configuration.
    ///
    /// # Errors
    /// The `ca` cannot be used.
    pub fn new(config: &config::Redis) -> Result<Self, TlsError> {
        let is_tls = matches!(config.place, RedisPlace::Network { is_tls: true, .. });
        let tls = is_tls.then(|| tls::client_config(config.ca.as_deref(), None, &[])).transpose()?;
        Ok(Self { config: config.clone(), tls })
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, Driver), RedisError> {
        let failed = |source| RedisError::Connect { place: self.config.place.to_string(), source };
        match &self.config.place {
            RedisPlace::Socket(path) => self.begin(UnixStream::connect(path).await.map_err(failed)?).await,
            RedisPlace::Network { host, port, .. } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                let Some(tls) = &self.tls else { return self.begin(stream).await };
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other).map_err(failed)?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.map_err(failed)?;
                self.begin(stream).await
            }
        }
    }

    /// Says who we are.
    async fn begin(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(MultiplexedConnection, Driver), RedisError> {
        let config = &self.config;
        let mut info = RedisConnectionInfo::default().set_db(i64::from(config.database)).set_skip_set_lib_name();
        if let Some(username) = &config.username {
            info = info.set_username(username);
        }
        if let Some(password) = &config.password {
            info = info.set_password(password.expose());
        }
        // Whoever asks has their own patience.
        let terms = AsyncConnectionConfig::new().set_response_timeout(None);
        let begun = MultiplexedConnection::new_with_config(&info, stream, terms).await;
        let (asks, driver) = begun.map_err(|source| RedisError::Refused { place: config.place.to_string(), source })?;
        Ok((asks, Driver(tokio::spawn(driver).abort_handle())))
    }
}

/// A script, and the hash by which a Redis knows it.
pub(crate) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    pub(crate) fn new(text: &'static str) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
        let hash = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { text, hash }
    }
}
