//! Thousands of conversations, written directly into the tables, because creating them through the server takes longer
//! than the measurement. Constraints and triggers check every row, and `catbird-server check` checks the databases
//! after a run.

use std::sync::Arc;

use catbird_server::hex;
use catbird_server::mls::DEFAULT_SUITE;
use tokio_postgres::Client;
use ulid::Ulid;

use super::Result;
use super::mix::{fresh, mix};
use super::tokens::{P256_DIDS, public_keys};

/// Maximum number of rows in one statement.
const ROWS: usize = 10_000;

/// A conversation at epoch 0 with an empty log.
pub struct Convo {
    pub id: String,
    pub group_id: Vec<u8>,
    /// DIDs of the members; the first one created it. No DID is in two conversations.
    pub members: Vec<String>,
}

/// Conversations that clients share.
pub type Convos = Arc<[Convo]>;

/// Returns new conversations that are in no database yet.
pub fn convos(count: u32, members: u32) -> Convos {
    let convo = |_| {
        let group_id = [mix(fresh()), mix(fresh())].map(u64::to_be_bytes).concat();
        Convo { id: Ulid::new().to_string(), group_id, members: (0..members).map(|_| person()).collect() }
    };
    (0..count).map(convo).collect()
}

/// Returns a new DID in the form of did:plc: 24 letters and digits of base32.
pub fn person() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let number = fresh();
    let bits = (u128::from(mix(number)) << 64) | u128::from(mix(!number));
    let letters = (0..24).map(|place| char::from(ALPHABET[(bits >> (5 * place)) as usize % ALPHABET.len()]));
    "did:plc:".chars().chain(letters).collect()
}

/// Returns a new DID whose key is on P-256.
pub fn person_of_p256() -> String {
    P256_DIDS.to_owned() + &person()[P256_DIDS.len()..]
}

/// Makes accounts known to a service: it has stored their documents, as after their first request. Otherwise each load
/// would begin with a fetch for each of its callers.
pub async fn accounts(database: &Client, dids: &[&str]) -> Result<()> {
    let [p256, secp256k1] = public_keys();
    for dids in dids.chunks(ROWS) {
        database
            .execute(
                "insert into did_documents (did, account_key, fetched_at)
                 select did, case when starts_with(did, $2) then $3 else $4 end, now() from unnest($1::text[]) did
                     on conflict (did) do update set fetched_at = now()",
                &[&dids, &P256_DIDS, &p256, &secp256k1],
            )
            .await?;
    }
    Ok(())
}

/// Writes conversations, and the accounts of their members, into a database that a server has migrated.
pub async fn write(database: &Client, convos: &[Convo]) -> Result<()> {
    let of = |field: fn(&Convo) -> String| convos.iter().map(field).collect::<Vec<String>>();
    database
        .execute(
            "insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch, member_count, roster_version)
             select id, group_id, creator, $4, 0, 0, members, 1
               from unnest($1::text[], $2::text[], $3::text[], $5::bigint[]) c (id, group_id, creator, members)",
            &[
                &of(|convo| convo.id.clone()),
                &of(|convo| hex::encode(&convo.group_id)),
                &of(|convo| convo.members[0].clone()),
                &DEFAULT_SUITE,
                &convos.iter().map(|convo| convo.members.len() as i64).collect::<Vec<_>>(),
            ],
        )
        .await?;
    let members: Vec<(&str, &str)> = convos
        .iter()
        .flat_map(|convo| convo.members.iter().map(|member| (convo.id.as_str(), member.as_str())))
        .collect();
    for rows in members.chunks(ROWS) {
        let (convos, dids): (Vec<&str>, Vec<&str>) = rows.iter().copied().unzip();
        database
            .execute(
                "insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, roster_version)
                 select convo_id, did, 0, 0, 0, 1 from unnest($1::text[], $2::text[]) m (convo_id, did)",
                &[&convos, &dids],
            )
            .await?;
    }
    of_members(database, convos).await
}

/// Makes the accounts of all members known.
pub async fn of_members(database: &Client, convos: &[Convo]) -> Result<()> {
    let mut dids: Vec<&str> = convos.iter().flat_map(|convo| &convo.members).map(String::as_str).collect();
    // A person may be in several conversations, and one statement writes no row twice.
    dids.sort_unstable();
    dids.dedup();
    accounts(database, &dids).await
}
