//! A host of DID documents on loopback, for did:plc and did:web. Each path answers as the test has set it, correctly or
//! not, and requests are counted.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use actix_web::dev::ServerHandle;
use actix_web::http::{StatusCode, header};
use actix_web::web::Data;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::Value;
use tokio::sync::Notify;

/// Answer at a path.
#[derive(Debug, Clone)]
pub enum Answer {
    Document(Value),
    Body(Vec<u8>),
    Status(u16),
    Redirect(String),
    /// 429 with this many seconds to wait.
    Busy(u64),
    /// No answer, for ever.
    Hang,
    /// The document, after [`Directory::release`].
    Held(Value),
}

#[derive(Default)]
struct Pages {
    answers: Mutex<HashMap<String, Answer>>,
    hits: Mutex<HashMap<String, usize>>,
    asked: Notify,
    release: Notify,
}

/// A running host. It ends with this value.
pub struct Directory {
    pub port: u16,
    pages: Arc<Pages>,
    server: ServerHandle,
}

impl Directory {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let pages = Arc::new(Pages::default());
        let shared = Data::from(pages.clone());
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let app = move || App::new().app_data(shared.clone()).default_service(web::to(answer));
                let server = HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap().run();
                tell.send(server.handle()).unwrap();
                server.await.unwrap();
            });
        });
        Self { port, pages, server: told.recv().unwrap() }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets the answer at a path such as `/did:plc:abc` or `/.well-known/did.json`.
    pub fn put(&self, path: &str, answer: Answer) {
        self.pages.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// Counts the requests for a path.
    pub fn hits(&self, path: &str) -> usize {
        self.pages.hits.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// Waits for the next request.
    pub async fn asked(&self) {
        self.pages.asked.notified().await;
    }

    /// Releases all requests that wait for [`Answer::Held`].
    pub fn release(&self) {
        self.pages.release.notify_waiters();
        self.pages.release.notify_one();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // The call sends the command; the future would only wait for its end.
        drop(self.server.stop(false));
    }
}

async fn answer(request: HttpRequest, pages: Data<Pages>) -> HttpResponse {
    let path = request.path().to_owned();
    *pages.hits.lock().unwrap().entry(path.clone()).or_default() += 1;
    pages.asked.notify_one();
    let answer = pages.answers.lock().unwrap().get(&path).cloned().unwrap_or(Answer::Status(404));
    match answer {
        Answer::Document(document) => HttpResponse::Ok().json(document),
        Answer::Body(body) => HttpResponse::Ok().content_type("application/json").body(body),
        Answer::Status(status) => HttpResponse::new(StatusCode::from_u16(status).unwrap()),
        Answer::Redirect(to) => HttpResponse::Found().insert_header((header::LOCATION, to)).finish(),
        Answer::Busy(seconds) => HttpResponse::TooManyRequests().insert_header((header::RETRY_AFTER, seconds)).finish(),
        Answer::Hang => std::future::pending().await,
        Answer::Held(document) => {
            pages.release.notified().await;
            HttpResponse::Ok().json(document)
        }
    }
}
