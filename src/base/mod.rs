//! Small things that every module may use, and that use nothing of ours.

pub mod accept;
pub mod budget;
pub mod bytes;
pub mod clock;
pub mod http_client;
pub mod json;
pub mod ledger;
pub mod rate_table;
pub mod secret;
pub mod sharded;
pub mod tick;
pub mod tls;
