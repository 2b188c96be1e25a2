//! WebSockets over an HTTP/2 connection to an upstream: extended CONNECT (RFC 8441).

use super::body::WatchedBody;
use super::{FIRST_STREAMS, Http2};
use crate::config::Upgrade;
use crate::upstream::pool::Lease;
use crate::upstream::{Failure, SEC_WEBSOCKET_KEY};
use http::{HeaderValue, Method, Request};
use hyper::ext::Protocol;
use std::time::Duration;
use tokio::time::Instant;

/// How often an upstream is looked at that has said nothing of itself yet. Only the first WebSocket of a connection waits for that,
/// and what it waits for is the first frame that an upstream sends.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Http2 {
    /// Whether the upstream takes WebSockets here; `None` while it has said nothing of itself.
    pub(super) fn takes_websockets(&self) -> Option<bool> {
        // A connection that has ended takes none.
        let Some(driver) = self.driver.upgrade() else { return Some(false) };
        let driver = driver.borrow();
        match driver.is_extended_connect_protocol_enabled() {
            true => Some(true),
            false => (driver.current_max_send_streams() != FIRST_STREAMS).then_some(false),
        }
    }

    /// Makes a request one for a WebSocket, once it is known that the upstream takes it.
    pub(super) async fn prepare(
        &self,
        protocol: &HeaderValue,
        outgoing: &mut Request<WatchedBody>,
        lease: &Lease,
    ) -> Result<(), Failure> {
        if Upgrade::asked(protocol.as_bytes()) != Some(Upgrade::WebSocket) {
            return Err(Failure::UpgradeOverHttp2);
        }
        let until = Instant::now() + lease.connect_timeout;
        let takes = loop {
            match self.takes_websockets() {
                None if Instant::now() < until => tokio::time::sleep(LOOK_EVERY).await,
                known => break known,
            }
        };
        if takes != Some(true) {
            return Err(Failure::NoWebSocketOverHttp2);
        }
        *outgoing.method_mut() = Method::CONNECT;
        outgoing.extensions_mut().insert(Protocol::from_static(Upgrade::WebSocket.name()));
        // Neither key nor answer to it is there in HTTP/2 (RFC 8441 §5).
        outgoing.headers_mut().remove(SEC_WEBSOCKET_KEY);
        Ok(())
    }
}
