//! TLS cryptography of the process. [`install`] must be called before a TLS connection is opened.

use std::sync::Once;

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
