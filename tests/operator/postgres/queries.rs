//! The queries of docs/postgres.md run as they are printed, and return what the page says.

use catbird_testkit::fleet::{Fleet, Mode};

use super::{read, recommended};

/// Returns the SQL blocks of the page.
fn blocks(page: &str) -> Vec<String> {
    let parts = page.split("```sql\n").skip(1);
    parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queries_of_the_page_run_and_show_waiters_statements_and_hot_conversations() {
    let cluster = recommended("").await;
    let client = cluster.connect().await;
    let fleet = Fleet::start(&[Mode::Advisory], &cluster.config(), &cluster.url()).await;
    let mut members = fleet.conversation(2).await;
    let convo = members[0].convo().unwrap().to_owned();
    for n in 0..5 {
        members[0].send(&format!("text {n}")).await.unwrap();
    }

    // A session holds the lock, and a replica waits for it.
    let mut holder = cluster.connect().await;
    let held = holder.transaction().await.unwrap();
    held.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", &[&convo]).await.unwrap();
    let sending = tokio::spawn(async move { members[0].send("a text that waits").await.map(drop) });
    let waiters = "select statement, blocked_by from conversation_locks where convo_id = $1 and not granted";
    let start = tokio::time::Instant::now();
    let waiter = loop {
        if let Some(row) = client.query_opt(waiters, &[&convo]).await.unwrap() {
            break row;
        }
        assert!(start.elapsed().as_secs() < 30, "no backend waits");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    let holder_pid: i32 = held.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    assert_eq!(waiter.get::<_, Option<&str>>("statement"), Some("tx/wait"));
    assert_eq!(waiter.get::<_, Vec<i32>>("blocked_by"), [holder_pid]);

    let page = read("docs/postgres.md");
    let blocks = blocks(&page);
    assert!(blocks.len() >= 6, "{}", blocks.len());
    let mut all = String::new();
    for block in &blocks {
        for message in client.simple_query(block).await.unwrap_or_else(|error| panic!("{error}\n{block}")) {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                let values = (0..row.len()).map(|n| row.get(n).unwrap_or("-"));
                all += &format!("{}\n", values.collect::<Vec<_>>().join(" | "));
            }
        }
    }
    assert!(all.contains("messages/send_message") && all.contains(&convo), "{all}");
    held.rollback().await.unwrap();
    sending.await.unwrap().unwrap();
    fleet.check().await;
}
