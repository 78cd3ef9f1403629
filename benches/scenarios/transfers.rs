//! Memory of the server while many blobs of 50 MiB are uploaded at once, and then downloaded at once, with a folder and with a bucket.
//!
//! It prints the memory of the process before, and at its highest, which must not depend on the size of blobs. The service with the bucket
//! runs in this process. `cargo bench -- transfers`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catbird_bench_report::results::{Sample, Who};
use catbird_client::xrpc::{Xrpc, bytes_value};
use catbird_testkit::s3::S3Server;
use futures_util::future::try_join_all;
use futures_util::stream;
use reqwest::Body;
use serde_json::json;

use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::plan::{Plan, Turn};
use crate::support::seed::Convo;
use crate::support::server::Server;
use crate::support::tokens::{SECRET, SERVICE_DID};

pub const NAME: &str = "transfers";

const WHO: Who = Who::Advisory;
/// Transfers at once, each of its own person in a conversation of its own.
const TRANSFERS: u32 = 100;
const BYTES: u32 = 50 << 20;
/// Bytes that a client sends at a time.
const PIECE: usize = 64 * 1024;
/// Interval between two looks at the memory of the server.
const LOOK: Duration = Duration::from_millis(20);
const MIB: f64 = 1_048_576.0;

pub fn time(_: &Plan) -> Duration {
    Duration::from_secs(120)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let (transfers, bytes) = (bench.plan.size(TRANSFERS, 4), u64::from(bench.plan.size(BYTES, 1 << 20)));
    let convos = bench.stage.seed(transfers, 2).await?;
    let service = S3Server::start();
    let bucket = service.settings();
    let bucket: Vec<(&str, &str)> = bucket.iter().map(|(name, value)| (*name, &**value)).collect();
    let folder = std::env::temp_dir().join(format!("catbird-bench-{}", std::process::id()));
    let address = format!("file://{}", folder.display());
    for (store, settings) in [("folder", vec![("BLOB_STORE_URL", &*address)]), ("bucket", bucket)] {
        let server = bench.stage.another_server(WHO, NAME, &settings).await?;
        let members: Vec<Member> = convos.iter().map(|convo| Member::new(&server, convo)).collect::<Result<_>>()?;
        // The first requests make what stays.
        let blob = members[0].upload(bytes).await?;
        members[0].download(&blob, bytes).await?;
        let uploads = async { try_join_all(members.iter().map(|member| member.upload(bytes))).await };
        let (blobs, sample) = watched(&server, uploads).await?;
        record(bench, store, "up", bytes, transfers, sample)?;
        let all = members.iter().zip(&blobs);
        let downloads = async { try_join_all(all.map(|(member, blob)| member.download(blob, bytes))).await };
        let (_, sample) = watched(&server, downloads).await?;
        record(bench, store, "down", bytes, transfers, sample)?;
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// What a group of transfers took.
struct Watched {
    took: Duration,
    idle: f64,
    highest: f64,
}

/// Runs transfers while it looks at the memory of the server.
async fn watched<T>(server: &Server, transfers: impl Future<Output = Result<T>>) -> Result<(T, Watched)> {
    let (pid, idle) = (server.pid(), resident(server.pid())?);
    let (highest, over) = (Arc::new(AtomicU64::new(idle)), Arc::new(AtomicBool::new(false)));
    let looking = {
        let (highest, over) = (highest.clone(), over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                highest.fetch_max(resident(pid).unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        })
    };
    let begin = Instant::now();
    let done = transfers.await;
    let took = begin.elapsed();
    over.store(true, Ordering::Relaxed);
    looking.join().map_err(|_| "the watch of the memory panicked")?;
    let highest = highest.load(Ordering::Relaxed);
    Ok((done?, Watched { took, idle: idle as f64 / MIB, highest: highest as f64 / MIB }))
}

fn record(bench: &mut Bench, store: &str, way: &str, bytes: u64, transfers: u32, watched: Watched) -> Result<()> {
    let Watched { took, idle, highest } = watched;
    let rate = bytes as f64 * f64::from(transfers) / MIB / took.as_secs_f64();
    eprintln!(
        "{NAME}: {transfers} blobs of {} MiB {way}, {store}: {rate:.0} MiB/s, memory {idle:.0} MiB idle, {highest:.0} MiB at its highest, {:.0} MiB more",
        bytes >> 20,
        highest - idle
    );
    let extra = [("memory_idle_mib".to_owned(), idle), ("memory_more_mib".to_owned(), highest - idle)].into();
    let sample = Sample { rate, extra, ..Sample::default() };
    let variant = format!("{store}, {way}");
    let figure = Figure { scenario: NAME, variant: &variant, unit: "MiB/s", note: "" };
    bench.record(&figure, Turn { round: 1, connections: transfers, who: WHO }, sample)
}

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no resident memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// A member of one conversation.
struct Member {
    xrpc: Xrpc,
    convo: String,
}

impl Member {
    fn new(server: &Server, convo: &Convo) -> Result<Self> {
        let base = format!("http://{}", server.address);
        Ok(Self { xrpc: Xrpc::new(&base, &convo.members[0], SECRET, SERVICE_DID)?, convo: convo.id.clone() })
    }

    /// Uploads a blob, and refers to it in a message.
    async fn upload(&self, bytes: u64) -> Result<String> {
        let pieces = bytes.div_ceil(PIECE as u64);
        let piece = move |n: u64| {
            let size = (bytes - n * PIECE as u64).min(PIECE as u64);
            Ok::<_, std::io::Error>(vec![n as u8; size as usize])
        };
        let body = Body::wrap_stream(stream::iter((0..pieces).map(piece)));
        let parameters = [("convoId", self.convo.clone())];
        let reply = self.xrpc.upload("uploadBlob", &parameters, "application/octet-stream", body, bytes).await?;
        if !reply.is_ok() {
            return Err(format!("an upload was refused: {reply}").into());
        }
        let blob = reply.string("blobId")?.to_owned();
        let message =
            json!({"convoId": self.convo, "epoch": 0, "ciphertext": bytes_value(blob.as_bytes()), "blobs": [blob]});
        let sent = self.xrpc.procedure("sendMessage", &message).await?;
        if sent.is_ok() { Ok(blob) } else { Err(format!("a message was refused: {sent}").into()) }
    }

    async fn download(&self, blob: &str, bytes: u64) -> Result<()> {
        let download = self.xrpc.download("getBlob", &[("blobId", blob.to_owned())], &[]).await?;
        let mut download = download.map_err(|refusal| format!("a download was refused: {refusal}"))?;
        let mut arrived = 0;
        while let Some(piece) = download.next().await? {
            arrived += piece.as_ref().len() as u64;
        }
        if arrived == bytes { Ok(()) } else { Err(format!("{arrived} of {bytes} bytes arrived").into()) }
    }
}
