//! Clients that send nearly all of a large body, and then nothing.

use catbird_client::random_did;
use catbird_client::xrpc::nsid;
use catbird_testkit::app::validated;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Bodies that are arriving. They end with this value.
pub struct Uploads(#[expect(dead_code, reason = "the connections are kept open")] Vec<TcpStream>);

impl Uploads {
    /// Sends this many bodies but for their last byte, each by an account of its own. Returns when all have been taken.
    pub async fn start(base: &str, bodies: usize, bytes: usize) -> Self {
        let mut sending = JoinSet::new();
        for _ in 0..bodies {
            let base = base.to_owned();
            sending.spawn(async move { send(&base, bytes).await });
        }
        Self(sending.join_all().await)
    }
}

async fn send(base: &str, bytes: usize) -> TcpStream {
    let xrpc = validated(base, &random_did());
    let method = nsid("sendMessage");
    let head = format!(
        "POST /xrpc/{method} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        xrpc.token(&method),
        bytes + 1
    );
    let mut connection = TcpStream::connect(base.trim_start_matches("http://")).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    // A refusal closes the connection before all is sent.
    let _ = connection.write_all(&vec![b' '; bytes]).await;
    connection
}
