//! Outgoing connections: their TLS cryptography, and the addresses that they may go to.

pub mod address;
pub mod tls;
