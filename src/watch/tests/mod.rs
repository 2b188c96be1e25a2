//! Each loop against a Keycloak in memory, on a clock that stands still unless somebody sleeps.

mod fake;
mod feed;
mod late;
mod news;
mod reread;
mod sign_in;
mod sweep;
