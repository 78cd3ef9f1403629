//! Commits: one statement accepts or refuses each, with its changes of the roster and everything that comes along.

use chrono::{DateTime, Utc};

use crate::config::ExternalCommitLimits;
use crate::ids::{ConvoId, Did, EntryId};

use super::epochs;
use super::key_packages::Hash;
use super::position::Position;
use super::query::{Query, query};
use super::refusal::{self, Refusal, Refused};
use super::session::{Params, Queries};
use super::welcomes::NewWelcome;
use super::{Abort, Exclusive, ExclusiveMany};

query! {
    SUBMIT_COMMIT = "commits/submit_commit" (
        TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT8_ARRAY, BYTEA_ARRAY, BYTEA_ARRAY, TEXT_ARRAY, BYTEA_ARRAY, TEXT_ARRAY,
        BYTEA_ARRAY, INT8_ARRAY, TEXT_ARRAY, BOOL_ARRAY, BOOL_ARRAY, INT8_ARRAY, TEXT_ARRAY, TEXT_ARRAY, BYTEA_ARRAY, INT8_ARRAY,
        BYTEA_ARRAY, TEXT_ARRAY, INT8, TIMESTAMPTZ, BYTEA_ARRAY, INT8_ARRAY
    );
}

query! {
    ADMIT_EXTERNAL = "commits/admit_external" (TEXT, TEXT, TEXT, FLOAT8, INT8, INT8, BYTEA);
    EXTERNAL_WAIT = "commits/external_wait" (TEXT, TEXT, TEXT, FLOAT8, INT8, INT8, INT8);
}

/// Counts an external commit that this transaction has accepted, which creates `epoch`, unless there were too many. Returns the milliseconds until there is room;
/// `None` if it was counted.
pub(crate) async fn admit_external(
    x: &Exclusive<'_>,
    sender: &Did,
    identity: &str,
    signature_key: &[u8],
    limits: ExternalCommitLimits,
    epoch: i64,
) -> Result<Option<u64>, Abort> {
    let (seconds, most) = (limits.seconds as f64, limits.per_convo as i64);
    let params: Params<'_> = &[&x.convo.as_str(), &sender.as_str(), &identity, &seconds, &most, &epoch, &signature_key];
    let row = x.tx.find(&ADMIT_EXTERNAL, params).await?;
    let wait = row.and_then(|row| row.get::<_, Option<i64>>("wait_ms"));
    Ok(wait.map(|wait| u64::try_from(wait).unwrap_or_default()))
}

/// Returns the milliseconds until there is room for an external commit of this generation and epoch, by what is stored now. `None` if there
/// is room, or if the statement that accepts commits has another reason to refuse it.
pub(crate) async fn external_wait(
    db: &impl Queries,
    convo: &ConvoId,
    sender: &Did,
    identity: &str,
    limits: ExternalCommitLimits,
    (generation, epoch): (i64, i64),
) -> Result<Option<u64>, Abort> {
    let (seconds, most) = (limits.seconds as f64, limits.per_convo as i64);
    let params: Params<'_> = &[&convo.as_str(), &sender.as_str(), &identity, &seconds, &most, &generation, &epoch];
    let row = db.find(&EXTERNAL_WAIT, params).await?;
    Ok(row.map(|row| u64::try_from(row.get::<_, i64>("wait_ms")).unwrap_or_default()))
}

/// The statement of [`submit`].
pub(crate) const SUBMIT: &Query = &SUBMIT_COMMIT;

/// A commit, or an addition to the roster alone, with everything that comes along.
pub struct NewCommit<'a> {
    pub convo: &'a ConvoId,
    /// The commit's id in the log.
    pub id: &'a EntryId,
    pub sender: &'a Did,
    /// Number of the group that the commit's own framing names.
    pub generation: Option<i64>,
    /// The epoch that the commit's own framing says it was made in.
    pub epoch: Option<i64>,
    /// The commit; `None` to add people on the roster alone.
    pub commit: Option<&'a [u8]>,
    /// SHA-256 of the commit.
    pub hash: Option<&'a [u8]>,
    /// No person is in it twice.
    pub people: Vec<Person<'a>>,
    pub welcome: Option<&'a NewWelcome>,
    /// Key packages to use: owners and hashes. Their owners are among the people.
    pub key_packages: &'a [(Did, Hash)],
    /// GroupInfo of the epoch that the commit creates. `None` without a commit.
    pub group_info: Option<&'a [u8]>,
    pub method: &'static str,
    /// The idempotency key with the request's fingerprint.
    pub idempotency: Option<(&'a str, &'a [u8; 32])>,
    pub now: DateTime<Utc>,
}

