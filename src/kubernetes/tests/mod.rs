//! The module against a fake API server, on real sockets.

mod credentials;
mod lease;
mod memory;
mod namespaces;
mod secrets;
mod state;
mod watch;
mod wire;

pub(crate) mod server;

use crate::kubernetes::{Cluster, Owner};

fn alice() -> Owner {
    Owner::new("main", "5bd9c1d6-alice")
}

fn bob() -> Owner {
    Owner::new("main", "77aa0c11-bob")
}

/// A fake API server and a connection to it.
async fn start() -> (server::ApiServer, Cluster) {
    let server = server::ApiServer::start().await;
    let cluster = server.connect().await;
    (server, cluster)
}
