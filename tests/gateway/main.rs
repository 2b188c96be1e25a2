//! The gateway as a whole, from its TOML, over real sockets.

fn main() {}