/// A person that a commit is about. One that is neither added nor removed owns a key package that is used.
#[derive(Debug, Clone, Copy)]
pub struct Person<'a> {
    pub did: &'a Did,
    pub added: bool,
    pub removed: bool,
}

/// Submits commits. Returns where each left its conversation, or why it was refused. No two of them may have a conversation, a key package
/// or an idempotency key in common.
pub(crate) async fn submit(
    x: &ExclusiveMany<'_>,
    commits: &[NewCommit<'_>],
    max_members: i64,
) -> Result<Vec<Result<Position, Refused>>, Abort> {
    fn column<'a, T>(commits: &'a [NewCommit<'a>], value: impl Fn(&'a NewCommit<'a>) -> T) -> Vec<T> {
        commits.iter().map(value).collect()
    }
    /// The lists of all commits in one, each element with the number of its commit.
    fn lines<'a, T: 'a, I: Iterator<Item = T>>(
        commits: &'a [NewCommit<'a>],
        of: impl Fn(&'a NewCommit<'a>) -> I,
    ) -> (Vec<i64>, Vec<T>) {
        commits.iter().zip(1..).flat_map(|(new, place)| of(new).map(move |line| (place, line))).unzip()
    }
    let (naming, people) = lines(commits, |new| new.people.iter());
    let (addressing, to) = lines(commits, |new| new.welcome.into_iter().flat_map(|welcome| &welcome.recipients));
    let (using, used) = lines(commits, |new| new.key_packages.iter());
    let params: Params<'_> = &[
        &column(commits, |new| new.convo.as_str()),
        &column(commits, |new| new.id.as_str()),
        &column(commits, |new| new.sender.as_str()),
        &column(commits, |new| new.method),
        &column(commits, |new| new.epoch),
        &column(commits, |new| new.commit),
        &column(commits, |new| new.hash),
        &column(commits, |new| new.idempotency.map(|(key, _)| key)),
        &column(commits, |new| new.idempotency.map(|(_, fingerprint)| fingerprint.as_slice())),
        &column(commits, |new| new.welcome.map(|welcome| welcome.id.as_str())),
        &column(commits, |new| new.welcome.map(|welcome| welcome.bytes.as_slice())),
        &naming,
        &people.iter().map(|person| person.did.as_str()).collect::<Vec<_>>(),
        &people.iter().map(|person| person.added).collect::<Vec<_>>(),
        &people.iter().map(|person| person.removed).collect::<Vec<_>>(),
        &addressing,
        &to.iter().map(|line| line.id.as_str()).collect::<Vec<_>>(),
        &to.iter().map(|line| line.did.as_str()).collect::<Vec<_>>(),
        &to.iter().map(|line| line.key_package_hash.as_deref()).collect::<Vec<_>>(),
        &using,
        &used.iter().map(|(_, hash)| hash.as_slice()).collect::<Vec<_>>(),
        &used.iter().map(|(owner, _)| owner.as_str()).collect::<Vec<_>>(),
        &max_members,
        &commits.iter().map(|new| new.now).max(),
        &column(commits, |new| new.group_info),
        &column(commits, |new| new.generation),
    ];
    let rows = x.tx.rows(&SUBMIT_COMMIT, params).await?;
    let mut results = refusal::in_order(&rows, commits.len(), |row| Position::from(row))?;
    for row in &rows {
        let place: i64 = row.get("place");
        if let Err(refused) = &mut results[place as usize - 1] {
            refused.about = row.get("about");
        }
    }
    Ok(results)
}

/// Submits one commit.
pub(crate) async fn submit_one(
    x: &mut Exclusive<'_>,
    commit: NewCommit<'_>,
    max_members: i64,
) -> Result<Result<Position, Refused>, Abort> {
    let (commits, mut again) = ([commit], false);
    loop {
        match refusal::only(submit(&x.many(), &commits, max_members).await?) {
            Err(Refused { refusal: Refusal::Moved, .. }) => epochs::moved(x).await?,
            // A replica without locks may have used the package, with a commit that the snapshot does not see. The next one does.
            Err(Refused { refusal: Refusal::KeyPackage, .. }) if !again => again = true,
            outcome => {
                x.at = outcome.as_ref().map_or_else(|refused| refused.at, |at| Some(*at));
                return Ok(outcome);
            }
        }
    }
}
