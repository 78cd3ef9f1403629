//! The write path with commands that misbehave, on a real database.

use std::sync::Arc;

use catbird_testkit::cluster::{TestDatabase, database};

use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::metrics::Registry;
use crate::store::StoreMetrics;
use crate::store::epochs::Swap;
use crate::store::{
    Abort, BatchOutcome, Batched, Command, Exclusive, ExclusiveMany, LockMode, Locks, Position, Queries, Query,
    Refused, Store, StoreConfig, epochs,
};

const SUCCEED: Query = Query { name: "test/succeed", text: "select 1", types: &[] };
const FAIL: Query = Query { name: "test/fail", text: "select 1 / 0", types: &[] };
/// A deadlock's victim, as far as the driver can tell.
const DEADLOCK: Query = Query {
    name: "test/deadlock",
    text: "do $$ begin raise exception 'victim' using errcode = 'deadlock_detected'; end $$",
    types: &[],
};

/// Moves the position, runs a statement, and says that all is well whatever came of it.
struct Careless(ConvoId, &'static Query);

impl Command for Careless {
    const NAME: &'static str = "careless";
    type Output = ();

    fn convo(&self) -> &ConvoId {
        &self.0
    }

    fn caller(&self) -> &Did {
        Did::nobody()
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<(), Abort> {
        assert!(matches!(epochs::extend(x).await?, Swap::To(_)));
        let _ = x.tx().rows(self.1, &[]).await;
        Ok(())
    }
}

/// Moves the position and panics.
struct Panics(ConvoId);

impl Command for Panics {
    const NAME: &'static str = "panics";
    type Output = ();

    fn convo(&self) -> &ConvoId {
        &self.0
    }

    fn caller(&self) -> &Did {
        Did::nobody()
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<(), Abort> {
        epochs::extend(x).await?;
        panic!("a defect in a command")
    }
}

struct Setting {
    store: Store,
    database: TestDatabase,
}

/// A store with a single connection, so that whatever state one unit of work leaves it in meets the next.
async fn setting() -> Setting {
    let database = database().await;
    let insert = "insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch)
        values ('c', 'g', 'did:plc:a', 's', 0, 0)";
    database.connect().await.batch_execute(insert).await.unwrap();
    let config = StoreConfig { database: database.config.clone(), max_connections: 1, pooler: false };
    Setting { store: Store::new(config, StoreMetrics::register(&mut Registry::default())).unwrap(), database }
}

impl Setting {
    async fn careless(&self, query: &'static Query, mode: LockMode) -> Result<(), Error> {
        let command = Arc::new(Careless(convo(), query));
        self.store.run(command, mode).await.map(|_| ()).map_err(Error::from)
    }

    /// Returns the newest seq, as other transactions see it.
    async fn seq(&self) -> i64 {
        let row = self.database.connect().await.query_one("select last_seq from conversations", &[]).await.unwrap();
        row.get(0)
    }
}

fn convo() -> ConvoId {
    "c".parse().unwrap()
}

/// PostgreSQL answers COMMIT in a failed transaction with ROLLBACK, which the driver takes for success.
#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_statement_error_never_becomes_a_commit() {
    let setting = setting().await;
    for mode in [LockMode::Lock, LockMode::Remembered(Position { epoch: 0, seq: 0 })] {
        let error =
            setting.careless(&FAIL, mode).await.expect_err("nothing was committed, so nothing may be acknowledged");
        assert_eq!(error.code, Code::InternalServerError);
        assert_eq!(setting.seq().await, 0);
    }
    setting.careless(&SUCCEED, LockMode::Lock).await.unwrap();
    assert_eq!(setting.seq().await, 1, "the same command without the error is committed, on the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_deadlock_never_becomes_a_commit() {
    let setting = setting().await;
    setting.careless(&DEADLOCK, LockMode::Lock).await.expect_err("nothing was committed");
    assert_eq!(setting.seq().await, 0);
}

impl Batched for Careless {
    const BATCH_NAME: &'static str = "careless.batch";
    const STATEMENT: &'static Query = &FAIL;

    async fn execute_batch(x: &ExclusiveMany<'_>, _: &[Arc<Self>]) -> Result<Vec<BatchOutcome<()>>, Abort> {
        let _ = x.tx.rows(&FAIL, &[]).await;
        Ok(vec![BatchOutcome::Committed { output: (), at: Position { epoch: 0, seq: 0 } }])
    }

    async fn refusal(&self, _: &impl Queries, _: &Refused) -> Result<(), Abort> {
        unreachable!("it refuses nothing")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_swallows_an_error_is_none_and_its_connection_goes_on() {
    let setting = setting().await;
    for locks in [Locks::Try, Locks::Wait, Locks::None] {
        let done = setting.store.batch(vec![Arc::new(Careless(convo(), &FAIL))], locks, || None).await;
        assert_eq!(done.err().expect("PostgreSQL answered COMMIT with ROLLBACK").code, Code::InternalServerError);
    }
    setting.careless(&SUCCEED, LockMode::Lock).await.expect("the only connection is outside of any transaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_panics_is_rolled_back_and_gives_everything_back() {
    let setting = setting().await;
    let store = setting.store.clone();
    let panicking = setting.store.detached(async move {
        store.run(Arc::new(Panics(convo())), LockMode::Lock).await.map(|_| ()).map_err(Error::from)
    });
    assert_eq!(panicking.await.unwrap_err().code, Code::InternalServerError);
    setting.careless(&SUCCEED, LockMode::Lock).await.expect("the only connection and the lock are free again");
    assert_eq!(setting.seq().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_on_the_disk_of_the_server_at_least() {
    const SHOW: Query =
        Query { name: "test/show", text: "select current_setting('synchronous_commit') as durability", types: &[] };
    let database = database().await;
    for pooler in [false, true] {
        for (given, used) in [("off", "local"), ("local", "local"), ("on", "on"), ("remote_apply", "remote_apply")] {
            let name = database.config.get_dbname().unwrap();
            let default = format!("alter database \"{name}\" set synchronous_commit = {given}");
            database.connect().await.batch_execute(&default).await.unwrap();
            let config = StoreConfig { database: database.config.clone(), max_connections: 1, pooler };
            let store = Store::new(config, StoreMetrics::register(&mut Registry::default())).unwrap();
            let row = store.reader().await.unwrap().find(&SHOW, &[]).await.unwrap().unwrap();
            assert_eq!(row.get::<_, &str>("durability"), used, "{given}, pooler: {pooler}");
        }
    }
}
