mod fetch;
mod introspect;
mod jwk;
mod kubernetes;
mod outage;
mod unknown_kid;

pub(super) mod fake;
pub(super) mod keys;
