//! URL of a DID's document, as its DID method defines it.

use std::net::IpAddr;

use reqwest::Url;

use super::fetch::Unresolved;
use crate::ids::Did;
use crate::net::address::is_public;

/// URL of a document, by the kind of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The did:plc directory.
    Directory(Url),
    /// A host that the DID itself names.
    Named(Url),
}

/// Characters of a did:plc after its method (<https://web.plc.directory/spec/v0.1/did-plc>).
const PLC_CHARS: usize = 24;

/// Maximum length of a host name, in characters (RFC 1035 section 2.3.4, without the dots that only the wire has).
const MAX_HOST_CHARS: usize = 253;

/// Returns the URL of the document of `did`. With `allow_private` a did:web may name an IP address or a host of the
/// local network, which is asked over plain HTTP.
pub fn locate(did: &Did, directory: &Url, allow_private: bool) -> Result<Location, Unresolved> {
    match did.as_str().strip_prefix("did:").and_then(|rest| rest.split_once(':')) {
        Some(("plc", id)) => plc(id, did, directory).map(Location::Directory),
        Some(("web", id)) => web(id, allow_private).map(Location::Named),
        _ => Err(Unresolved::Absent("only did:plc and did:web are supported")),
    }
}

fn plc(id: &str, did: &Did, directory: &Url) -> Result<Url, Unresolved> {
    let well_formed = id.len() == PLC_CHARS && id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
    if !well_formed {
        return Err(Unresolved::Absent("a did:plc must have 24 base32 characters"));
    }
    let mut url = directory.clone();
    url.path_segments_mut()
        .map_err(|()| Unresolved::Absent("the directory's URL cannot have a path"))?
        .pop_if_empty()
        .push(did.as_str());
    Ok(url)
}

/// Only a bare host is accepted (<https://atproto.com/specs/did#at-protocol-did-identifier-syntax>). With paths one web
/// server could supply any number of identities, and with ports strangers could choose the service that is contacted. A
/// port (`%3A`) is accepted for hosts of the local network in tests.
fn web(id: &str, allow_private: bool) -> Result<Url, Unresolved> {
    const MALFORMED: Unresolved = Unresolved::Absent("the did:web is malformed");
    if id.contains(':') {
        return Err(Unresolved::Absent("a did:web must name a host without a path"));
    }
    let authority = id.replace("%3A", ":").replace("%3a", ":");
    let (host, port) = match authority.split_once(':') {
        None => (authority.as_str(), None),
        Some(_) if !allow_private => return Err(Unresolved::Absent("a did:web must name a host without a port")),
        Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| MALFORMED)?)),
    };
    // Percent-encoding is accepted for the port only; it could hide slashes and dots.
    if host.is_empty()
        || host.len() > MAX_HOST_CHARS
        || host == "."
        || host == ".."
        || host.contains('%')
        || port == Some(0)
    {
        return Err(MALFORMED);
    }

    let scheme = if allow_private && is_local(host) { "http" } else { "https" };
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let url = Url::parse(&format!("{scheme}://{host}{port}/.well-known/did.json")).map_err(|_| MALFORMED)?;
    // The URL parser decides what is an address: it knows that 127.1 and 0x7f000001 are addresses too.
    if url.domain().is_none() && !allow_private {
        return Err(Unresolved::Absent("a did:web must name a host, not an IP address"));
    }
    Ok(url)
}

/// Checks for a name or address that only the local network can resolve, where hosts have no certificates.
fn is_local(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => !is_public(address),
        Err(_) => !host.contains('.') || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url_of(did: &str, allow_private: bool) -> Option<String> {
        let directory = Url::parse("https://plc.directory").unwrap();
        match locate(&did.parse().ok()?, &directory, allow_private).ok()? {
            Location::Directory(url) | Location::Named(url) => Some(url.to_string()),
        }
    }

    #[test]
    fn each_method_says_where_its_document_lies() {
        for (did, url) in [
            ("did:plc:ewvi7nxzyoun6zhxrhs64oiz", "https://plc.directory/did:plc:ewvi7nxzyoun6zhxrhs64oiz"),
            ("did:web:example.com", "https://example.com/.well-known/did.json"),
            ("did:web:localhost", "https://localhost/.well-known/did.json"),
        ] {
            assert_eq!(url_of(did, false).as_deref(), Some(url));
        }
    }

    #[test]
    fn hosts_of_the_local_network_are_asked_over_http_where_they_are_allowed() {
        for (did, url) in [
            ("did:web:localhost%3A3000", "http://localhost:3000/.well-known/did.json"),
            ("did:web:127.0.0.1%3a3000", "http://127.0.0.1:3000/.well-known/did.json"),
            ("did:web:pds", "http://pds/.well-known/did.json"),
            ("did:web:alice.localhost", "http://alice.localhost/.well-known/did.json"),
            ("did:web:example.com", "https://example.com/.well-known/did.json"),
        ] {
            assert_eq!(url_of(did, true).as_deref(), Some(url));
        }
    }

    #[test]
    fn addresses_in_every_spelling_are_not_hosts() {
        for did in [
            "did:web:127.0.0.1",
            "did:web:127.0.0.1%3A80",
            "did:web:169.254.169.254",
            "did:web:127.1",
            "did:web:0x7f000001",
            "did:web:2130706433",
            "did:web:0177.0.0.1",
            "did:web:8.8.8.8",
        ] {
            assert_eq!(url_of(did, false), None, "{did}");
        }
    }

    #[test]
    fn paths_are_refused_always_and_ports_where_private_hosts_are() {
        for did in ["did:web:example.com:users:alice", "did:web:example.com%3A8443:alice", "did:web:localhost:alice"] {
            assert_eq!((url_of(did, false), url_of(did, true)), (None, None), "{did}");
        }
        assert_eq!(url_of("did:web:example.com%3A8443", false), None);
        assert!(url_of("did:web:example.com%3A8443", true).is_some());
    }

    #[test]
    fn a_did_cannot_climb_or_smuggle() {
        for did in [
            "did:plc:short",
            "did:plc:EWVI7NXZYOUN6ZHXRHS64OIZ",
            "did:plc:..%2F..%2F..%2Fadminadmin",
            "did:plc:ewvi7nxzyoun6zhxrhs64oi1",
            "did:web:example.com:..:admin",
            "did:web:example.com:%2e%2e:admin",
            "did:web:example.com::admin",
            "did:web:example.com%2Fadmin",
            "did:web:user%40example.com",
            "did:web:example.com%3A0",
            "did:web:example.com%3A99999",
            "did:web:example.com%3A80%3A80",
            "did:web:%3A80",
            "did:key:zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo",
        ] {
            assert_eq!(url_of(did, true), None, "{did}");
        }
    }

    proptest! {
        #[test]
        fn no_did_makes_it_panic_or_leave_its_host(rest in "[a-z0-9.:%_-]{1,40}") {
            if let Some(url) = url_of(&format!("did:plc:{rest}"), true) {
                prop_assert!(url.starts_with("https://plc.directory/did:plc:"));
            }
            url_of(&format!("did:web:{rest}"), true);
            prop_assert_eq!(url_of(&format!("did:web:host.example:{rest}"), false), None);
        }
    }
}
