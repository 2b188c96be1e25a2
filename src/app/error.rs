//! Why a gateway does not start, or a configuration is not put in force.

use crate::base::tls::TlsError;
use crate::broker::BrokerError;
use crate::delivery::DeliveryError;
use crate::endpoints::events::OutboxError;
use crate::issuer::{IssuerError, JwksError};
use crate::kubernetes::KubernetesError;
use crate::telemetry::traces::TracesError;
use crate::token_service::KeyError;
use crate::upstream::UpstreamError;
use crate::users::StoreError;
use crate::webhook::CertificateError;
use std::io;
use std::net::SocketAddr;

/// Why a gateway cannot start, or a configuration cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be had.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thread or runtime cannot be made.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The access log cannot be opened.
    #[error("cannot open the access log")]
    AccessLog(#[source] io::Error),
    /// The audit log cannot be opened.
    #[error("cannot open the audit log")]
    AuditLog(#[source] io::Error),
    /// Spans cannot be sent as configured.
    #[error("log.traces")]
    Traces(#[from] TracesError),
    /// What is known against users cannot be read.
    #[error("state")]
    State(#[from] StoreError),
    /// What is known against users cannot be shared.
    #[error("kubernetes")]
    Replica(#[source] KubernetesError),
    /// Redis cannot be reached as configured.
    #[error("redis")]
    Redis(#[source] TlsError),
    /// The events that wait for clients cannot be read.
    #[error("state")]
    Outbox(#[from] OutboxError),
    /// Users' tokens cannot be kept.
    #[error("delivery")]
    Delivery(#[from] DeliveryError),
    /// The cluster cannot be reached as configured.
    #[error("kubernetes")]
    Kubernetes(#[from] KubernetesError),
    /// A reload asks for another role, or for another cluster.
    #[error("`[kubernetes]` is read at the start only: restart")]
    OtherCluster,
    /// A reload asks for a store.
    #[error("the store is opened at the start only, and this configuration is the first that needs it: restart")]
    NoStore,
    /// The operators' certificate.
    #[error("operator.tls")]
    Operator(#[source] TlsError),
    /// The webhook's certificates.
    #[error("webhook")]
    Webhook(#[from] CertificateError),
    /// An issuer cannot be asked.
    #[error("issuer `{name}`")]
    Issuer {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        source: Box<IssuerError>,
    },
    /// Signing keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Postern's own keys cannot be read back.
    #[error("Postern's own keys")]
    OwnKeys(#[from] JwksError),
    /// What credentials are got from.
    #[error("a route's credential")]
    Credential(#[from] BrokerError),
    /// An upstream's TLS files.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The server's certificate.
    #[error("server.tls")]
    Tls(#[from] TlsError),
}
