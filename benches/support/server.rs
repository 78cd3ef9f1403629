//! Server processes: the real binary as an operator starts it. It logs to a file, because reading a pipe would cost
//! measured time.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use catbird_bench_report::results::Who;
use serde_json::Value;

use super::Result;
use super::tokens::{SECRET, SERVICE_DID};

/// Maximum time of a start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval at which a starting server is polled.
const POLL: Duration = Duration::from_millis(10);
/// The configuration of the measured servers, for the reader of the figures. A variant of a scenario that has another
/// setting says so.
pub const CONFIGURATION: &str = "default settings (each token is accepted once, 10 connections to the database), tokens signed with ES256K as a PDS \
     signs them; only the rate limits and quotas, which are checked and counted, are raised beyond the load";
/// The defaults would refuse these loads, which come from a few thousand callers. The limits are raised to the maximum of
/// their settings and not turned off, so that each request pays for them.
const RAISED: [(&str, &str); 8] = [
    ("RATE_LIMIT_PER_DID", "100000"),
    ("RATE_LIMIT_PER_CONVO", "100000"),
    ("COMMITS_PER_MINUTE", "100000"),
    ("KEY_PACKAGES_PER_CALLER", "1000000000"),
    ("STORED_BYTES_PER_DAY", "1125899906842624"),
    ("CONVOS_PER_DAY", "1000000000"),
    ("STRANGERS_PER_DAY", "1000000000"),
    ("INVITATIONS_PER_HOUR", "1000000000"),
];

/// One server process. It ends when the value is dropped.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts a server on a database with the settings of [`CONFIGURATION`], except `settings`, and waits until it is
    /// ready. `directory` has the documents of all accounts.
    pub async fn start(
        who: Who,
        database_url: &str,
        directory: SocketAddr,
        settings: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_catbird-server"))
            .env_clear()
            .envs([("SERVER_PORT", "0"), ("SERVICE_DID", SERVICE_DID)])
            .envs([("DATABASE_URL", database_url), ("ENABLE_ACTOR_SYSTEM", actors(who)?)])
            .env("PLC_DIRECTORY_URL", format!("http://{directory}"))
            // Some scenarios prepare or follow with development tokens, and `tokens` compares them.
            .env("JWT_SECRET", SECRET)
            .envs(RAISED)
            .envs(settings.iter().copied())
            // A directory without .env.
            .current_dir(log.parent().ok_or("a log lies in a directory")?)
            .stdin(Stdio::null())
            .stdout(File::create(log)?)
            .spawn()?;
        let mut server = Self { address: SocketAddr::from(([0, 0, 0, 0], 0)), child };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = listens_at(log)? {
                server.address = address;
                if is_ready(address) {
                    return Ok(server);
                }
            }
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("the server ended ({status}); see {}", log.display()).into());
            }
            if Instant::now() > deadline {
                return Err(format!("the server did not become ready; see {}", log.display()).into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn actors(who: Who) -> Result<&'static str> {
    match who {
        Who::Advisory => Ok("false"),
        Who::Actors => Ok("true"),
        Who::Yardstick | Who::Generator => Err(format!("{who:?} is not a server").into()),
    }
}

/// The address in the log, once the server has written it.
fn listens_at(log: &Path) -> Result<Option<SocketAddr>> {
    for line in std::fs::read_to_string(log)?.lines() {
        // The last line may be incomplete.
        let entry: Value = serde_json::from_str(line).unwrap_or_default();
        if let ("listening", Some(address)) = (entry["message"].as_str().unwrap_or_default(), entry["address"].as_str())
        {
            return Ok(Some(address.parse()?));
        }
    }
    Ok(None)
}

fn is_ready(address: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /health/ready HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok::<_, std::io::Error>(reply)
    };
    ask().is_ok_and(|reply| reply.starts_with("HTTP/1.1 200 "))
}
