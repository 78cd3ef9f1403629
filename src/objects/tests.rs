//! The same cases against a folder and a service.

use std::path::PathBuf;

use catbird_testkit::s3::S3Server;

use super::*;
use crate::config::Config;
use crate::metrics::Registry;

/// More than the buffers of a connection, and no multiple of a piece.
const LARGE: usize = 3 * 1024 * 1024 + 17;

/// A store of one test, which ends with this value.
struct TestStore {
    name: &'static str,
    objects: Objects,
    folder: PathBuf,
    service: Option<S3Server>,
}

impl TestStore {
    fn open(name: &'static str, service: Option<S3Server>) -> Self {
        let folder = std::env::temp_dir().join(format!("catbird-objects-{}", ulid::Ulid::new()));
        let settings = match &service {
            Some(service) => service.settings(),
            None => vec![("BLOB_STORE_URL", format!("file://{}", folder.display()))],
        };
        let config = Config::from_variables(settings).unwrap();
        let objects = Objects::open(&config.blob_store, ObjectMetrics::register(&mut Registry::default())).unwrap();
        Self { name, objects, folder, service }
    }

    /// Runs a test with a folder and with a service.
    async fn each(test: impl AsyncFn(&TestStore, &Objects)) {
        for store in [Self::open("folder", None), Self::open("service", Some(S3Server::start()))] {
            test(&store, &store.objects).await;
        }
    }

    /// File with the bytes of an object.
    fn file(&self, name: &str) -> PathBuf {
        self.service.as_ref().map_or_else(|| self.folder.join(name), |service| service.file(name))
    }

