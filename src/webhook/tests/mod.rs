//! Tests of the webhook as a whole: reviews in files, arbitrary pods, sockets, a year of certificates.

mod bad_reviews;
mod cases;
mod pods;
mod rotation;
mod server;
mod support;
