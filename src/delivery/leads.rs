//! Who may fill, and how it is asked of all replicas whether a user is blocked.

use crate::base::clock::Now;
use crate::kubernetes::lease::Leadership;
use crate::users::UserId;
use std::future::Future;
use std::pin::Pin;

/// Whether this process may do what only one may. Asked right before it is done, by the monotonic clock.
#[derive(Debug, Clone)]
pub enum Leads {
    /// There is no other.
    Alone,
    /// While it holds the Lease.
    Elected(Leadership),
}

impl Leads {
    /// Whether it is so now.
    pub fn is_leader(&self, now: Now) -> bool {
        match self {
            Self::Alone => true,
            Self::Elected(leadership) => leadership.is_leader(now),
        }
    }
}

/// The answer to a [`Fence`], to come.
pub type Asked = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Makes known here what all replicas know against these users, by reads that begin now. An error says that it is not known.
pub type Fence = Box<dyn Fn(Vec<UserId>) -> Asked + Send + Sync>;
