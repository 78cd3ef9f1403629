//! Connection for LISTEN and NOTIFY, outside the pool and without transactions. PostgreSQL takes a database-wide lock
//! when a transaction with NOTIFY commits, so no important work may wait behind it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use super::tls::tls;
use super::{ConnectError, deadline};

/// Maximum time to send a notification.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of received notifications that wait. Further ones are dropped; they would say nothing new.
const MAX_WAITING: usize = 256;

/// A channel to listen and notify on.
pub struct Channel {
    client: Client,
    name: &'static str,
    heard: mpsc::Receiver<String>,
}

/// Opens a connection and listens. Every notification after this call returns is received, unless too many wait.
pub async fn listen(database: &Config, name: &'static str) -> Result<Channel, ConnectError> {
    let mut database = database.clone();
    database
        .application_name("catbird-server hints")
        .connect_timeout(deadline::CONNECT)
        .tcp_user_timeout(deadline::TCP_USER)
        .keepalives_idle(deadline::TCP_USER);
    let (told, heard) = mpsc::channel(MAX_WAITING);
    let client = match tls(&database)? {
        Some(tls) => {
            let (client, connection) = database.connect(tls).await?;
            tokio::spawn(drive(connection, told));
            client
        }
        None => {
            let (client, connection) = database.connect(NoTls).await?;
            tokio::spawn(drive(connection, told));
            client
        }
    };
    // A notification may be lost in a crash, so it need not wait for the disk.
    client.batch_execute(&format!("set synchronous_commit = off; listen \"{name}\"")).await?;
    Ok(Channel { client, name, heard })
}

async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, told: mpsc::Sender<String>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(heard))) => drop(told.try_send(heard.payload().to_owned())),
            Some(Ok(_)) => {}
            Some(Err(cause)) => return tracing::debug!(%cause, "the connection for notifications ended"),
            None => return,
        }
    }
}

impl Channel {
    /// Returns the next notification; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<String> {
        self.heard.recv().await
    }

    /// Notifies all listeners, this channel included. Returns false if sending failed; the connection is then unusable.
    pub async fn notify(&self, payload: &str) -> bool {
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&self.name, &payload];
        let notify = self.client.execute("select pg_notify($1, $2)", &params);
        tokio::time::timeout(NOTIFY_TIMEOUT, notify).await.is_ok_and(|sent| sent.is_ok())
    }
}
