//! TLS to PostgreSQL.

use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::net::tls::client_config;

/// Returns a TLS connector if the URL requires TLS (`sslmode=require`). With "prefer" connections are not encrypted:
/// the usual server is on this machine or network, and TLS protects only where it is required.
pub(super) fn tls(config: &tokio_postgres::Config) -> Result<Option<MakeRustlsConnect>, rustls::Error> {
    match config.get_ssl_mode() {
        SslMode::Disable | SslMode::Prefer => Ok(None),
        _ => Ok(Some(MakeRustlsConnect::new(client_config()?))),
    }
}
