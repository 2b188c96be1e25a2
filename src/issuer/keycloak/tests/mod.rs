mod client;
mod parse;
mod roster;
mod server;
