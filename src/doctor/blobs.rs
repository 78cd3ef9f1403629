//! The blob store: whether it stores, returns and deletes an object, and whether the replicas that serve can share it.

use crate::config::{BlobStore, Config};
use crate::metrics::Registry;
use crate::objects::{ObjectMetrics, Objects, Refusal};
use crate::store::Replica;

use super::Diagnosis;

/// Tries the store with an object of its own.
pub(super) async fn examine(config: &Config) -> Diagnosis {
    let subject = "blob_store";
    let (place, advice) = match &config.blob_store {
        // This command may run as another account, and its folder would be in the server's way.
        BlobStore::Folder(folder) if !folder.exists() => {
            return Diagnosis::ok(
                subject,
                format!("the folder {} is not there yet; the server creates it", folder.display()),
            );
        }
        BlobStore::Folder(folder) => (
            format!("the folder {}", folder.display()),
            "Let the server's account own the folder, and make room on its disk, or correct BLOB_STORE_URL",
        ),
        BlobStore::S3(s3) => (
            format!("the bucket {}", s3.bucket),
            "Correct BLOB_STORE_URL, AWS_ENDPOINT_URL and the key; it needs s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket",
        ),
    };
    let tried = match Objects::open(&config.blob_store, ObjectMetrics::register(&mut Registry::default())) {
        Ok(objects) => objects.inspect().await,
        Err(cause) => Err(Refusal::Write(cause.to_string())),
    };
    let found = |refusal: &Refusal| format!("blobs are in {place}, and {refusal}");
    match &tried {
        Ok(()) => Diagnosis::ok(subject, format!("{place} stores, returns and deletes an object")),
        Err(refusal @ Refusal::Delete(_)) => {
            let touches = "P10: bytes that nothing refers to stay there, and it grows without end";
            Diagnosis::weak(subject, found(refusal), touches, advice)
        }
        Err(refusal) => {
            let touches = "P4: blobs that were acknowledged cannot be read, or no further ones are taken";
            Diagnosis::fatal(subject, found(refusal), touches, advice)
        }
    }
}

/// Judges whether these replicas can share what each of them stores.
pub(super) fn judge_sharing(replicas: &[Replica]) -> Option<Diagnosis> {
    let place = |replica: &Replica| replica.settings["BLOB_STORE_URL"].as_str().map(str::to_owned);
    // A replica of an earlier build has no blobs.
    let folders = replicas.iter().filter_map(place).filter(|place| !place.starts_with("s3:")).count();
    (folders > 1).then(|| {
        Diagnosis::weak(
            "blob_folder",
            format!("{folders} replicas keep blobs in folders, and it cannot be seen whether that is one folder"),
            "P4: with folders of their own, a blob is found only by the replica that took it",
            "Set BLOB_STORE_URL to a bucket. If all of them have mounted the same folder, nothing is to be done",
        )
    })
}
