//! Proves who gets in and who does not (promise P12): signatures by every kind of key, documents from real hosts that
//! behave and misbehave, and single use across replicas while Redis comes and goes.

#[path = "../support/mod.rs"]
mod support;

mod kept;
mod resolution;
mod service;
mod signatures;
mod single_use;
