mod client;
mod parse;
mod server;
