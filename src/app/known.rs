//! What a configuration begins with: its issuers, and what is known against users.

use super::StartError;
use crate::base::clock::Clock;
use crate::config::{self, Config};
use crate::issuer::Issuer;
use crate::telemetry::audit_log::Audit;
use crate::users::Users;
use std::sync::Arc;

/// The issuers of a configuration; what is known of one that is asked in the same way is kept.
pub(super) fn issuers(config: &Config, clock: &Clock, former: &[Arc<Issuer>]) -> Result<Vec<Arc<Issuer>>, StartError> {
    let make = |config: &Arc<config::Issuer>| {
        let known = former.iter().find(|known| known.config().name == config.name);
        // A file of authorities may have changed under an unchanged configuration.
        if let Some(known) = known
            && known.config() == config
            && config.ca.is_none()
        {
            return Ok(Arc::clone(known));
        }
        let issuer = Issuer::new(Arc::clone(config), clock.clone())
            .map_err(|error| StartError::Issuer { name: config.name.clone(), source: Box::new(error) })?;
        if let Some(known) = known {
            issuer.adopt(known);
        }
        Ok(Arc::new(issuer))
    };
    config.issuers.iter().map(make).collect()
}

/// What is known against users; kept in a file where there is anything to keep.
pub(super) fn users(config: &Config, clock: &Clock) -> Result<(Arc<Users>, Audit), StartError> {
    let audit = Audit::start(&config.log.audit).map_err(StartError::AuditLog)?;
    if !config.has_state() {
        return Ok((Users::in_memory(clock.clone()), audit));
    }
    Ok((Users::open(&config.state.path.join("users.redb"), clock.clone(), audit.clone())?, audit))
}
