//! Uploads and downloads on the wire: conditions and ranges (RFC 9110), lengths, tokens, hang-ups, how many are in progress, at what
//! rate they pass, and what becomes of them when the server stops.

use std::time::{Duration, Instant};

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::xrpc::{Download, Reply, nsid};
use catbird_server::limits::{MAX_DOWNLOADS_OF_ONE, MAX_UPLOADS_OF_ONE};
use catbird_testkit::app::TestApp;
use catbird_testkit::cluster::blob_folder;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::*;

any_serializer! {
    a_download_is_whole_or_a_part_or_what_the_client_has_already;
    an_upload_announces_its_length_and_is_taken_as_it_is;
    a_token_is_used_before_the_body_of_an_upload_is_read;
    p10_one_caller_has_a_few_uploads_in_progress_and_hanging_up_ends_them;
    p10_one_caller_has_a_few_downloads_in_progress_and_hanging_up_ends_them;
    p10_the_bytes_of_both_pass_at_their_callers_rate with ("RATE_LIMIT_PER_DID", "15");
    a_download_that_the_store_cuts_is_incomplete_for_its_client;
    a_download_may_be_sent_elsewhere;
    an_upload_in_progress_is_finished_when_the_server_stops;
}

/// Maximum time for what happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes that differ from their neighbours.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8 ^ (n >> 16) as u8).collect()
}

/// Uploads a blob and sends a message that refers to it. Returns its id.
async fn shared(member: &Persona, bytes: &[u8]) -> String {
    let reply = ok(upload(member, "uploadBlob", &[("convoId", &convo(member))], bytes).await);
    assert_eq!(reply.body["sha256"], sha256_hex(bytes), "{reply}");
    let blob = reply.string("blobId").unwrap().to_owned();
    ok(ask(member, "sendMessage", &with(&message(member, b"look"), json!({ "blobs": [&blob] }))).await);
    blob
}

