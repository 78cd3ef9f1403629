//! Addresses to which outgoing connections may go.
//!
//! A stranger chooses the host that a `did:web` or a mailbox names, and controls its DNS records. Without this check
//! any client could make the server connect to its own network (loopback, the cloud's metadata service, a database).
//! The check applies to the addresses that DNS returned, and only these are passed to the connector, so a second lookup
//! cannot return other ones.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The host has addresses, but none on the public Internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the host has no public address")]
pub struct NotPublic;

/// Returns true for globally reachable unicast addresses, by the IANA special-purpose address registries (RFC 6890).
/// For an IPv4 address inside an IPv6 one (mapped, or NAT64 by RFC 6052) the IPv4 address decides.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped().or_else(|| nat64(v6)) {
            Some(inside) => is_public_v4(inside),
            None => is_public_v6(v6),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = a == 0
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || (a == 100 && b & 0xc0 == 64) // carrier-grade NAT, RFC 6598
        || (a == 192 && b == 0 && c == 0) // protocol assignments, RFC 6890
        || (a == 192 && b == 88 && c == 99) // 6to4 relays, RFC 7526
        || (a == 198 && b & 0xfe == 18) // benchmarking, RFC 2544
        || a >= 224; // multicast, reserved, broadcast
    !special
}

/// Only 2000::/3 is assigned as global unicast; unspecified, loopback, link-local, unique local and multicast addresses
/// all lie outside it.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let special = match a {
        // Protocol assignments with Teredo (RFC 2928), and documentation (RFC 3849).
        0x2001 => b < 0x0200 || b == 0x0db8,
        // Documentation, RFC 9637.
        0x3fff => b < 0x1000,
        // 6to4, RFC 3056.
        0x2002 => true,
        _ => false,
    };
    a & 0xe000 == 0x2000 && !special
}

/// Returns the IPv4 address behind the well-known NAT64 prefix 64:ff9b::/96.
fn nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        _ => None,
    }
}

/// Resolves names through the operating system and returns public addresses only.
#[derive(Debug, Clone, Copy)]
pub struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let answered = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public = keep_public(answered)?;
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

fn keep_public(
    answered: impl Iterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
    let answered: Vec<_> = answered.collect();
    if answered.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
    }
    let public: Vec<_> = answered.into_iter().filter(|address| is_public(address.ip())).collect();
    if public.is_empty() { Err(NotPublic.into()) } else { Ok(public) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_public_internet_are_public() {
        for text in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.254",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "100::1",
            "2001::1",
            "2001:1::1",
            "2001:db8::1",
            "3fff::1",
            "2002:7f00:1::1",
            "fec0::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_name_that_answers_both_is_reached_at_its_public_address_only() {
        let at = |text: &str| -> SocketAddr { format!("{text}:0").parse().unwrap() };
        let kept = keep_public([at("10.0.0.1"), at("9.9.9.9")].into_iter()).unwrap();
        assert_eq!(kept, [at("9.9.9.9")]);
        let refused = keep_public([at("10.0.0.1"), at("127.0.0.1")].into_iter()).unwrap_err();
        assert!(refused.is::<NotPublic>());
    }
}
