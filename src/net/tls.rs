//! The process's TLS cryptography. Whoever is about to open a TLS connection calls [`install`] first.

use std::sync::Once;

/// Makes *ring* the process's cryptography for rustls. Further calls, and a provider installed by somebody else before
/// the first one, change nothing.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("another TLS provider was installed before; it stays");
        }
    });
}
