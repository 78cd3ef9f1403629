//! Replicas, and clients that go on with something while an alert is awaited.

use std::future::Future;
use std::time::{Duration, Instant};

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::bytes_value;
use catbird_testkit::app::validated;
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::port::Port;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// Maximum time until something happens by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A replica that keeps its address when it is started again.
pub struct Stable {
    pub replica: Replica,
    port: Port,
}

impl Stable {
    pub async fn start(mode: Mode, database_url: &str, settings: &[(&str, &str)]) -> Self {
        Self::at(Port::reserve(), mode, database_url, settings).await
    }

    /// Stops the replica in good order and starts it with these settings.
    pub async fn restart(self, mode: Mode, database_url: &str, settings: &[(&str, &str)]) -> Self {
        let Self { replica, port } = self;
        replica.terminate().await;
        Self::at(port, mode, database_url, settings).await
    }

    /// Starts a replica that was killed.
    pub async fn revive(self, mode: Mode, database_url: &str, settings: &[(&str, &str)]) -> Self {
        Self::at(self.port, mode, database_url, settings).await
    }

    async fn at(port: Port, mode: Mode, database_url: &str, settings: &[(&str, &str)]) -> Self {
        let replica =
            Replica::start(mode, database_url, &[settings, &[("SERVER_PORT", &port.to_string())]].concat()).await;
        Self { replica, port }
    }
}

/// Clients that repeat something. They end with this value.
pub struct Clients(JoinSet<()>);

impl Clients {
    /// Starts clients that repeat `request` with a pause after each. It gets the number of its client.
    pub fn start<F>(clients: usize, pause: Duration, request: impl Fn(usize) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut running = JoinSet::new();
        for client in 0..clients {
            let request = request.clone();
            running.spawn(async move {
                loop {
                    request(client).await;
                    tokio::time::sleep(pause).await;
                }
            });
        }
        Self(running)
    }

    /// Panics if a client has.
    pub async fn end(mut self) {
        while let Some(ended) = self.0.try_join_next() {
            ended.unwrap();
        }
        self.0.shutdown().await;
    }
}

/// Waits for a condition.
pub async fn until(what: &str, mut come: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !come().await {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a replica has logged a text.
pub async fn logged(replica: &Replica, text: &str) -> String {
    let line = || replica.log().into_iter().find(|line| line.contains(text));
    until(text, async || line().is_some()).await;
    line().unwrap()
}

/// Creates a conversation of `n` at a replica: its creator first.
pub async fn conversation(base: &str, n: usize) -> Vec<Persona> {
    let mut members: Vec<Persona> = (0..n).map(|_| Persona::new(validated(base, &random_did()))).collect();
    for member in &members {
        member.publish_key_packages(2).await.unwrap();
    }
    let (creator, others) = members.split_first_mut().unwrap();
    creator.create(random_did().as_bytes(), "alerts").await.unwrap();
    if !others.is_empty() {
        let dids: Vec<&str> = others.iter().map(|other| other.did()).collect();
        creator.add(&dids).await.unwrap();
        let convo = creator.convo().unwrap().to_owned();
        for other in others {
            other.join(&convo).await.unwrap();
            other.catch_up().await.unwrap();
        }
        creator.catch_up().await.unwrap();
    }
    members
}

/// Returns the id of a session.
pub async fn pid(db: &Client) -> String {
    db.query_one("select pg_backend_pid()::text", &[]).await.unwrap().get(0)
}

/// Builds an opaque message.
pub fn message(sender: &Persona) -> Value {
    json!({
        "convoId": sender.convo().unwrap(), "ciphertext": bytes_value(b"opaque"), "epoch": sender.epoch().unwrap(),
        "senderDid": sender.did(),
    })
}

/// Starts clients that each send to a conversation without regard to the replies.
pub fn senders(members: &[Persona], clients: usize, pause: Duration) -> Clients {
    let requests: Vec<_> = members.iter().map(|member| (member.xrpc.clone(), message(member))).collect();
    Clients::start(clients, pause, move |client| {
        let (xrpc, body) = requests[client % requests.len()].clone();
        async move { drop(xrpc.procedure("sendMessage", &body).await) }
    })
}

/// Starts clients that each list their conversations.
pub fn readers(members: &[Persona], clients: usize, pause: Duration) -> Clients {
    let connections: Vec<_> = members.iter().map(|member| member.xrpc.clone()).collect();
    Clients::start(clients, pause, move |client| {
        let xrpc = connections[client % connections.len()].clone();
        async move { drop(xrpc.query("getConvos", &[]).await) }
    })
}

/// Makes each insertion into `messages` run this PL/pgSQL statement first, until [`mend_inserts`].
pub async fn break_inserts(db: &Client, condition: &str, statement: &str) {
    let fault = format!(
        "create function fault() returns trigger language plpgsql as $$ begin {statement}; return new; end $$;
         create trigger fault before insert on messages for each row {condition} execute function fault()"
    );
    db.batch_execute(&fault).await.unwrap();
}

pub async fn mend_inserts(db: &Client) {
    db.batch_execute("drop trigger fault on messages").await.unwrap();
}
