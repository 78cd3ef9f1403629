//! Outgoing connections: their HTTP client, their TLS cryptography, and the addresses that they may go to.

pub mod address;
pub mod client;
pub mod tls;
