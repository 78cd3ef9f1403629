//! `catbird-server health`: asks the server of this machine or container whether it is alive.
//!
//! It is the health check of the image, which has no shell. It reads the address from the settings, as the server does, and asks no
//! proxy.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

use catbird_server::config::Config;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Time for the answer. The health check of the image gives the whole command three seconds.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Longest status line that is read.
const MAX_STATUS_LINE: u64 = 256;

/// Exit code 0 if `/health/live` answers 200; else 1, and the reason on standard error.
pub async fn run(config: &Config) -> ExitCode {
    let answer = tokio::time::timeout(TIMEOUT, status_line(config)).await;
    match answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, "no answer within two seconds"))) {
        Ok(status) if status.contains(" 200 ") => ExitCode::SUCCESS,
        Ok(status) => failed(format!("{status:?} instead of 200")),
        Err(cause) => failed(cause),
    }
}

fn failed(why: impl std::fmt::Display) -> ExitCode {
    eprintln!("the server is not alive: {why}");
    ExitCode::FAILURE
}

async fn status_line(config: &Config) -> Result<String> {
    let mut socket = TcpStream::connect((local(&config.host).as_str(), config.port)).await?;
    socket.write_all(b"GET /health/live HTTP/1.0\r\n\r\n").await?;
    let mut line = String::new();
    BufReader::new(socket.take(MAX_STATUS_LINE)).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

/// An address of this machine on which a server with this `SERVER_HOST` listens.
fn local(host: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Ipv4Addr::LOCALHOST.to_string(),
        Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => Ipv6Addr::LOCALHOST.to_string(),
        _ => host.to_owned(),
    }
}
