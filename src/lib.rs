pub mod clock;
pub mod config;
pub mod error;
pub mod ids;
pub mod views;
pub mod xrpc;
