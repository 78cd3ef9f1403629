//! TLS cryptography of the process. [`install`] must be called before a TLS connection is opened.

use std::sync::{Arc, Once};

use rustls_platform_verifier::BuilderVerifierExt;

/// Installs *ring* as the process's cryptography for rustls. Further calls have no effect, and a provider that was
/// installed earlier stays.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("another TLS provider was installed before; it stays");
        }
    });
}

/// Returns the settings of a connection to a server whose certificate the operating system's root certificates verify.
pub fn client_config() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth())
}
