//! Conversations: creating one, and listing those of a member.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::mls::canonical_group_id;
use crate::wire::{ConvoMetadata, ConvoState, ConvoView, StorageModel};

use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, Exclusive, Reader, Store, members};

query! {
    INSERT = "convos/insert" (TEXT, TEXT, TEXT, TEXT, INT8, TEXT);
    INSERT_METADATA = "convos/insert_metadata" (TEXT, TEXT, TEXT);
    LIST = "convos/list" (TEXT, TEXT, INT8, INT8, INT8, INT8);
    NAMED = "convos/named" (TEXT, TEXT, TEXT);
    STORAGE_MODEL = "convos/storage_model" (TEXT);
}

/// Storage model with bodies, as the database has it.
const BLOB: &str = "blob";
/// Maximum number of members in one page of conversations, unless a single conversation has more.
pub const MAX_PAGE_MEMBERS: i64 = 10_000;
/// Maximum number of unread messages that are counted per conversation of a list.
pub const MAX_UNREAD: i64 = 100;
/// Number of newest entries per conversation that a list reads for the newest message and the unread count.
pub const NEWEST_ENTRIES: i64 = 200;
/// Maximum number of names of conversations that are cached, and how long one is.
const MAX_NAMES: u64 = 100_000;
const NAME_LIFETIME: Duration = Duration::from_secs(600);

/// Cache of the conversations that members have named by their group ids. Only what was found is kept, so that it shows a stranger
/// nothing by its timing. Cheap to clone.
#[derive(Clone)]
pub(super) struct Names(moka::sync::Cache<(String, Did), ConvoId>);

impl Default for Names {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(MAX_NAMES).time_to_live(NAME_LIFETIME).build())
    }
}

/// A conversation to create.
#[derive(Debug, Clone)]
pub struct NewConvo {
    pub group_id: String,
    pub creator: Did,
    pub cipher_suite: String,
    pub storage_model: StorageModel,
    pub epoch: i64,
    pub metadata: Option<ConvoMetadata>,
}

/// Creates a conversation without members, and returns the time. `None`: the group id is taken.
pub(crate) async fn insert(x: &mut Exclusive<'_>, new: &NewConvo) -> Result<Option<DateTime<Utc>>, Abort> {
    let id = x.convo.as_str();
    let model = match new.storage_model {
        StorageModel::Database => None,
        StorageModel::Blob => Some(BLOB),
    };
    let params: Params<'_> = &[&id, &new.group_id, &new.creator.as_str(), &new.cipher_suite, &new.epoch, &model];
    let row = x.tx.find(&INSERT, params).await?;
    let Some(row) = row else { return Ok(None) };
    if let Some(metadata) = &new.metadata {
        x.tx.rows(&INSERT_METADATA, &[&id, &metadata.name, &metadata.description]).await?;
    }
    Ok(Some(row.get("created_at")))
}

fn storage_model(row: &Row) -> StorageModel {
    match row.get::<_, Option<&str>>("storage_model") {
        Some(BLOB) => StorageModel::Blob,
        _ => StorageModel::Database,
    }
}

impl Store {
    /// Replaces a group id by the id of its conversation, if the caller is or was a member of that. Otherwise the name stays, and no
    /// conversation has it.
    pub async fn resolve_convo(&self, name: &mut ConvoId, caller: &Did) -> Result<(), Error> {
        let Some(group_id) = canonical_group_id(name.as_str()) else { return Ok(()) };
        let named = (group_id, caller.clone());
        if let Some(convo) = self.names.0.get(&named) {
            *name = convo;
            return Ok(());
        }
        let params: Params<'_> = &[&name.as_str(), &named.0, &caller.as_str()];
        let Some(row) = self.reader().await?.find(&NAMED, params).await? else { return Ok(()) };
        *name = row.get::<_, &str>("convo_id").parse().map_err(Error::internal)?;
        self.names.0.insert(named, name.clone());
        Ok(())
    }
}

impl Reader {
    /// Returns the storage model of a conversation; that of one that does not exist is `Database`.
    pub async fn storage_model(&self, convo: &ConvoId) -> Result<StorageModel, Error> {
        let row = self.find(&STORAGE_MODEL, &[&convo.as_str()]).await?;
        Ok(row.as_ref().map(storage_model).unwrap_or_default())
    }

    /// Returns the conversations of `did`, newest first, before `before`, and whether there are more. The page has at
    /// most `limit` conversations and, over all rosters, [`MAX_PAGE_MEMBERS`] members.
    pub async fn convos(
        &self,
        did: &Did,
        before: Option<&ConvoId>,
        limit: i64,
    ) -> Result<(Vec<ConvoView>, bool), Error> {
        let before = before.map(ConvoId::as_str);
        let params: Params<'_> = &[&did.as_str(), &before, &limit, &MAX_PAGE_MEMBERS, &MAX_UNREAD, &NEWEST_ENTRIES];
        let rows = self.rows(&LIST, params).await?;
        let mut page = Vec::new();
        for row in &rows {
            let metadata = ConvoMetadata { name: row.get("name"), description: row.get("description") };
            page.push(ConvoView {
                id: row.get::<_, &str>("id").parse().map_err(Error::internal)?,
                group_id: row.get("group_id"),
                creator: row.get::<_, &str>("creator_did").parse().map_err(Error::internal)?,
                members: Vec::new(),
                member_count: row.get("member_count"),
                generation: row.get("generation"),
                epoch: row.get("current_epoch"),
                seq: row.get("last_seq"),
                cipher_suite: row.get("cipher_suite"),
                storage_model: storage_model(row),
                state: if row.get("wedged") { ConvoState::Wedged } else { ConvoState::Active },
                created_at: row.get("created_at"),
                last_message_at: row.get("last_message_at"),
                unread_count: row.get("unread_count"),
                metadata: (metadata.name.is_some() || metadata.description.is_some()).then_some(metadata),
            });
        }
        let more = rows.first().is_some_and(|row| row.get::<_, i64>("found") > page.len() as i64);
        let ids: Vec<ConvoId> = page.iter().map(|convo| convo.id.clone()).collect();
        let mut rosters = members::list(self, &ids).await?;
        for convo in &mut page {
            convo.members = rosters.remove(convo.id.as_str()).unwrap_or_default();
            convo.member_count = convo.members.len() as i64;
        }
        Ok((page, more))
    }
}
