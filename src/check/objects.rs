//! Comparison of the blobs in the database with the objects in the blob store, while both change: what does not agree is looked at
//! again before it counts.

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::objects::{Listed, Objects};
use crate::store::Operator;
use crate::store::blobs::{Owner, object, parse_object};

/// Blobs, or objects, that are compared at a time.
const PORTION: usize = 1_000;
/// Questions to the blob store at a time.
const CONCURRENCY: usize = 16;

/// Why the comparison could not be made.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Returns the blobs whose bytes are not all there.
pub async fn lost_bytes(db: &Operator, objects: &Objects) -> Result<Vec<String>, Failure> {
    let (mut after, mut findings) = (String::new(), Vec::new());
    loop {
        let blobs = db.stored_blobs(&after, PORTION as i64).await?;
        let Some((last, _)) = blobs.last() else { return Ok(findings) };
        after = last.to_string();
        let looking = blobs.into_iter().map(|(id, bytes)| async move {
            let found = objects.size(&object(&id)).await?;
            Ok::<_, Failure>((id, bytes, found))
        });
        let mut looked = stream::iter(looking).buffered(CONCURRENCY);
        while let Some((id, bytes, found)) = looked.try_next().await? {
            if found != Some(bytes) && db.is_stored(&id).await? {
                findings.push(match found {
                    None => format!("blob {id} of {bytes} bytes has no object"),
                    Some(found) => format!("blob {id} of {bytes} bytes has an object of {found}"),
                });
            }
        }
    }
}

/// Returns the objects that belong to no blob.
pub async fn stray_objects(db: &Operator, objects: &Objects) -> Result<Vec<String>, Failure> {
    let mut findings = Vec::new();
    let listed = objects.list("blobs/").chain(objects.list("parts/"));
    let mut portions = listed.try_chunks(PORTION);
    while let Some(portion) = portions.try_next().await? {
        for Listed { name, size, .. } in unnamed(db, portion).await? {
            // Its deletion may have ended since it was listed.
            if objects.size(&name).await?.is_some() {
                findings.push(format!("object {name} of {size} bytes"));
            }
        }
    }
    Ok(findings)
}

/// Returns the objects that no row names.
async fn unnamed(db: &Operator, listed: Vec<Listed>) -> Result<Vec<Listed>, Failure> {
    let parsed: Vec<(&str, Option<Owner>)> =
        listed.iter().map(|listed| (listed.name.as_str(), parse_object(&listed.name))).collect();
    let named = db.named_objects(&parsed).await?;
    Ok(listed.into_iter().filter(|listed| !named.contains(&listed.name)).collect())
}
