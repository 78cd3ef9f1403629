//! TLS to PostgreSQL.

use std::sync::Arc;

use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// TLS where the URL demands it (`sslmode=require`). "prefer" stays in the clear: the usual cluster is on this machine or in
/// this network, and whoever needs TLS must say so for it to protect anything.
pub(super) fn tls(config: &tokio_postgres::Config) -> Result<Option<MakeRustlsConnect>, rustls::Error> {
    match config.get_ssl_mode() {
        SslMode::Disable | SslMode::Prefer => Ok(None),
        _ => Ok(Some(MakeRustlsConnect::new(tls_config()?))),
    }
}

fn tls_config() -> Result<rustls::ClientConfig, rustls::Error> {
    use rustls_platform_verifier::BuilderVerifierExt;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth())
}
