//! This service's own DID document, served at `/.well-known/did.json` so that a PDS can find the service and proxy to it.

use serde_json::{Value, json};

use crate::config::AuthConfig;

/// The service's id in its DID document, and the fragment that clients put behind its DID in `atproto-proxy` and `aud`.
pub const FRAGMENT: &str = "#atproto_mls";

/// The document. It lists no key: the service verifies tokens and signs none.
pub fn document(config: &AuthConfig) -> Value {
    json!({
        "@context": ["https://www.w3.org/ns/did/v1"],
        "id": config.service_did,
        "service": [{
            "id": FRAGMENT,
            "type": "AtprotoMlsService",
            "serviceEndpoint": config.public_url,
        }],
    })
}
