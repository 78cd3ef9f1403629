//! P4, P10: a blob store that is down, hangs, fails, lies or is slow is reported in time and without its reasons, loses nothing that
//! was acknowledged, and is used again as soon as it works.

use std::ops::Range;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use actix_web::web::Bytes;
use catbird_server::config::Config;
use catbird_server::error::{Code, Error};
use catbird_server::metrics::{Page, Registry};
use catbird_server::objects::{ObjectMetrics, Objects, STALL_TIME};
use catbird_testkit::s3::{Fault, S3Server};
use futures_util::TryStreamExt;

/// More than the buffers between the two ends of a connection.
const LARGE: usize = 16 * 1024 * 1024;
/// The bytes of objects. They are made once, because a debug build needs most of a second for it, which is no time of the store.
static BYTES: LazyLock<Bytes> =
    LazyLock::new(|| (0..LARGE).map(|n| (n / 7 + n / 65_536) as u8).collect::<Vec<_>>().into());
/// Time of an answer when the store fails at once: three attempts, and the waits between them.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Time of an answer when the store says nothing, below the time that a request has.
const IN_TIME: Duration = Duration::from_millis(8_400);

/// A service with one object, and a client of it.
struct Setting {
    service: S3Server,
    objects: Objects,
    metrics: Page,
}

impl Setting {
    async fn new() -> Self {
        let service = S3Server::start();
        let config = Config::from_variables(service.settings()).unwrap();
        let mut registry = Registry::default();
        let objects = Objects::open(&config.blob_store, ObjectMetrics::register(&mut registry)).unwrap();
        objects.put("blobs/old", bytes(LARGE)).await.unwrap();
        Self { service, objects, metrics: Page::new(registry) }
    }

    /// Requests of this method since the start.
    fn requests(&self, method: &str) -> usize {
        self.service.requests().iter().filter(|request| request.starts_with(method)).count()
    }

    async fn still_has_its_object(&self) {
        assert!(read(&self.objects, "blobs/old", None).await.unwrap() == bytes(LARGE));
    }

    async fn writes(&self, name: &str, size: usize) -> Result<(), Error> {
        let mut writer = self.objects.writer(name, size as u64).await?;
        writer.write(bytes(size)).await?;
        writer.finish().await
    }
}

fn bytes(count: usize) -> Bytes {
    BYTES.slice(..count)
}

