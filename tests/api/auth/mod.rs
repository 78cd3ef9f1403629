//! Authentication (promise P12): signatures by every kind of key, documents from hosts that behave and misbehave,
//! single use across replicas while Redis comes and goes, and streams that close when their key is revoked.

mod kept;
mod resolution;
mod service;
mod signatures;
mod single_use;
mod streams;
