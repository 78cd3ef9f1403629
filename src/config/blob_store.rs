//! Settings of the blob store: a folder, or a bucket at a service with the API of S3.

use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::Url;

use super::values::Values;

/// Folder in `DATA_DIR` for blobs, if no other place is set.
const FOLDER: &str = "blobs";

/// Where blobs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobStore {
    Folder(PathBuf),
    S3(S3),
}

/// A bucket, and the key for it.
#[derive(Clone, PartialEq, Eq)]
pub struct S3 {
    pub bucket: String,
    /// Beginning of the names of all objects, without a slash at its ends; may be empty.
    pub prefix: String,
    /// URL of the service; `None` is Amazon's.
    pub endpoint: Option<String>,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, prefix, endpoint, region, access_key_id: _, secret_access_key: _ } = self;
        f.debug_struct("S3")
            .field("bucket", bucket)
            .field("prefix", prefix)
            .field("endpoint", endpoint)
            .field("region", region)
            .finish_non_exhaustive()
    }
}

impl BlobStore {
    /// Reads the settings.
    pub(super) fn read(env: &mut Values, data_dir: &Path) -> Self {
        let place = env.optional("BLOB_STORE_URL").and_then(|url| BlobPlace::parse(&url).ok());
        let (endpoint, region) = (env.optional("AWS_ENDPOINT_URL"), env.text("AWS_REGION"));
        let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        let [access_key_id, secret_access_key] = keys.map(|name| env.optional(name).unwrap_or_default());
        match place {
            None => Self::Folder(data_dir.join(FOLDER)),
            Some(BlobPlace::Folder(folder)) => Self::Folder(folder),
            Some(BlobPlace::Bucket { bucket, prefix }) => {
                for (name, value) in keys.into_iter().zip([&access_key_id, &secret_access_key]) {
                    if value.is_empty() {
                        env.refuse(format!("BLOB_STORE_URL is a bucket, which needs {name}; set it, or {name}_FILE"));
                    }
                }
                Self::S3(S3 { bucket, prefix, endpoint, region, access_key_id, secret_access_key })
            }
        }
    }
}

/// What a URL of a blob store names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BlobPlace {
    Folder(PathBuf),
    Bucket { bucket: String, prefix: String },
}

impl BlobPlace {
    /// Parses a URL. The error completes a sentence that begins with the setting's name.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const FORMS: &str = "must be a URL such as file:///folder, s3://bucket or s3://bucket/prefix";
        let url = Url::parse(text).map_err(|_| FORMS)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not have a key in it; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are for that");
        }
        if url.port().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(FORMS);
        }
        match url.scheme() {
            "file" if !url.has_host() && url.path().len() > 1 => {
                url.to_file_path().map(Self::Folder).map_err(|()| FORMS)
            }
            "s3" => {
                let bucket = url.host_str().unwrap_or_default();
                let prefix = url.path().trim_matches('/');
                if !is_bucket(bucket) {
                    return Err(
                        "must name a bucket, such as s3://bucket: 3 to 63 lower-case letters, digits, dots and hyphens",
                    );
                }
                if !is_prefix(prefix) {
                    return Err(
                        "must have letters, digits, dots, hyphens and underscores between the slashes after the bucket",
                    );
                }
                Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            _ => Err(FORMS),
        }
    }
}

/// Returns true for a name of a general purpose bucket.
fn is_bucket(name: &str) -> bool {
    let ends = [name.bytes().next(), name.bytes().next_back()];
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| letters(b) || b".-".contains(&b))
        && ends.into_iter().flatten().all(letters)
}

/// Returns true for an empty prefix, or one whose parts no store and no proxy writes in another way.
fn is_prefix(prefix: &str) -> bool {
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    prefix.is_empty() || prefix.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const KEY: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];

    fn store(settings: &[(&str, &str)]) -> Result<BlobStore, String> {
        let config = Config::from_variables(settings.iter().copied());
        config.map(|config| config.blob_store).map_err(|error| error.to_string())
    }

    #[test]
    fn blobs_are_in_a_folder_unless_a_bucket_is_named() {
        let folder = |path: &str| Ok(BlobStore::Folder(path.into()));
        assert_eq!(store(&[]), folder(".data/blobs"));
        assert_eq!(store(&[("DATA_DIR", "/var/lib/catbird")]), folder("/var/lib/catbird/blobs"));
        assert_eq!(store(&[("BLOB_STORE_URL", "file:///mnt/blobs%20here")]), folder("/mnt/blobs here"));
        let settings = [("BLOB_STORE_URL", "s3://pictures/a/b/"), ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")];
        let BlobStore::S3(s3) = store(&[&settings[..], &KEY].concat()).unwrap() else { panic!("a bucket") };
        assert_eq!((&*s3.bucket, &*s3.prefix, &*s3.region), ("pictures", "a/b", "us-east-1"));
        assert_eq!((s3.endpoint.as_deref(), &*s3.access_key_id), (Some("http://127.0.0.1:9000"), "id"));
        assert!(!format!("{s3:?}").contains("hunter2"), "{s3:?}");
    }

    #[test]
    fn a_bucket_needs_a_key_and_the_error_says_how_to_give_it() {
        let error = store(&[("BLOB_STORE_URL", "s3://pictures"), KEY[0]]).unwrap_err();
        assert!(error.contains("set it, or AWS_SECRET_ACCESS_KEY_FILE") && !error.contains("KEY_ID"), "{error}");
    }

    #[test]
    fn every_other_url_is_refused_with_what_it_must_be() {
        for (url, why) in [
            ("pictures", "such as file:///folder"),
            ("https://s3.example/pictures", "such as file:///folder"),
            ("file://pictures", "such as file:///folder"),
            ("file:///", "such as file:///folder"),
            ("s3://pictures?region=x", "such as file:///folder"),
            ("s3://id:hunter2@pictures", "must not have a key"),
            ("s3://", "must name a bucket"),
            ("s3://Pictures", "must name a bucket"),
            ("s3://-x-", "must name a bucket"),
            ("s3://pictures/a//b", "between the slashes"),
            ("s3://pictures/a%2Fb", "between the slashes"),
        ] {
            let error = store(&[&[("BLOB_STORE_URL", url)][..], &KEY].concat()).expect_err(url);
            assert!(error.contains("BLOB_STORE_URL") && error.contains(why), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