/// Reads an object that exists.
async fn read(objects: &Objects, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, Error> {
    let mut reading = objects.read(name, range).await?.expect("the object exists");
    let mut all = Vec::new();
    while let Some(piece) = reading.stream.try_next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

/// Every operation fails within this time, and its error does not say why.
async fn every_operation_fails(setting: &Setting, within: Duration) {
    let Setting { objects, .. } = setting;
    let parts = [("blobs/old".to_owned(), LARGE as u64)];
    let timed = async |work: std::pin::Pin<Box<dyn Future<Output = Result<(), Error>> + '_>>| {
        let begun = Instant::now();
        (work.await, begun.elapsed())
    };
    let results = futures_util::future::join_all([
        timed(Box::pin(objects.put("blobs/new", bytes(10)))),
        timed(Box::pin(setting.writes("blobs/new", 10))),
        timed(Box::pin(setting.writes("blobs/old", LARGE))),
        timed(Box::pin(async { read(objects, "blobs/old", None).await.map(drop) })),
        timed(Box::pin(async { objects.join(&parts, "blobs/new", &[0; 32]).await.map(drop) })),
        timed(Box::pin(async { objects.size("blobs/old").await.map(drop) })),
        timed(Box::pin(objects.delete("blobs/old"))),
        timed(Box::pin(async { objects.list("blobs/").try_collect::<Vec<_>>().await.map(drop) })),
    ]);
    for (n, (result, took)) in results.await.into_iter().enumerate() {
        let error = result.expect_err("the store does not work");
        assert_eq!(error.code, Code::BlobStoreUnavailable, "{n}: {error}");
        assert_eq!((error.code.status().as_u16(), error.details.retry_after_ms), (503, Some(1_000)));
        assert!(took < within, "{n}: {took:?}");
        assert_eq!(error.message, "blobs can be neither stored nor read at present; try again", "{n}");
        assert_eq!(error.details.cause, None, "a store that is down is no defect of the server");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_is_reported_at_once_and_used_again_when_it_is_back() {
    let mut setting = Setting::new().await;
    setting.service.kill();
    every_operation_fails(&setting, AT_ONCE).await;
    setting.service.resume();
    setting.still_has_its_object().await;
    setting.writes("blobs/new", 10).await.unwrap();
    let page = setting.metrics.render().unwrap();
    for (line, count) in [
        (r#"blob_store_operations_total{operation="put",outcome="done"}"#, 1),
        (r#"blob_store_operations_total{operation="put",outcome="failed"}"#, 1),
        (r#"blob_store_operations_total{operation="write",outcome="failed"}"#, 2),
        (r#"blob_store_operations_total{operation="write",outcome="done"}"#, 1),
        (r#"blob_store_operations_total{operation="read",outcome="done"}"#, 1),
        (r#"blob_store_bytes_total{direction="out"}"#, LARGE),
        (r#"blob_store_bytes_total{direction="in"}"#, LARGE + 10),
    ] {
        assert!(page.contains(&format!("{line} {count}\n")), "{line} {count}\n{page}");
    }
}

/// What takes as long as the limits on waits, side by side.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_is_reported_in_time() {
    let hangs = async {
        let setting = Setting::new().await;
        setting.service.fail(Fault::Hang);
        every_operation_fails(&setting, IN_TIME).await;
        setting.service.fail(Fault::None);
        setting.still_has_its_object().await;
    };
    let stops = async {
        let setting = Setting::new().await;
        setting.service.fail_first(&[Fault::Stop(1_000_000)]);
        let begun = Instant::now();
        setting.still_has_its_object().await;
        assert!(begun.elapsed() >= STALL_TIME, "the other half came in another answer");
        assert_eq!(setting.requests("GET"), 2);
    };
    tokio::join!(hangs, stops);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_is_asked_three_times_and_one_that_refuses_the_key_once() {
    let setting = Setting::new().await;
    for status in [500, 503, 429] {
        setting.service.fail_first(&[Fault::Status(status), Fault::Status(status)]);
        setting.objects.put("blobs/new", bytes(10)).await.unwrap();
        setting.service.fail_first(&[Fault::Status(status), Fault::Status(status)]);
        setting.still_has_its_object().await;
        setting.service.fail(Fault::Status(status));
        every_operation_fails(&setting, AT_ONCE).await;
        let before = setting.requests("DELETE");
        assert_eq!(setting.objects.delete("blobs/new").await.unwrap_err().code, Code::BlobStoreUnavailable);
        assert_eq!(setting.requests("DELETE"), before + 3, "{status}");
        setting.service.fail(Fault::None);
    }
    setting.service.fail(Fault::Status(403));
    every_operation_fails(&setting, AT_ONCE).await;
    let before = setting.service.requests().len();
    assert_eq!(setting.objects.delete("blobs/new").await.unwrap_err().code, Code::BlobStoreUnavailable);
    assert_eq!(setting.objects.size("blobs/old").await.unwrap_err().code, Code::BlobStoreUnavailable);
    assert_eq!(setting.service.requests().len(), before + 2);
    setting.service.fail(Fault::None);
    setting.still_has_its_object().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_breaks_goes_on_where_it_broke_three_times() {
    let setting = Setting::new().await;
    let cut = Fault::Truncate(1_000_000);
    setting.service.fail_first(&[cut, cut, cut]);
    setting.still_has_its_object().await;
    assert_eq!(setting.requests("GET"), 4);
    setting.service.fail_first(&[cut, Fault::Status(500), cut]);
    let range = 7..LARGE as u64 - 7;
    let part = read(&setting.objects, "blobs/old", Some(range)).await.unwrap();
    assert!(part == bytes(LARGE)[7..LARGE - 7]);

    setting.service.fail(cut);
    let mut reading = setting.objects.read("blobs/old", None).await.unwrap().unwrap();
    let mut all = Vec::new();
    let error = loop {
        match reading.stream.try_next().await {
            Ok(piece) => all.extend_from_slice(&piece.expect("it does not end as if it were whole")),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, Code::BlobStoreUnavailable);
    assert!(all.len() <= 4_000_000 && all == bytes(LARGE)[..all.len()], "{}", all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_breaks_does_not_go_on_in_another_object() {
    let setting = Setting::new().await;
    setting.service.fail_first(&[Fault::Truncate(1_000_000)]);
    let mut reading = setting.objects.read("blobs/old", None).await.unwrap().unwrap();
    let first = reading.stream.try_next().await.unwrap().unwrap();
    let other = Bytes::from(vec![9; LARGE]);
    setting.objects.put("blobs/old", other).await.unwrap();
    let mut all = first.to_vec();
    let error = loop {
        match reading.stream.try_next().await {
            Ok(piece) => all.extend_from_slice(&piece.expect("it does not end as if it were whole")),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, Code::BlobStoreUnavailable);
    assert!(all == bytes(LARGE)[..all.len()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_breaks_or_is_forgotten_is_reported_and_leaves_the_object_before() {
    let setting = Setting::new().await;
    for fault in [Fault::Cut(0), Fault::Cut(1_000_000), Fault::Forget, Fault::Status(507)] {
        setting.service.fail_at("PUT", fault);
        let begun = Instant::now();
        // One byte less than the object that is there.
        let error = setting.writes("blobs/old", LARGE - 1).await.unwrap_err();
        assert_eq!(error.code, Code::BlobStoreUnavailable, "{fault:?}");
        assert!(begun.elapsed() < AT_ONCE, "{fault:?}: {:?}", begun.elapsed());
        assert_eq!(setting.writes("blobs/new", 10).await.unwrap_err().code, Code::BlobStoreUnavailable, "{fault:?}");
        assert_eq!(setting.objects.size("blobs/new").await.unwrap(), None, "{fault:?}");
        setting.still_has_its_object().await;
    }
    setting.service.fail(Fault::None);
    setting.writes("blobs/old", 10).await.unwrap();
    assert_eq!(setting.objects.size("blobs/old").await.unwrap(), Some(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_in_the_middle_of_a_write_has_all_or_nothing_of_it() {
    let mut setting = Setting::new().await;
    let mut writer = setting.objects.writer("blobs/new", LARGE as u64).await.unwrap();
    writer.write(bytes(LARGE / 2)).await.unwrap();
    setting.service.kill();
    let rest = async {
        writer.write(bytes(LARGE / 2)).await?;
        writer.finish().await
    };
    assert_eq!(rest.await.unwrap_err().code, Code::BlobStoreUnavailable);
    setting.service.resume();
    assert_eq!(setting.objects.size("blobs/new").await.unwrap(), None);
    let names: Vec<_> = setting.objects.list("blobs/").map_ok(|object| object.name).try_collect().await.unwrap();
    assert_eq!(names, ["blobs/old"]);
    setting.still_has_its_object().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_slow_but_goes_on_is_waited_for() {
    let setting = Setting::new().await;
    setting.service.fail(Fault::Slow(Duration::from_millis(2)));
    setting.still_has_its_object().await;
    setting.writes("blobs/new", LARGE).await.unwrap();
    setting.service.fail(Fault::None);
    assert!(read(&setting.objects, "blobs/new", None).await.unwrap() == bytes(LARGE));
}
