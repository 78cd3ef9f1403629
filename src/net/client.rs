//! HTTP client for hosts that strangers name: no redirects, no proxy, limited time, and public addresses only.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};

use super::address::PublicOnly;
use super::tls;

/// Part of a request in which the connection must be established.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Name and version of this server, as other servers see them.
pub const USER_AGENT: &str = concat!("catbird-server/", env!("CARGO_PKG_VERSION"));

/// Returns the settings of every outgoing HTTP client; `timeout` limits a whole request.
pub fn builder(timeout: Duration) -> ClientBuilder {
    tls::install();
    Client::builder()
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
}

/// Restricts a client to HTTPS at public addresses.
pub fn public_only(client: ClientBuilder) -> ClientBuilder {
    client.https_only(true).dns_resolver(PublicOnly)
}
