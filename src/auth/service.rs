//! This service's own DID document, served at `/.well-known/did.json` so that a PDS can find the service and proxy to it.

use serde_json::{Value, json};

use crate::config::AuthConfig;

/// Id of the service in its DID document; clients append this fragment to its DID in `atproto-proxy` and `aud`.
pub const FRAGMENT: &str = "#atproto_mls";

/// Builds the document. It lists no key, because the service verifies tokens and signs none.
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
