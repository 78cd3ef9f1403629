//! Proves who gets in and who does not (promise P12): signatures by every kind of key, documents from real hosts that
//! behave and misbehave, single use across
//! replicas while Redis comes and goes, and streams that end when what opened them does not count any more.

#[path = "../support/mod.rs"]
mod support;

mod kept;
mod resolution;
mod service;
mod signatures;
mod single_use;
mod streams;
