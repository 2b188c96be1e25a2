//! What a reload leaves as it was at the start.

use crate::config::Config;

/// Puts back what only a restart changes, so that it is what is in force; says whether any of it was to change. That is said at
/// every reload until there is a restart.
pub(super) fn keep_what_needs_one(config: &mut Config, current: &Config) -> bool {
    let mut server = current.server.clone();
    // Certificates are exchanged while it runs; whether there is TLS at all is settled.
    if server.tls.is_some() && config.server.tls.is_some() {
        server.tls.clone_from(&config.server.tls);
    }
    let is_changed = [
        keep(&mut config.server, server),
        keep(&mut config.admin, current.admin.clone()),
        keep(&mut config.log, current.log.clone()),
        keep(&mut config.operator, current.operator.clone()),
        keep(&mut config.webhook, current.webhook.clone()),
        keep(&mut config.state, current.state.clone()),
        keep(&mut config.delivery, current.delivery.clone()),
    ];
    is_changed.contains(&true)
}

fn keep<T: PartialEq>(wanted: &mut T, in_force: T) -> bool {
    let is_other = *wanted != in_force;
    *wanted = in_force;
    is_other
}
