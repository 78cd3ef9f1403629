//! The bytes of blobs: copied after a dump, and made to agree with an older database.

use catbird_client::persona::{Persona, unique};
use catbird_testkit::app::validated;
use catbird_testkit::fleet::{Mode, Replica, run_as};
use catbird_testkit::host::Host;
use catbird_testkit::page::Section;

use super::servers::here;
use super::{PAGE, dump};

pub const SECTION: &str = "Blobs";

/// Uploads a blob and sends a message that refers to it. Returns its id.
async fn shared(member: &mut Persona, text: &str) -> String {
    let blob = member.upload(text.as_bytes()).await.unwrap();
    member.send_referring(text, std::slice::from_ref(&blob)).await.unwrap();
    blob
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_database_is_made_to_agree_with_newer_objects() {
    let (mut page, mut dumps) = (Section::of(PAGE, SECTION), Section::of(PAGE, dump::SECTION));
    let root = std::env::temp_dir().join(format!("catbird-copies-{}", ulid::Ulid::new().to_string().to_lowercase()));
    let (blobs, backups) = (root.join("blobs"), root.join("backups"));
    let store = format!("file://{}", blobs.display());
    let store = ("BLOB_STORE_URL", store.as_str());
    std::fs::create_dir_all(&backups).unwrap();
    let file = |blob: &str| blobs.join("blobs").join(&blob[..2]).join(blob);

    let old = Host::with_database().await;
    let replica = Replica::start(Mode::Advisory, &old.url(), &[store]).await;
    let mut member = Persona::new(validated(&replica.base, &catbird_client::random_did()));
    member.create(unique().as_bytes(), "blobs").await.unwrap();
    let settings = |url| {
        [("DATABASE_URL", url), ("BLOBS", blobs.to_str().unwrap()), ("BACKUPS", backups.to_str().unwrap()), store]
    };
    let (url, copy) = (old.url(), page.take("Copy the blobs"));
    let kept = shared(&mut member, "kept").await;
    here(&copy, &settings(&url)).await;
    let deleted = shared(&mut member, "deleted after the copy").await;
    // What an upload and a copy that were interrupted have left.
    std::fs::write(blobs.join("blobs/half#1"), "half").unwrap();
    std::fs::create_dir_all(backups.join("arriving/blobs")).unwrap();
    std::fs::write(backups.join("arriving/blobs/half"), "half").unwrap();
    old.run(&dumps.take("Take a dump"), &[]).await;
    here(&copy, &settings(&url)).await;
    let copied = here("find \"$BACKUPS/blobs\" -type f -printf '%f\\n' | sort", &settings(&url)).await;
    let mut expected = [&*kept, &*deleted];
    expected.sort_unstable();
    assert_eq!(copied.lines().collect::<Vec<_>>(), expected);
    let lost = shared(&mut member, "uploaded after the copy").await;
    // As a sweep does it with the rows, which are lost as well.
    std::fs::remove_file(file(&deleted)).unwrap();
    assert_eq!(replica.terminate().await, Some(0));

    let new = Host::with_cluster().await;
    new.run(&dumps.take("Restore the dump"), &[("BACKUPS", &old.backups())]).await;
    let url = new.url();
    let check = async || run_as(&["check"], &url, &[store]).await;
    let (code, said, errors) = check().await;
    assert_eq!((code, errors.as_str()), (Some(1), ""), "{said}");
    let missing = format!("blob {deleted} of 22 bytes has no object");
    let stray = format!("object blobs/{}/{lost} of 23 bytes", &lost[..2]);
    assert!(said.contains("2 of ") && said.contains(&missing) && said.contains(&stray), "{said}");
    here(&page.take("Bring back objects"), &settings(&url)).await;
    let (_, said, _) = check().await;
    assert!(said.contains("1 of ") && said.contains(&stray), "{said}");
    here(&page.take("Delete stray objects"), &settings(&url)).await;
    here(&page.take("Check the blobs"), &settings(&url)).await;
    page.finish();

    let replica = Replica::start(Mode::Advisory, &url, &[store]).await;
    member.xrpc.base = replica.base.parse().unwrap();
    for (blob, bytes) in [(&kept, "kept"), (&deleted, "deleted after the copy")] {
        let download = member.xrpc.download("getBlob", &[("blobId", blob.clone())], &[]).await.unwrap();
        assert_eq!(download.unwrap().bytes().await.unwrap(), bytes.as_bytes());
    }
    assert!(!file(&lost).exists());
    drop(replica);
    std::fs::remove_dir_all(root).unwrap();
}
