//! Acknowledged requests, and their comparison with the database, row by row.

use std::collections::HashMap;
use std::sync::Mutex;

use catbird_client::persona::Persona;
use tokio::sync::watch;
use tokio_postgres::{Config, NoTls};

/// One acknowledged request.
#[derive(Debug, Clone)]
pub struct Ack {
    /// Id of the message; commits have none that clients see.
    pub id: Option<String>,
    pub key: Option<String>,
    /// DID that the commit added.
    pub newcomer: Option<String>,
    pub seq: u64,
    pub epoch: u64,
    /// The ciphertext or the commit, unique in a load.
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
struct Book {
    /// The last entry before the load.
    after: u64,
    acks: Vec<(String, Ack)>,
}

/// Acknowledgements of a load, by conversation.
#[derive(Debug, Default)]
pub struct Ledger {
    books: Mutex<HashMap<String, Book>>,
    count: watch::Sender<u64>,
}

impl Ledger {
    pub(super) fn open(&self, convo: &str, after: u64) {
        self.books.lock().unwrap().insert(convo.to_owned(), Book { after, acks: Vec::new() });
    }

    pub(super) fn enter(&self, who: &Persona, ack: Ack) {
        let mut books = self.books.lock().unwrap();
        let book = books.get_mut(who.convo().unwrap()).expect("the book was opened when the load began");
        book.acks.push((who.did().to_owned(), ack));
        drop(books);
        self.count.send_modify(|count| *count += 1);
    }

    pub(super) fn acknowledged(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    /// Compares with the database: each acknowledgement is one row at its position, there is no other row, and the rows
    /// that belong to a commit or a key exist.
    /// belongs to a commit or a key is there as well.
    pub async fn audit(&self, database: &Config) {
        let (client, connection) = database.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        let books = std::mem::take(&mut *self.books.lock().unwrap());
        for (convo, Book { after, acks }) in books {
            assert!(!acks.is_empty(), "no request was acknowledged in {convo}");
            let rows = client
                .query(
                    "select seq, id, sender_did, epoch, ciphertext from messages where convo_id = $1 and seq > $2
                      order by seq",
                    &[&convo, &(after as i64)],
                )
                .await
                .unwrap();
            let seqs: Vec<i64> = rows.iter().map(|row| row.get("seq")).collect();
            let dense: Vec<i64> = (after as i64 + 1..=after as i64 + rows.len() as i64).collect();
            assert_eq!(seqs, dense, "the log of {convo} is not dense");
            let mut by_bytes: HashMap<&[u8], Vec<_>> = HashMap::new();
            for row in &rows {
                by_bytes.entry(row.get("ciphertext")).or_default().push(row);
            }
            for (sender, ack) in &acks {
                let found = by_bytes.remove(ack.bytes.as_slice()).unwrap_or_default();
                let [row] = found.as_slice() else {
                    panic!("entry {} was acknowledged, and is in the log {} times", ack.seq, found.len())
                };
                let (seq, epoch): (i64, i64) = (row.get("seq"), row.get("epoch"));
                assert_eq!((seq as u64, epoch as u64), (ack.seq, ack.epoch), "acknowledged elsewhere");
                assert_eq!(row.get::<_, &str>("sender_did"), sender);
                assert!(ack.id.as_deref().is_none_or(|id| id == row.get::<_, &str>("id")), "{ack:?}");
            }
            let strangers: Vec<i64> = by_bytes.values().flatten().map(|row| row.get("seq")).collect();
            assert!(strangers.is_empty(), "entries {strangers:?} of {convo} were never acknowledged");

            let expected = |of: fn(&Ack) -> Option<&String>| {
                let mut all: Vec<String> = acks.iter().filter_map(|(_, ack)| of(ack).cloned()).collect();
                all.sort_unstable();
                all
            };
            let joined = "select member_did as name from members where convo_id = $1 and joined_seq > $2 order by 1";
            let joined = client.query(joined, &[&convo, &(after as i64)]).await.unwrap();
            let joined: Vec<String> = joined.iter().map(|row| row.get("name")).collect();
            let mut newcomers = expected(|ack| ack.newcomer.as_ref());
            newcomers.sort_unstable();
            assert_eq!(joined.len(), newcomers.len(), "each accepted commit added one member to {convo}");
            assert!(newcomers.iter().all(|did| joined.contains(did)), "and the one that it named");
            let keys = expected(|ack| ack.key.as_ref());
            let recorded = "select count(*) from idempotency_records where key = any($1)";
            let recorded: i64 = client.query_one(recorded, &[&keys]).await.unwrap().get(0);
            assert_eq!(recorded as usize, keys.len(), "each key of an accepted request is on record, once");
        }
    }
}
