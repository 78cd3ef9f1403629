//! Replicas at addresses that stay the same, on a database that the test replaces.

use std::path::Path;

use catbird_testkit::app::variables;
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::proxy::Proxy;
use reqwest::Url;
use tokio::process::Command;

const MODES: [Mode; 2] = [Mode::Advisory, Mode::Actors];
/// Members may come back as often as they need to.
pub const SETTINGS: [(&str, &str); 1] = [("EXTERNAL_COMMIT_SECONDS", "0")];

pub struct Servers {
    replicas: Vec<Replica>,
    proxies: Vec<Proxy>,
}

impl Servers {
    /// Starts two replicas on a database. Without a URL it is one with its own PostgreSQL.
    pub async fn start(url: &str, settings: &[(&str, &str)]) -> Self {
        Self::of(replicas(url, settings).await).await
    }

    /// Puts an address in front of each of these replicas.
    pub async fn of(replicas: Vec<Replica>) -> Self {
        let mut proxies = Vec::new();
        for replica in &replicas {
            proxies.push(Proxy::before(&replica.base).await);
        }
        Self { replicas, proxies }
    }

    /// Addresses for clients.
    pub fn urls(&self) -> Vec<Url> {
        self.proxies.iter().map(|proxy| proxy.base().parse().unwrap()).collect()
    }

    /// Stops all replicas in order.
    pub async fn stop(&mut self) {
        for replica in self.replicas.drain(..) {
            assert_eq!(replica.terminate().await, Some(0));
        }
    }

    /// Starts replicas on a database, at the same addresses.
    pub async fn resume(&mut self, url: &str, settings: &[(&str, &str)]) {
        for (n, replica) in replicas(url, settings).await.into_iter().enumerate() {
            self.put(n, &replica);
            self.replicas.push(replica);
        }
    }

    /// Puts a replica at the `n`-th address in place of another, which then ends in order.
    pub async fn replace(&mut self, n: usize, replica: Replica) {
        replica.ready().await;
        self.put(n, &replica);
        let old = std::mem::replace(&mut self.replicas[n], replica);
        assert_eq!(old.terminate().await, Some(0));
    }

    fn put(&self, n: usize, replica: &Replica) {
        self.proxies[n].redirect(&replica.base);
    }

    /// Waits until all replicas accept requests.
    pub async fn ready(&self) {
        for replica in &self.replicas {
            replica.ready().await;
        }
    }
}

async fn replicas(url: &str, settings: &[(&str, &str)]) -> Vec<Replica> {
    let settings: Vec<_> = SETTINGS.iter().chain(settings).copied().collect();
    let modes = if url.is_empty() { &MODES[..1] } else { &MODES };
    let mut replicas = Vec::new();
    for mode in modes {
        replicas.push(Replica::spawn(*mode, url, &settings).await);
    }
    for replica in &replicas {
        replica.ready().await;
    }
    replicas
}

/// Runs commands of a document as the operator of the server, with these settings, and returns what they print.
pub async fn here(commands: &str, settings: &[(&str, &str)]) -> String {
    let tests = std::env::current_exe().unwrap();
    let programs = tests.parent().and_then(Path::parent).unwrap().display();
    let postgres = catbird_server::embedded::programs(None).unwrap();
    let mut shell = Command::new("bash");
    let path = format!("PATH={programs}:{}:$PATH\n{commands}", postgres.display());
    shell.args(["-euo", "pipefail", "-c", &path]).envs(variables(settings)).current_dir(std::env::temp_dir());
    let output = shell.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{commands}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
