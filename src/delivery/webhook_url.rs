//! URLs that may be a mailbox. Members choose them and the server calls them from inside its own network, so they must
//! be public. The addresses of a name are checked at each call, since DNS may change; everything else is checked here.

use std::net::IpAddr;

use reqwest::Url;

use crate::net::address::is_public;

/// Maximum length of a URL, in bytes.
pub const MAX_URL_BYTES: usize = 2_048;

/// A URL that may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    pub url: String,
    /// Its host, with the port if it is not the default; limits apply per host.
    pub host: String,
}

/// Reasons for which a URL may not be a mailbox; a sentence for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    #[error("url must be a valid URL of at most {MAX_URL_BYTES} bytes")]
    Malformed,
    #[error("url must be an https URL")]
    Insecure,
    #[error("url must not contain a user, a password or a fragment")]
    Decorated,
    #[error("url must not contain a port: mailboxes are called on port 443")]
    Port,
    #[error("url must name a host on the public Internet, not an IP address or a local name")]
    Private,
}

/// Checks a URL. `allow_private` allows addresses, local hosts, any port, and plain HTTP.
pub fn check(text: &str, allow_private: bool) -> Result<WebhookUrl, NotAllowed> {
    if text.len() > MAX_URL_BYTES {
        return Err(NotAllowed::Malformed);
    }
    let url = Url::parse(text).map_err(|_| NotAllowed::Malformed)?;
    match url.scheme() {
        "https" => {}
        "http" if allow_private => {}
        _ => return Err(NotAllowed::Insecure),
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(NotAllowed::Decorated);
    }
    let host = url.host_str().ok_or(NotAllowed::Malformed)?;
    // The URL parser decides what is an address: it knows that 127.1 and 0x7f000001 are addresses too. Public addresses
    // are refused as well, because strangers' certificates do not cover addresses.
    if !allow_private && (url.domain().is_none() || is_local(host)) {
        return Err(NotAllowed::Private);
    }
    if !allow_private && url.port().is_some() {
        return Err(NotAllowed::Port);
    }
    let host = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    // The normalised URL may be longer than the original.
    let url = String::from(url);
    if url.len() > MAX_URL_BYTES { Err(NotAllowed::Malformed) } else { Ok(WebhookUrl { url, host }) }
}

/// Checks for a name that only the local network can resolve.
fn is_local(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    !host.contains('.')
        || [".localhost", ".local", ".internal"].iter().any(|end| host.ends_with(end))
        || host.parse::<IpAddr>().is_ok_and(|address| !is_public(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_hosts_over_https_are_mailboxes() {
        for (text, host) in [
            ("https://mail.example.com/in?zone=a", "mail.example.com"),
            ("https://Mail.Example.com/in", "mail.example.com"),
            ("https://mail.example.com:443", "mail.example.com"),
        ] {
            assert_eq!(check(text, false).map(|place| place.host).as_deref(), Ok(host), "{text}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        use NotAllowed::*;
        for (text, why) in [
            ("", Malformed),
            ("mail.example.com", Malformed),
            ("https://", Malformed),
            ("http://mail.example.com/in", Insecure),
            ("ftp://mail.example.com/in", Insecure),
            ("file:///etc/passwd", Insecure),
            ("https://user@mail.example.com/", Decorated),
            ("https://:secret@mail.example.com/", Decorated),
            ("https://mail.example.com/#here", Decorated),
            ("https://mail.example.com:8443/", Port),
            ("https://mail.example.com:22/", Port),
            ("https://127.0.0.1:8443/", Private),
            ("https://127.0.0.1/", Private),
            ("https://127.1/", Private),
            ("https://0x7f000001/", Private),
            ("https://2130706433/", Private),
            ("https://[::1]/", Private),
            ("https://[::ffff:10.0.0.1]/", Private),
            ("https://169.254.169.254/latest", Private),
            ("https://8.8.8.8/", Private),
            ("https://localhost/", Private),
            ("https://localhost./", Private),
            ("https://db/", Private),
            ("https://a.localhost/", Private),
            ("https://metadata.google.internal/", Private),
        ] {
            assert_eq!(check(text, false), Err(why), "{text}");
        }
        assert_eq!(check(&format!("https://a.example/{}", "x".repeat(MAX_URL_BYTES)), false), Err(Malformed));
        assert_eq!(check(&format!("https://a.example/{}", "ä".repeat(MAX_URL_BYTES / 4)), false), Err(Malformed));
    }

    #[test]
    fn the_local_network_is_admitted_where_it_is_allowed() {
        assert_eq!(check("http://127.0.0.1:3000/in", true).map(|place| place.host).as_deref(), Ok("127.0.0.1:3000"));
        assert_eq!(check("gopher://127.0.0.1/", true), Err(NotAllowed::Insecure));
    }
}
