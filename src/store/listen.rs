//! A connection of its own for LISTEN and NOTIFY: never one of the pool, and never with a transaction in it. PostgreSQL takes one lock
//! for the whole database when a transaction that notifies commits, so nothing that matters may wait behind it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use super::tls::tls;
use super::{ConnectError, deadline};

/// How long a notification may take to be handed over.
const NOTIFY: Duration = Duration::from_secs(2);
/// Most notifications that wait to be heard; more are dropped, since they say nothing new by then.
const MAX_WAITING: usize = 256;

/// One channel, listened to and spoken on.
pub struct Channel {
    client: Client,
    name: &'static str,
    heard: mpsc::Receiver<String>,
}

/// Opens a connection and listens. Whatever is notified after this returns is heard, unless too much waits.
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
    // A hint that is lost in a crash is no loss, so nobody has to wait for the disk.
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
            Some(Err(cause)) => return tracing::debug!(%cause, "the connection for hints ended"),
            None => return,
        }
    }
}

impl Channel {
    /// The next notification; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<String> {
        self.heard.recv().await
    }

    /// Notifies everybody who listens, this channel included. False if it could not be handed over; then the connection is of no
    /// more use.
    pub async fn notify(&self, payload: &str) -> bool {
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&self.name, &payload];
        let notify = self.client.execute("select pg_notify($1, $2)", &params);
        tokio::time::timeout(NOTIFY, notify).await.is_ok_and(|sent| sent.is_ok())
    }
}
