//! The whole of it, against a server that stands in for Keycloak.
