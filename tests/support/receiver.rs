//! Host of a webhook: real HTTP over TCP, which records its requests and answers as the test sets it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Key of signatures in tests.
pub const SECRET: &[u8] = b"thirty-two bytes of test secret!";
/// Maximum time for anything that happens by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answer to a challenge.
#[derive(Debug, Clone)]
pub enum Repeats {
    /// Returns it in an object.
    Object,
    /// Returns it alone.
    Bare,
    /// Returns something else with a good status.
    Otherwise,
    /// Answers like any other request.
    Not(Answer),
}

/// Answer to a request.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16),
    Redirect(String),
    /// 429 with this many seconds to wait.
    Busy(u64),
    /// No answer, for ever.
    Hang,
    /// Bytes that are not HTTP.
    Garbage,
    /// A good status, and a body without end.
    Endless,
    /// Closes the connection without an answer.
    Die,
}

/// A request that was read completely.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Delivery {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn id(&self) -> String {
        self.headers["webhook-id"].clone()
    }

    /// Returns true if it is signed with this key, as in Standard Webhooks.
    pub fn is_signed_with(&self, secret: &[u8]) -> bool {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
        mac.update(format!("{}.{}.", self.headers["webhook-id"], self.headers["webhook-timestamp"]).as_bytes());
        mac.update(&self.body);
        let signature = self.headers["webhook-signature"].strip_prefix("v1,").unwrap();
        mac.verify_slice(&STANDARD.decode(signature).unwrap()).is_ok()
    }
}

/// A running host. It ends with the runtime that started it.
#[derive(Clone)]
pub struct Receiver {
    pub port: u16,
    answer: Arc<Mutex<Answer>>,
    /// Answers that are given first, one each.
    first: Arc<Mutex<Vec<Answer>>>,
    repeats: Arc<Mutex<Repeats>>,
    received: watch::Sender<Vec<Delivery>>,
    challenges: watch::Sender<Vec<Delivery>>,
}

impl Receiver {
    /// Starts a host that answers challenges and accepts everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            port: listener.local_addr().unwrap().port(),
            answer: Arc::new(Mutex::new(Answer::Status(204))),
            first: Arc::default(),
            repeats: Arc::new(Mutex::new(Repeats::Object)),
            received: watch::Sender::default(),
            challenges: watch::Sender::default(),
        };
        let accepting = receiver.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let receiver = accepting.clone();
                tokio::spawn(async move { receiver.serve(connection).await });
            }
        });
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/in", self.port)
    }

    /// Returns the body of setMailbox that names this host.
    pub fn mailbox(&self) -> Value {
        json!({ "provider": "webhook", "url": self.url(), "secret": { "$bytes": STANDARD.encode(SECRET) } })
    }

    /// Sets the answer to challenges.
    pub fn repeat(&self, repeats: Repeats) {
        *self.repeats.lock().unwrap() = repeats;
    }

    /// Returns the challenges received so far.
    pub fn challenges(&self) -> Vec<Delivery> {
        self.challenges.borrow().clone()
    }

    /// Waits for this many challenges, and returns all of them.
    pub async fn have_challenges(&self, most: usize) -> Vec<Delivery> {
        wait_for(&self.challenges, most).await
    }

    /// Sets the answer to everything else.
    pub fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// Sets the answers to the next requests, one each.
    pub fn answer_first(&self, answers: &[Answer]) {
        *self.first.lock().unwrap() = answers.to_vec();
    }

    /// Returns all envelopes received so far.
    pub fn received(&self) -> Vec<Delivery> {
        self.received.borrow().clone()
    }

    /// Returns the ids of the envelopes received so far, repetitions included.
    pub fn ids(&self) -> Vec<String> {
        self.received.borrow().iter().map(Delivery::id).collect()
    }

    /// Waits for this many envelopes, and returns all of them.
    pub async fn have(&self, requests: usize) -> Vec<Delivery> {
        wait_for(&self.received, requests).await
    }

    async fn serve(&self, mut connection: TcpStream) {
        let Some(delivery) = read(&mut connection).await else { return };
        let body = delivery.json();
        if body["type"] != "blue.catbird.mls.mailboxVerification" {
            let answer = {
                let mut first = self.first.lock().unwrap();
                if first.is_empty() { self.answer.lock().unwrap().clone() } else { first.remove(0) }
            };
            self.received.send_modify(|received| received.push(delivery));
            return reply(connection, answer).await;
        }
        self.challenges.send_modify(|challenges| challenges.push(delivery));
        let repeats = self.repeats.lock().unwrap().clone();
        let challenge = body["data"]["challenge"].as_str().unwrap();
        let said = match repeats {
            Repeats::Object => json!({ "challenge": challenge }).to_string(),
            Repeats::Bare => challenge.to_owned(),
            Repeats::Otherwise => json!({ "ok": true }).to_string(),
            Repeats::Not(answer) => return reply(connection, answer).await,
        };
        let text = format!("HTTP/1.1 200 x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{said}", said.len());
        let _ = connection.write_all(text.as_bytes()).await;
        let _ = connection.shutdown().await;
    }
}

/// Waits for this many deliveries, and returns all of them.
async fn wait_for(deliveries: &watch::Sender<Vec<Delivery>>, most: usize) -> Vec<Delivery> {
    let mut there = deliveries.subscribe();
    let enough = there.wait_for(|there| there.len() >= most);
    match tokio::time::timeout(PATIENCE, enough).await {
        Ok(there) => there.unwrap().clone(),
        Err(_) => panic!("{} of {most} came", deliveries.borrow().len()),
    }
}

pub(super) async fn reply(mut connection: TcpStream, answer: Answer) {
    let head = |status: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    let text = match answer {
        Answer::Status(status) => format!("{}content-length: 2\r\n\r\nok", head(&format!("{status} x"))),
        Answer::Busy(seconds) => {
            format!("{}retry-after: {seconds}\r\ncontent-length: 0\r\n\r\n", head("429 x"))
        }
        Answer::Redirect(to) => format!("{}location: {to}\r\ncontent-length: 0\r\n\r\n", head("307 x")),
        Answer::Hang => return std::future::pending().await,
        Answer::Garbage => "\0\x01 no such protocol\r\n\r\n".repeat(100),
        Answer::Endless => {
            let _ = connection.write_all(format!("{}\r\n", head("200 x")).as_bytes()).await;
            while connection.write_all(&[b'x'; 8_192]).await.is_ok() {}
            return;
        }
        Answer::Die => return,
    };
    let text = match text.contains(" 204 ") {
        true => format!("{}\r\n", head("204 x")),
        false => text,
    };
    let _ = connection.write_all(text.as_bytes()).await;
    let _ = connection.shutdown().await;
}

/// Reads one request; `None` if its sender disconnected before its end.
pub(super) async fn read(connection: &mut TcpStream) -> Option<Delivery> {
    let mut bytes = Vec::new();
    loop {
        if connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut fields);
        let httparse::Status::Complete(head) = request.parse(&bytes).unwrap() else { continue };
        assert_eq!(request.method, Some("POST"));
        let path = request.path.unwrap().to_owned();
        let field = |field: &httparse::Header<'_>| {
            (field.name.to_lowercase(), String::from_utf8(field.value.to_vec()).unwrap())
        };
        let headers: HashMap<_, _> = request.headers.iter().map(field).collect();
        let length: usize = headers["content-length"].parse().unwrap();
        while bytes.len() < head + length {
            if connection.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
        return Some(Delivery { path, headers, body: bytes[head..head + length].to_vec() });
    }
}
