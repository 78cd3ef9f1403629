//! Ports for servers in other processes, and for those that listen only later.

use std::net::Ipv4Addr;

use tokio::net::TcpSocket;

/// A port of 127.0.0.1 that is not given to anybody else for as long as this value lives.
///
/// A socket holds it without listening. So Linux takes the port neither for port 0 nor for an outgoing connection, but lets another
/// socket with SO_REUSEADDR, as servers set it, listen on it.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _holder: TcpSocket,
}

impl Port {
    pub fn reserve() -> Self {
        let holder = TcpSocket::new_v4().unwrap();
        holder.set_reuseaddr(true).unwrap();
        holder.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self { number: holder.local_addr().unwrap().port(), _holder: holder }
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number.fmt(f)
    }
}