    /// Names of all objects, sorted.
    async fn names(&self) -> Vec<String> {
        let listed = self.objects.list("blobs/").map_ok(|object| object.name).try_collect::<Vec<_>>().await;
        let mut names = listed.unwrap();
        names.sort();
        names
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Bytes that differ from piece to piece.
fn bytes(count: usize) -> Bytes {
    (0..count).map(|n| (n / 7 + n / 65_536) as u8).collect::<Vec<_>>().into()
}

async fn read(objects: &Objects, name: &str, range: Option<Range<u64>>) -> Option<Vec<u8>> {
    let mut reading = objects.read(name, range).await.unwrap()?;
    let mut all = Vec::new();
    while let Some(piece) = reading.stream.try_next().await.unwrap() {
        assert!(!piece.is_empty() && piece.len() <= PIECE, "{}", piece.len());
        all.extend_from_slice(&piece);
    }
    Some(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_read_as_a_whole_and_in_ranges() {
    TestStore::each(async |store, objects| {
        for size in [0, 1, PIECE, LARGE] {
            let (name, content) = (format!("blobs/{size}"), bytes(size));
            let mut writer = objects.writer(&name, size as u64).await.unwrap();
            for piece in content.chunks(100_000) {
                writer.write(content.slice_ref(piece)).await.unwrap();
            }
            assert_eq!(objects.size(&name).await.unwrap(), None, "{}: it is not visible before its end", store.name);
            writer.finish().await.unwrap();
            assert_eq!(objects.size(&name).await.unwrap(), Some(size as u64), "{}", store.name);
            assert!(read(objects, &name, None).await.unwrap() == content, "{}: {size}", store.name);
        }
        let (name, content, end) = (format!("blobs/{LARGE}"), bytes(LARGE), LARGE as u64);
        for range in [0..1, 5..PIECE as u64 + 9, end - 1..end, 0..end] {
            let expected = &content[range.start as usize..range.end as usize];
            assert_eq!(objects.read(&name, Some(range.clone())).await.unwrap().unwrap().size, end);
            assert!(read(objects, &name, Some(range.clone())).await.unwrap() == expected, "{}: {range:?}", store.name);
        }
        let beyond = objects.read(&name, Some(end..end + 1)).await.err().unwrap();
        assert_eq!(
            beyond.code,
            Code::BlobStoreUnavailable,
            "{}: it has fewer bytes than its user knows of",
            store.name
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_takes_the_place_of_another_when_it_is_whole_or_never() {
    TestStore::each(async |store, objects| {
        let (old, new) = (bytes(LARGE), bytes(LARGE + 1));
        objects.put("blobs/a", old.clone()).await.unwrap();
        let mut writer = objects.writer("blobs/a", new.len() as u64).await.unwrap();
        writer.write(new.slice(..LARGE)).await.unwrap();
        assert!(read(objects, "blobs/a", None).await.unwrap() == old, "{}", store.name);
        drop(writer);
        // Those that needed no byte, got none, or got all of them.
        drop(objects.writer("blobs/b", 0).await.unwrap());
        drop(objects.writer("blobs/b", 10).await.unwrap());
        let mut complete = objects.writer("blobs/b", 10).await.unwrap();
        complete.write(bytes(10)).await.unwrap();
        drop(complete);
        assert!(read(objects, "blobs/a", None).await.unwrap() == old, "{}", store.name);
        assert_eq!(store.names().await, ["blobs/a"], "{}", store.name);
        let mut writer = objects.writer("blobs/a", new.len() as u64).await.unwrap();
        writer.write(new.clone()).await.unwrap();
        writer.finish().await.unwrap();
        assert!(read(objects, "blobs/a", None).await.unwrap() == new, "{}", store.name);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_has_exactly_the_announced_bytes() {
    TestStore::each(async |store, objects| {
        let mut writer = objects.writer("blobs/a", 10).await.unwrap();
        writer.write(bytes(9)).await.unwrap();
        assert_eq!(writer.write(bytes(2)).await.unwrap_err().code, Code::InternalServerError, "{}", store.name);
        assert_eq!(writer.finish().await.unwrap_err().code, Code::InternalServerError, "{}", store.name);
        assert_eq!(objects.size("blobs/a").await.unwrap(), None, "{}", store.name);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_object_is_none_and_may_be_deleted() {
    TestStore::each(async |store, objects| {
        assert!(objects.read("blobs/a", None).await.unwrap().is_none(), "{}", store.name);
        assert_eq!(objects.size("blobs/a").await.unwrap(), None, "{}", store.name);
        objects.delete("blobs/a").await.unwrap();
        assert!(store.names().await.is_empty(), "{}", store.name);
        objects.put("blobs/a", bytes(10)).await.unwrap();
        objects.delete("blobs/a").await.unwrap();
        assert_eq!(objects.size("blobs/a").await.unwrap(), None, "{}", store.name);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_every_object_below_its_prefix() {
    TestStore::each(async |store, objects| {
        objects.put("blobs/first", bytes(11)).await.unwrap();
        objects.put("parts/x/1", bytes(12)).await.unwrap();
        // More than a page; made beside the store, which would take a while.
        let mut expected: Vec<String> = (0..PAGE + 1).map(|n| format!("blobs/{n:05}")).collect();
        for name in &expected {
            std::fs::write(store.file(name), "x").unwrap();
        }
        expected.push("blobs/first".to_owned());
        assert_eq!(store.names().await, expected, "{}", store.name);
        let parts: Vec<Listed> = objects.list("parts/").try_collect().await.unwrap();
        let [Listed { name, size: 12, modified }] = &parts[..] else { panic!("{}: {parts:?}", store.name) };
        let age = crate::clock::Clock::system().now() - modified;
        assert!(name == "parts/x/1" && age.num_seconds().abs() < 60, "{}: {parts:?}", store.name);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_joined_in_order_and_hashed() {
    TestStore::each(async |store, objects| {
        let content = bytes(2 * LARGE);
        let parts: Vec<_> = [0..LARGE, LARGE..LARGE, LARGE..2 * LARGE].into_iter().enumerate().collect();
        let mut named = Vec::new();
        for (n, range) in parts {
            let name = format!("parts/x/{n}");
            objects.put(&name, content.slice(range.clone())).await.unwrap();
            named.push((name, range.len() as u64));
        }
        let announced: [u8; 32] = Sha256::digest(&content).into();
        let hash = objects.join(&named, "blobs/joined", &announced).await.unwrap();
        assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(&content)), "{}", store.name);
        assert!(read(objects, "blobs/joined", None).await.unwrap() == content, "{}", store.name);
        for wrong in [("parts/x/0".to_owned(), 5), ("parts/x/9".to_owned(), 5)] {
            let error = objects.join(&[named[2].clone(), wrong], "blobs/joined", &announced).await.unwrap_err();
            assert_eq!(error.code, Code::BlobStoreUnavailable, "{}", store.name);
        }
        let other = objects.join(&named[..1], "blobs/joined", &announced).await.unwrap();
        assert_eq!(other, <[u8; 32]>::from(Sha256::digest(&content[..LARGE])), "{}", store.name);
        assert!(read(objects, "blobs/joined", None).await.unwrap() == content, "{}: the one before", store.name);
        for (name, _) in &named {
            objects.delete(name).await.unwrap();
        }
        assert!(store.service.is_some() || !store.folder.join("parts").exists(), "an empty folder does not stay");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_and_deletions_in_one_folder_do_not_disturb_each_other() {
    TestStore::each(async |store, objects| {
        let writers = (0..20).map(|n| {
            let (objects, name) = (objects.clone(), format!("parts/{}/{n}", n % 2));
            tokio::spawn(async move {
                for _ in 0..5 {
                    objects.put(&name, bytes(100)).await.unwrap();
                    objects.delete(&name).await.unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            assert!(writer.await.is_ok(), "{}", store.name);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_a_download_without_a_key_and_without_it_nothing_is_given() {
    TestStore::each(async |store, objects| {
        objects.put("blobs/a", bytes(100)).await.unwrap();
        let address = objects.address("blobs/a", Duration::from_secs(60)).await.unwrap();
        let Some(address) = address else { return assert_eq!(store.name, "folder") };
        let get = async |address: Url| reqwest::get(address).await.unwrap();
        crate::net::tls::install();
        let answer = get(address.clone()).await;
        assert_eq!(answer.headers()["content-disposition"], "attachment");
        assert_eq!(answer.headers()["content-type"], "application/octet-stream");
        assert_eq!(answer.bytes().await.unwrap(), bytes(100));
        let mut other = address.clone();
        other.set_path(&address.path().replace("blobs/a", "blobs/b"));
        let mut bare = address;
        bare.set_query(None);
        for refused in [other, bare] {
            assert_eq!(get(refused).await.status(), 403);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_killed_servers_leave_in_a_folder_is_deleted() {
    let store = TestStore::open("folder", None);
    store.objects.put("blobs/a", bytes(1)).await.unwrap();
    let mut writer = store.objects.writer("blobs/a", 10).await.unwrap();
    writer.write(bytes(5)).await.unwrap();
    let staged = std::fs::read_dir(store.folder.join("blobs")).unwrap().count();
    assert_eq!((staged, store.names().await), (2, vec!["blobs/a".to_owned()]), "it is there, and not listed");
    let now = crate::clock::Clock::system().now();
    let minute = chrono::TimeDelta::minutes(1);
    assert_eq!(store.objects.delete_unfinished(now - minute).await.unwrap(), 0, "it may be written yet");
    assert_eq!(store.objects.delete_unfinished(now + minute).await.unwrap(), 1);
    assert_eq!(std::fs::read_dir(store.folder.join("blobs")).unwrap().count(), 1);
    drop(writer);
    assert!(read(&store.objects, "blobs/a", None).await.unwrap() == bytes(1));
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_or_written_is_refused_with_what_to_do() {
    // The kernel lets nobody write there.
    for folder in ["/proc/no/such/folder", "/proc/sys"] {
        let config = BlobStore::Folder(folder.into());
        let opened = Objects::open(&config, ObjectMetrics::register(&mut Registry::default()));
        let error = opened.err().expect(folder).to_string();
        assert!(
            error.contains("BLOB_STORE_URL") && error.contains("name a folder that this account can write"),
            "{error}"
        );
    }
}
