//! A database that was restored from a dump of a cluster with higher transaction ids.

use catbird_testkit::receiver::Receiver;

use crate::mailboxes::{count, rows, set, start, until};

/// State after a restore: rows with the ids of another cluster, far ahead of this one's, and the incarnations of that
/// cluster.
const RESTORE: &str = "
    update messages set tx = (tx::text::bigint + 1000000)::text::xid8;
    update event_stream set tx = (tx::text::bigint + 1000000)::text::xid8;
    update mailboxes set tx = (tx::text::bigint + 1000000)::text::xid8;
    update fan_out set below = (below::text::bigint + 1000000)::text::xid8;
    update incarnations set system_identifier = 0;
    delete from incarnation_witness";

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_restored_database_goes_on_handing_over_each_entry_once() {
    let app = start(&[]).await;
    let receiver = Receiver::start().await;
    let mut members = app.conversation(2).await;
    set(&members[1], &receiver).await;
    let db = app.database.connect().await;
    for _ in 0..3 {
        members[0].send("handed over there").await.unwrap();
    }
    until("the first envelopes", async || count(&db, "delivered").await == 3).await;

    // Not expanded when the dump is made: an older transaction is still running.
    let mut early = app.database.connect().await;
    let early = early.transaction().await.unwrap();
    early.query_one("select pg_current_xact_id()::text", &[]).await.unwrap();
    let mut wanted = Vec::new();
    for _ in 0..2 {
        wanted.push(members[0].send("not yet").await.unwrap().seq);
    }
    // Retention may have run, so envelopes do not show what was delivered.
    let restore = format!("begin; delete from envelopes; {RESTORE}; commit");
    db.batch_execute(&restore).await.unwrap();
    early.rollback().await.unwrap();
    for _ in 0..2 {
        wanted.push(members[0].send("here").await.unwrap().seq);
    }

    until("the others", async || count(&db, "delivered").await == 4).await;
    wanted.push(members[0].send("at last").await.unwrap().seq);
    until("the last one", async || count(&db, "delivered").await >= 5).await;
    let made = rows(&db, "select recipient_did, seq from envelopes order by seq").await;
    let seqs: Vec<u64> = made.iter().map(|(_, seq)| seq.cast_unsigned()).collect();
    assert_eq!(seqs, wanted);
    app.finish().await;
}
