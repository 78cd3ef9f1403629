//! A service with the API of S3, for one test: `s3s-fs` behind real HTTP on loopback, with its objects in a folder. It verifies
//! signatures, those of signed addresses as well, and can be killed, resumed with its objects, and made to fail.

mod faults;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http::Method;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use ulid::Ulid;

use crate::port::Port;

pub use faults::Fault;

/// The key that it knows.
const KEY: (&str, &str) = ("an-access-key-of-tests", "its/secret+that-only-tests-use");
/// The bucket that it has.
const BUCKET: &str = "catbird-tests";
/// Maximum time until requests come.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// A running service. It ends with this value.
pub struct S3Server {
    port: Port,
    dir: PathBuf,
    state: Arc<State>,
    runtime: Option<Runtime>,
}

/// What a test sets and sees.
#[derive(Default)]
struct State {
    fault: Mutex<Fault>,
    /// The only requests that it is for, if not for all.
    method: Mutex<Option<Method>>,
    /// Faults of the next requests that it is for, one each.
    first: Mutex<Vec<Fault>>,
    /// Requests so far, as `GET /bucket/name`.
    requests: watch::Sender<Vec<String>>,
}

impl State {
    /// Notes a request, and returns what is to go wrong with it.
    fn take(&self, method: &Method, path: &str) -> Fault {
        self.requests.send_modify(|requests| requests.push(format!("{method} {path}")));
        if self.method.lock().unwrap().as_ref().is_some_and(|only| only != method) {
            return Fault::None;
        }
        let mut first = self.first.lock().unwrap();
        if first.is_empty() { *self.fault.lock().unwrap() } else { first.remove(0) }
    }
}

impl S3Server {
    /// Starts a service with an empty bucket.
    pub fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("catbird-s3-{}", Ulid::new()));
        std::fs::create_dir_all(dir.join(BUCKET)).unwrap();
        let mut server = Self { port: Port::reserve(), dir, state: Arc::default(), runtime: None };
        server.resume();
        server
    }

    /// Kills it: connections are cut, requests in progress end where they are.
    pub fn kill(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // On a thread of its own, because this one may be driving the test's runtime.
        std::thread::spawn(move || runtime.shutdown_timeout(PATIENCE)).join().unwrap();
    }

    /// Starts it again, with its objects and on its port.
    pub fn resume(&mut self) {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut service = S3ServiceBuilder::new(FileSystem::new(&self.dir).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY.0, KEY.1));
        let (service, state, port) = (service.build(), self.state.clone(), self.port.number());
        let listener = std::thread::scope(|scope| {
            let binding = scope.spawn(|| runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port))));
            binding.join().unwrap().unwrap()
        });
        runtime.spawn(serve(listener, service, state));
        self.runtime = Some(runtime);
    }

    /// URL of the service.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Settings of a server that keeps its blobs here.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("BLOB_STORE_URL", format!("s3://{BUCKET}/some/prefix")),
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", KEY.0.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", KEY.1.to_owned()),
        ]
    }

    /// File with the bytes of an object, for a test that takes some away.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(BUCKET).join("some/prefix").join(name)
    }

    /// Sets what goes wrong with each request.
    pub fn fail(&self, fault: Fault) {
        *self.state.method.lock().unwrap() = None;
        *self.state.fault.lock().unwrap() = fault;
    }

    /// Sets what goes wrong with each request of this method, such as `PUT`.
    pub fn fail_at(&self, method: &str, fault: Fault) {
        *self.state.method.lock().unwrap() = Some(method.parse().unwrap());
        *self.state.fault.lock().unwrap() = fault;
    }

    /// Sets what goes wrong with the next requests, one each.
    pub fn fail_first(&self, faults: &[Fault]) {
        *self.state.first.lock().unwrap() = faults.to_vec();
    }

    /// Returns the requests so far, as `GET /bucket/name`.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.borrow().clone()
    }

    /// Waits for this many requests since the start.
    pub async fn has_requests(&self, count: usize) {
        let mut requests = self.state.requests.subscribe();
        let enough = requests.wait_for(|requests| requests.len() >= count);
        tokio::time::timeout(PATIENCE, enough).await.expect("the requests came").unwrap();
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn serve(listener: TcpListener, service: S3Service, state: Arc<State>) {
    while let Ok((connection, _)) = listener.accept().await {
        let (service, state) = (service.clone(), state.clone());
        let _ = connection.set_nodelay(true);
        tokio::spawn(async move {
            let answering = service_fn(|request| faults::answer(&service, &state, request));
            // A fault ends the connection.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), answering).await;
        });
    }
}