async fn get_blob(member: &Persona, blob: &str, headers: &[(&'static str, &str)]) -> Result<Download, Reply> {
    download(member, "getBlob", &[("blobId", blob)], headers).await
}

/// Returns the value of a metric.
async fn metric(base: &str, name: &str) -> f64 {
    let http = catbird_client::xrpc::http().unwrap();
    let text = http.get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn until(what: &str, mut come: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !come().await {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sends the head of a call, through a socket that takes few bytes ahead.
async fn begin(base: &str, token: &str, verb: &str, method: &str, query: &str, headers: &str) -> TcpStream {
    let (nsid, address) = (nsid(method), base.trim_start_matches("http://").parse().unwrap());
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let mut socket = socket.connect(address).await.unwrap();
    let head =
        format!("{verb} /xrpc/{nsid}?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{headers}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

async fn begin_upload(base: &str, member: &Persona, headers: &str) -> TcpStream {
    let token = member.xrpc.token(&nsid("uploadBlob"));
    begin(base, &token, "POST", "uploadBlob", &format!("convoId={}", convo(member)), headers).await
}

async fn begin_download(base: &str, member: &Persona, verb: &str, blob: &str, headers: &str) -> TcpStream {
    let token = member.xrpc.token(&nsid("getBlob"));
    begin(base, &token, verb, "getBlob", &format!("blobId={blob}"), headers).await
}

/// Returns the status and the body of a reply with a length.
async fn answer(socket: &mut TcpStream) -> (u16, Value) {
    let mut text = Vec::new();
    let read = async {
        loop {
            assert!(socket.read_buf(&mut text).await.unwrap() > 0, "no reply: {}", String::from_utf8_lossy(&text));
            let text = String::from_utf8_lossy(&text);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            if let Ok(body) = serde_json::from_str(body) {
                return (head[9..12].parse().unwrap(), body);
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("a reply")
}

async fn a_download_is_whole_or_a_part_or_what_the_client_has_already(app: &TestApp) {
    let members = app.conversation(2).await;
    let bytes = content(200_000);
    let blob = shared(&members[0], &bytes).await;
    let reader = &members[1];
    let own = format!("\"{}\"", sha256_hex(&bytes));
    let own = own.as_str();
    // The harness checks the headers that all have in common. Encodings are not applied.
    for (headers, part) in [
        (vec![("accept-encoding", "gzip")], None),
        (vec![("range", "bytes=0-0")], Some(0..1)),
        (vec![("range", "bytes=65530-131080"), ("accept-encoding", "gzip")], Some(65_530..131_081)),
        (vec![("range", "bytes=199999-")], Some(199_999..200_000)),
        (vec![("range", "bytes=100000-999999999")], Some(100_000..200_000)),
        (vec![("range", "bytes=-70000")], Some(130_000..200_000)),
        (vec![("range", "bytes=0-")], Some(0..200_000)),
        (vec![("range", "bytes=0-1,5-6")], None),
        (vec![("range", "bytes=6-5")], None),
        (vec![("range", "lines=0-1")], None),
        (vec![("range", "bytes=5-6"), ("if-range", own)], Some(5..7)),
        (vec![("range", "bytes=5-6"), ("if-range", "\"other\"")], None),
        (vec![("range", "bytes=5-6"), ("if-range", "Sat, 29 Oct 1994 19:43:31 GMT")], None),
        (vec![("range", "bytes=5-6"), ("if-none-match", "\"other\"")], Some(5..7)),
    ] {
        let got = get_blob(reader, &blob, &headers).await.unwrap_or_else(|refusal| panic!("{headers:?}: {refusal}"));
        let head = (got.status, got.headers.get("content-range").map(|range| range.to_str().unwrap().to_owned()));
        let place = part.clone().map(|part| format!("bytes {}-{}/200000", part.start, part.end - 1));
        assert_eq!(head, (if part.is_some() { 206 } else { 200 }, place), "{headers:?}");
        assert_eq!(got.headers["etag"], own);
        let part = part.unwrap_or(0..bytes.len());
        assert_eq!(got.headers["content-length"], part.len().to_string(), "{headers:?}");
        assert!(got.bytes().await.unwrap() == bytes[part], "{headers:?}");
    }
    for names in [own, "*", "W/\"other\", W/\"x\"".replace('x', own.trim_matches('"')).as_str()] {
        let had = get_blob(reader, &blob, &[("if-none-match", names), ("range", "bytes=999999-")]).await.unwrap();
        assert_eq!((had.status, &had.headers["etag"]), (304, &own.parse().unwrap()), "{names}");
        assert!(had.bytes().await.unwrap().is_empty());
    }
    for range in ["bytes=200000-", "bytes=200000-200001", "bytes=-0"] {
        let refusal = get_blob(reader, &blob, &[("range", range)]).await.err().unwrap();
        let refusal = refused(refusal, 416, "RangeNotSatisfiable");
        assert_eq!(
            (&refusal.headers["content-range"], &refusal.body["recovery"]),
            (&"bytes */200000".parse().unwrap(), &json!("giveUp"))
        );
    }
    // HEAD has no range, and asks nothing of the store.
    let store = blob_folder(&app.database.config);
    std::fs::rename(store.join("blobs"), store.join("elsewhere")).unwrap();
    for (headers, status, length) in [("Range: bytes=5-6", 200, "200000"), (&*format!("If-None-Match: {own}"), 304, "")]
    {
        let headers = format!("{headers}\r\nConnection: close\r\n");
        let mut socket = begin_download(&app.base, reader, "HEAD", &blob, &headers).await;
        let mut head = String::new();
        socket.read_to_string(&mut head).await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && head.ends_with("\r\n\r\n"), "{head}");
        let found = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or_default();
        assert_eq!(found, length, "{head}");
        assert!(head.contains(&format!("etag: {own}\r\n")), "{head}");
    }
    refused(get_blob(reader, &blob, &[]).await.err().unwrap(), 503, "BlobStoreUnavailable");
    let _ = std::fs::remove_dir(store.join("blobs"));
    std::fs::rename(store.join("elsewhere"), store.join("blobs")).unwrap();
}

async fn an_upload_announces_its_length_and_is_taken_as_it_is(app: &TestApp) {
    let members = app.conversation(1).await;
    let alice = &members[0];
    // Each is answered although its body does not come.
    for (headers, status, error) in [
        ("", 400, "InvalidRequest"),
        ("Transfer-Encoding: chunked\r\n", 400, "InvalidRequest"),
        ("Content-Length: 52428801\r\n", 413, "BlobTooLarge"),
        ("Content-Length: 18446744073709551615\r\n", 413, "BlobTooLarge"),
        ("Content-Length: 5\r\nContent-Encoding: gzip\r\n", 400, "InvalidRequest"),
        ("Content-Length: 5\r\nContent-Type: nothing\r\n", 400, "InvalidRequest"),
        (&*format!("Content-Length: 5\r\nContent-Type: text/{}\r\n", "x".repeat(251)), 400, "InvalidRequest"),
    ] {
        let mut socket = begin_upload(&app.base, alice, headers).await;
        let (told, body) = answer(&mut socket).await;
        assert_eq!((told, &body["error"]), (status, &json!(error)), "{headers}: {body}");
    }
    // A client that sends less than it announced and waits is told.
    let mut socket = begin_upload(&app.base, alice, "Content-Length: 100000\r\n").await;
    socket.write_all(&content(70_000)).await.unwrap();
    socket.shutdown().await.unwrap();
    let (told, body) = answer(&mut socket).await;
    assert_eq!((told, &body["error"]), (400, &json!("InvalidRequest")), "{body}");
    assert!(body["message"].as_str().unwrap().contains("incomplete"), "{body}");
    let stored =
        app.database.connect().await.query("select from blobs where stored_at is not null", &[]).await.unwrap();
    assert!(stored.is_empty());

    // Bytes beyond the announced ones are the next request. The media type may be any, and the body may come in any pieces.
    let bytes = content(150_000);
    let headers = "Content-Length: 150000\r\nContent-Type: Image/PNG; q=\"a b\"\r\nContent-Encoding: identity\r\n";
    let mut socket = begin_upload(&app.base, alice, headers).await;
    for piece in bytes.chunks(49_999) {
        socket.write_all(piece).await.unwrap();
    }
    socket.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut replies = String::new();
    socket.read_to_string(&mut replies).await.unwrap();
    assert!(replies.contains(&sha256_hex(&bytes)) && replies.matches("HTTP/1.1 200 ").count() == 2, "{replies}");
    // So may a client send it that makes it on the way.
    let pieces = bytes.chunks(7_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect::<Vec<_>>();
    let body = reqwest::Body::wrap_stream(stream::iter(pieces));
    let parameters = [("convoId", convo(alice))];
    let reply = alice.xrpc.upload("uploadBlob", &parameters, "image/png", body, 150_000).await.unwrap();
    assert_eq!(ok(reply).body["sha256"], sha256_hex(&bytes));
}

async fn a_token_is_used_before_the_body_of_an_upload_is_read(app: &TestApp) {
    let members = app.conversation(1).await;
    let xrpc = &members[0].xrpc;
    let nsid = nsid("uploadBlob");
    let token = xrpc.token(&nsid);
    let send = async |query: &[(&str, String)], body: &'static [u8]| {
        let request = xrpc.http.post(xrpc.url(&nsid, query)).bearer_auth(&token).body(body);
        xrpc.send(&nsid, request).await.unwrap()
    };
    let parameters = [("convoId", convo(&members[0]))];
    refused(send(&[], b"x").await, 400, "InvalidRequest");
    let query = format!("convoId={}", convo(&members[0]));
    let mut first = begin(&app.base, &token, "POST", "uploadBlob", &query, "Content-Length: 5\r\n").await;
    let progress = async || metric(&app.base, "transfers_open{kind=\"upload\"}").await == 1.0;
    until("the upload in progress", progress).await;
    let replayed = refused(send(&parameters, b"x").await, 401, "TokenReplayed");
    assert_eq!(replayed.body["recovery"], "retrySame");
    first.write_all(b"bytes").await.unwrap();
    assert_eq!(answer(&mut first).await.0, 200);
}

/// Opens as many transfers as one caller may have, checks that another one is refused to it and not to others, and that they end with
/// their connections.
async fn a_few_in_progress(app: &TestApp, kind: &str, most: usize, open: impl AsyncFn(usize) -> TcpStream) {
    let progress = async || metric(&app.base, &format!("transfers_open{{kind=\"{kind}\"}}")).await as usize;
    let mut sockets = Vec::new();
    for _ in 0..most {
        sockets.push(open(0).await);
    }
    until("all transfers in progress", async || progress().await == most).await;
    let (status, body) = answer(&mut open(0).await).await;
    assert_eq!(
        (status, &body["error"], &body["retryAfterMs"]),
        (429, &json!("RateLimitExceeded"), &json!(1_000)),
        "{body}"
    );
    let refusals = format!("transfers_refused_total{{kind=\"{kind}\",share=\"caller\"}}");
    assert_eq!(metric(&app.base, &refusals).await, 1.0);
    sockets.push(open(1).await);
    until("that of another caller", async || progress().await == most + 1).await;
    drop(sockets);
    until("the end of all transfers", async || progress().await == 0).await;
}

async fn p10_one_caller_has_a_few_uploads_in_progress_and_hanging_up_ends_them(app: &TestApp) {
    let members = app.conversation(2).await;
    let open = async |who: usize| {
        let mut socket = begin_upload(&app.base, &members[who], "Content-Length: 2000000\r\n").await;
        // So much that the rest has time to come. It may be refused before the server has read all of this.
        let _ = socket.write_all(&content(1_000_000)).await;
        socket
    };
    a_few_in_progress(app, "upload", MAX_UPLOADS_OF_ONE, open).await;
    assert_eq!(shared(&members[0], b"the next one").await.len(), 32);
}

async fn p10_one_caller_has_a_few_downloads_in_progress_and_hanging_up_ends_them(app: &TestApp) {
    let members = app.conversation(2).await;
    // More than the kernels keep for a client that does not read.
    let bytes = content(12 << 20);
    let blob = shared(&members[0], &bytes).await;
    let open = async |who: usize| begin_download(&app.base, &members[who], "GET", &blob, "").await;
    a_few_in_progress(app, "download", MAX_DOWNLOADS_OF_ONE, open).await;
    assert!(get_blob(&members[0], &blob, &[]).await.ok().unwrap().bytes().await.unwrap() == bytes);
}

async fn wait_as_told(refusal: &Reply) {
    assert_eq!(refusal.status, 429, "{refusal}");
    tokio::time::sleep(refusal.retry_after().unwrap()).await;
}

/// Repeats a request while its caller is over its rate.
async fn patiently(send: impl AsyncFn() -> Reply) -> Reply {
    loop {
        match send().await {
            refusal if refusal.status == 429 => wait_as_told(&refusal).await,
            reply => return reply,
        }
    }
}

async fn p10_the_bytes_of_both_pass_at_their_callers_rate(app: &TestApp) {
    let members = app.conversation(1).await;
    let alice = &members[0];
    // Twenty units, less half a unit that is free.
    let bytes = content(20 * 128 * 1024);
    let charged = async || metric(&app.base, "request_cost_units_total{for=\"bytes\"}").await;
    let begun = Instant::now();
    // PostgreSQL's time is charged too, and a slow machine uses up more of the rate with it.
    let blob = ok(patiently(async || upload(alice, "uploadBlob", &[("convoId", &convo(alice))], &bytes).await).await);
    let blob = blob.string("blobId").unwrap();
    assert!((19.0..20.5).contains(&charged().await), "{}", charged().await);
    let body = with(&message(alice, b"look"), json!({ "blobs": [blob] }));
    ok(patiently(async || ask(alice, "sendMessage", &body).await).await);
    let get = async |headers: &[(&'static str, &str)]| {
        loop {
            match get_blob(alice, blob, headers).await {
                Ok(got) => return (got.status, got.bytes().await.unwrap()),
                Err(refusal) => wait_as_told(&refusal).await,
            }
        }
    };
    assert!(get(&[]).await == (200, bytes.clone()));
    // Half of a burst is 15 units.
    assert!(begun.elapsed() > Duration::from_secs_f64((39.0 - 15.0 - 1.0) / 15.0), "{:?}", begun.elapsed());
    until("the charge of what is left", async || (38.5..40.5).contains(&charged().await)).await;
    let own = format!("\"{}\"", sha256_hex(&bytes));
    assert_eq!(get(&[("if-none-match", &own)]).await.0, 304);
    assert_eq!(get(&[("range", "bytes=0-9")]).await, (206, bytes[..10].to_vec()));
    assert!((38.5..40.5).contains(&charged().await), "{}", charged().await);
}

async fn a_download_that_the_store_cuts_is_incomplete_for_its_client(app: &TestApp) {
    let members = app.conversation(1).await;
    let bytes = content(300_000);
    let blob = shared(&members[0], &bytes).await;
    let file = blob_folder(&app.database.config).join("blobs").join(&blob[..2]).join(&blob);
    let right = std::fs::read(&file).unwrap();
    // The first bytes are sent before the last ones turn out to be wrong.
    let wrong = [&right[..right.len() - 1], b"?"].concat();
    std::fs::write(&file, &wrong).unwrap();
    let mut got = get_blob(&members[0], &blob, &[]).await.ok().unwrap();
    assert_eq!((got.status, &got.headers["content-length"]), (200, &"300000".parse().unwrap()));
    let mut come = 0;
    let error = loop {
        match got.next().await {
            Ok(Some(piece)) => come += piece.as_ref().len(),
            Ok(None) => panic!("it looks complete after {come} bytes"),
            Err(error) => break error,
        }
    };
    assert!(come < bytes.len(), "{error}");
    assert_eq!(metric(&app.base, "downloads_cut_total").await, 1.0);
    until("the end of the transfer", async || metric(&app.base, "transfers_open{kind=\"download\"}").await == 0.0)
        .await;
    std::fs::write(&file, &right).unwrap();
    assert!(get_blob(&members[0], &blob, &[]).await.ok().unwrap().bytes().await.unwrap() == bytes);
}

async fn a_download_may_be_sent_elsewhere(app: &TestApp) {
    let members = app.conversation(1).await;
    let bytes = content(1_000);
    let blob = shared(&members[0], &bytes).await;
    let settings = [
        ("BLOB_STORE_URL", "s3://blobs"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        ("BLOB_REDIRECT", "true"),
    ];
    let there = Beside::with(app, &settings).await;
    let mut alice = Persona::new(there.xrpc(&members[0]));
    alice.xrpc.http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let sent = get_blob(&alice, &blob, &[("range", "bytes=5-6")]).await.err().unwrap();
    assert_eq!(sent.status, 307, "{sent}");
    let address = sent.headers["location"].to_str().unwrap();
    assert!(address.starts_with("http://127.0.0.1:1/") && address.contains(&blob), "{address}");
    // What the client has already is not sent from there either.
    let own = format!("\"{}\"", sha256_hex(&bytes));
    assert_eq!(get_blob(&alice, &blob, &[("if-none-match", &own)]).await.ok().unwrap().status, 304);
    refused(get_blob(&alice, &blob, &[("range", "bytes=1000-")]).await.err().unwrap(), 416, "RangeNotSatisfiable");
    there.stop().await;
}

async fn an_upload_in_progress_is_finished_when_the_server_stops(app: &TestApp) {
    let members = app.conversation(1).await;
    let bytes = content(300_000);
    let blob = shared(&members[0], &bytes).await;
    let there = Beside::start(app, false).await;
    let base = there.base().to_owned();
    let mut arriving = begin_upload(&base, &members[0], "Content-Length: 300000\r\n").await;
    arriving.write_all(&bytes[..200_000]).await.unwrap();
    let progress = async || metric(&base, "transfers_open{kind=\"upload\"}").await == 1.0;
    until("the upload in progress", progress).await;
    let mut leaving = begin_download(&base, &members[0], "GET", &blob, "").await;
    let mut first = [0; 100];
    leaving.read_exact(&mut first).await.unwrap();
    let stopping = tokio::spawn(there.stop());
    let address = base.trim_start_matches("http://").to_owned();
    until("the end of new connections", async || TcpStream::connect(&address).await.is_err()).await;
    assert!(!stopping.is_finished());
    let mut rest = Vec::new();
    leaving.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(&bytes), "{} bytes", rest.len());
    arriving.write_all(&bytes[200_000..]).await.unwrap();
    let (status, body) = answer(&mut arriving).await;
    assert_eq!((status, &body["sha256"]), (200, &json!(sha256_hex(&bytes))), "{body}");
    stopping.await.unwrap();
}
