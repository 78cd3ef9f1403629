//! TLS to PostgreSQL.

use std::sync::Arc;

use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Returns a TLS connector if the URL requires TLS (`sslmode=require`). With "prefer" connections are not encrypted:
/// the usual server is on this machine or network, and TLS protects only where it is required.
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
