//! Requests to switch to another protocol, and what becomes of them: a tunnel.
//!
//! A WebSocket is asked for in one way over HTTP/1.1 (RFC 6455 §4) and in another over HTTP/2 (RFC 8441). Each side may speak either:
//! what only one of them has is made, and checked, here.

use super::record::Record;
use super::streams::Open;
use super::{Pipeline, Rejection, Stripped, Worker};
use crate::config::Upgrade;
use crate::telemetry::reason::Reason;
use crate::upstream::{self, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, Upgraded, Upstream, accept_for, new_key};
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::rc::Rc;
use std::time::Duration;

/// A client that waits for its connection, or stream, to be switched.
#[derive(Debug)]
pub(super) struct Switch {
    protocol: Upgrade,
    client: OnUpgrade,
    /// It asked by extended CONNECT.
    pub(super) is_connect: bool,
    /// What its upstream is asked with over HTTP/1.1, if it is.
    key: Option<HeaderValue>,
}

/// A client and an upstream that have agreed.
#[derive(Debug)]
pub(super) struct Tunnel {
    protocol: Upgrade,
    client: OnUpgrade,
    upstream: Upgraded,
    idle: Duration,
    open: Option<Open>,
}

/// Takes an extended CONNECT for a WebSocket as the `GET` that it is over HTTP/1.1; no other CONNECT is served.
///
/// # Errors
/// It is another.
pub(super) fn accept_connect(parts: &mut Parts, stripped: &mut Stripped) -> Result<(), Rejection> {
    let asked = parts.extensions.get::<Protocol>().and_then(|protocol| Upgrade::asked(protocol.as_ref()));
    if parts.method != Method::CONNECT || parts.version != Version::HTTP_2 || asked != Some(Upgrade::WebSocket) {
        return Err(Reason::MethodNotAllowed.into());
    }
    parts.method = Method::GET;
    stripped.is_connect = true;
    Ok(())
}

impl Switch {
    /// The switch that a request asks for, if its upstream takes one.
    ///
    /// # Errors
    /// It can only be switched or refused, and the upstream takes no such protocol.
    pub(super) fn of(
        parts: &mut Parts,
        stripped: &mut Stripped,
        to: &Upstream,
    ) -> Result<Option<Box<Self>>, Rejection> {
        let protocol = stripped.upgrade.as_ref().and_then(|value| Upgrade::asked(value.as_bytes()));
        let protocol = protocol.filter(|protocol| to.config.upgrades.contains(protocol));
        let client = protocol.and_then(|_| parts.extensions.remove::<OnUpgrade>());
        let is_connect = stripped.is_connect;
        let Some((protocol, client)) = protocol.zip(client) else {
            return if is_connect { Err(Reason::MethodNotAllowed.into()) } else { Ok(None) };
        };
        if is_connect {
            // A client that brings one has no use for it.
            stripped.fields.retain(|(name, _)| *name != SEC_WEBSOCKET_KEY);
            let key = new_key().map_err(|_| Reason::UpstreamFailed)?;
            stripped.fields.push((SEC_WEBSOCKET_KEY, key));
        }
        let key = stripped.fields.iter().find(|(name, _)| *name == SEC_WEBSOCKET_KEY).map(|(_, key)| key.clone());
        Ok(Some(Box::new(Self { protocol, client, is_connect, key })))
    }

    /// Gives the client back, so that the request can be sent again.
    pub(super) fn undo(self, parts: &mut Parts) {
        parts.extensions.insert(self.client);
    }

    /// The upstream has agreed: so the client is told.
    ///
    /// # Errors
    /// The upstream did not read the key, or the client sent none.
    pub(super) fn agree(
        self,
        worker: &Worker,
        pipeline: &Pipeline,
        upstream: Upgraded,
        idle: Duration,
        record: &mut Record,
    ) -> Result<(), Rejection> {
        let fields = &mut record.request.headers;
        let due = || self.key.as_ref().and_then(accept_for);
        match (self.is_connect, upstream.is_http2()) {
            (false, true) => {
                fields.insert(SEC_WEBSOCKET_ACCEPT, due().ok_or(Reason::MalformedRequest)?);
            }
            (true, false) if fields.get(SEC_WEBSOCKET_ACCEPT) != due().as_ref() => {
                return Err(Rejection::because(Reason::UpstreamFailed, "the upstream did not answer the key"));
            }
            // What is said between two of the same is theirs.
            (false, false) | (true, _) => {}
        }
        if self.is_connect {
            for name in [SEC_WEBSOCKET_ACCEPT, CONNECTION, UPGRADE] {
                fields.remove(name);
            }
            record.status = Some(StatusCode::OK);
        } else {
            fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(UPGRADE, HeaderValue::from_static(self.protocol.name()));
            record.status = Some(StatusCode::SWITCHING_PROTOCOLS);
        }
        let open = worker.open(pipeline, &record.context);
        record.tunnel = Some(Box::new(Tunnel { protocol: self.protocol, client: self.client, upstream, idle, open }));
        Ok(())
    }
}

impl Tunnel {
    /// Joins both; `held` is kept until they part.
    pub(super) async fn run<H>(self, held: H) {
        // Where nobody had to say who they are, nobody is cut off.
        let cut = self.open.as_ref().map(|open| Rc::clone(open.cut())).unwrap_or_default();
        // A client that is gone by now needs no tunnel.
        if let Ok(client) = self.client.await {
            upstream::tunnel(TokioIo::new(client), self.upstream, self.protocol, self.idle, &cut).await;
        }
        drop(held);
    }
}
