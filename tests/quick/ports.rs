//! Ports that tests reserve for servers in other processes.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use catbird_testkit::port::Port;
use tokio::net::TcpSocket;

#[test]
fn a_reserved_port_is_refused_to_sockets_and_given_to_a_server() {
    let reserved = Port::reserve();
    let address = (Ipv4Addr::LOCALHOST, reserved.number());
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let plain = TcpSocket::new_v4().unwrap();
    assert_eq!(plain.bind(address.into()).unwrap_err().kind(), ErrorKind::AddrInUse);
    // The standard library sets SO_REUSEADDR as servers do.
    for _ in 0..2 {
        let server = TcpListener::bind(address).unwrap();
        TcpStream::connect(address).unwrap();
        drop(server);
    }
}
