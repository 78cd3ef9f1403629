//! Disasters of the database itself: it is killed, replaced by a standby that is complete or lacks the end, restored
//! from a dump, or has a transaction open all the time, while members send, commit and follow without pause. Each
//! client returns with its cursor. In the end it has what the database has, entry by entry and id by id; if something
//! was lost, each client that had it was told to start over.

use std::process::Command;
use std::sync::atomic::Ordering;

use catbird_client::xrpc::bytes_value;
use catbird_server::check;
use catbird_testkit::cluster::OwnCluster;
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::proxy::Proxy;
use serde_json::json;
use tokio_postgres::Client;

use super::soak::Size;
use super::soak::cast::Cast;
use super::*;

const MODES: [Mode; 2] = [Mode::Advisory, Mode::Actors];
/// Size of the runs in every test.
const SHORT: Size =
    Size { lasts: Duration::ZERO, members: 12, conversations: 4, roster: 5, pace: Duration::from_millis(500) };
/// Number of acknowledged requests between two events.
const SOME: u64 = 40;

struct Scene {
    postgres: OwnCluster,
    /// Address that servers use unless they know the hosts. It stays the same when another PostgreSQL takes over.
    address: Proxy,
    url: String,
    replicas: Vec<Replica>,
    cast: Cast,
}

impl Scene {
    async fn set(size: Size, may_lose: bool) -> Self {
        Self::with(OwnCluster::start().await, None, size, may_lose).await
    }

    /// Starts servers that connect to PostgreSQL at `url`, or through a proxy.
    async fn with(postgres: OwnCluster, url: Option<String>, size: Size, may_lose: bool) -> Self {
        let address = Proxy::before(&format!("http://127.0.0.1:{}", postgres.port())).await;
        let proxied = format!("postgresql://catbird@{}/catbird", address.base().trim_start_matches("http://"));
        let url = url.unwrap_or(proxied);
        let replicas = replicas(&url).await;
        let cast = Cast::start(size, bases(&replicas), may_lose).await;
        Self { postgres, address, url, replicas, cast }
    }

    /// Kills PostgreSQL and starts it again.
    async fn kill(&mut self) {
        self.postgres.kill().await;
        self.postgres.resume().await;
    }

    /// Starts a standby that every COMMIT waits for.
    async fn standby_in_step(&self) -> OwnCluster {
        let standby = self.postgres.standby().await;
        in_step(&self.postgres).await;
        standby
    }

    /// Lets PostgreSQL's host lose power, and promotes a standby.
    async fn promote(&mut self, standby: OwnCluster) {
        self.postgres.lose_power().await;
        let client = standby.connect().await;
        assert!(client.query_one("select pg_promote()", &[]).await.unwrap().get::<_, bool>(0));
        // Other clients arrive before the servers, and use the transaction ids of the lost end.
        burn(&client, 100).await;
        self.postgres = standby;
        self.address.redirect(&format!("http://127.0.0.1:{}", self.postgres.port()));
        self.address.cut_all();
    }

    /// Stops the servers and starts them on another cluster with a restored dump. Later writes are lost.
    async fn restore(&mut self) {
        let dump = std::env::temp_dir().join(format!("catbird-{}.dump", ulid::Ulid::new()));
        let file = dump.to_str().unwrap().to_owned();
        burn(&self.postgres.connect().await, 10_000).await;
        tool("pg_dump", &["--format=custom", "--file", &file, &self.postgres.url()]).await;
        self.cast.progress(SOME).await;
        self.replicas.iter_mut().for_each(Replica::kill);
        let elsewhere = OwnCluster::start_empty().await;
        tool("pg_restore", &["--single-transaction", "--no-owner", "--dbname", &elsewhere.url(), &file]).await;
        std::fs::remove_file(dump).unwrap();
        let lower = "select pg_snapshot_xmax(pg_current_snapshot()) < max(tx::text::bigint)::text::xid8 from messages";
        let lower: bool = elsewhere.connect().await.query_one(lower, &[]).await.unwrap().get(0);
        assert!(lower, "the new cluster has higher ids than the old one");
        self.postgres = elsewhere;
        self.address.redirect(&format!("http://127.0.0.1:{}", self.postgres.port()));
        self.replicas = replicas(&self.url).await;
        self.cast.go_to(bases(&self.replicas));
    }

    /// Kills PostgreSQL when all clients have a cursor from after ids that it forgets. Returns whether entries got such
    /// ids.
    async fn kill_where_ids_come_again(&mut self) -> bool {
        // A dump has brought entries whose ids have no meaning here.
        const NEWEST: &str = "select coalesce(max(tx::text::bigint), 0) from messages
                               where era = (select era from incarnations order by id desc limit 1)";
        let held = self.cast.hold().await;
        let client = self.postgres.connect().await;
        burn(&client, 300).await;
        let seen: i64 = number(&client, "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint").await;
        let newest = number(&client, NEWEST).await;
        // An event carries the cursor of the pass before its own, so the second one's is from after those ids.
        for times in 1..=2 {
            for convo in &self.cast.convos {
                let members = convo.members();
                let (one, other) = (&self.cast.people[members[0]], &self.cast.checkers[members[1]]);
                let here = |seen: &crate::delivery::checker::Seen| {
                    seen.others
                        .iter()
                        .filter(|(name, data)| name == "typingEvent" && data["convoId"] == json!(convo.id))
                        .count()
                };
                let before = other.with(here);
                let typing = json!({ "convoId": convo.id, "isTyping": times == 1 });
                until("an event", async || {
                    // Without Redis the other replicas are not notified.
                    for replica in &self.replicas {
                        let sent =
                            one.at(replica.base.parse().unwrap()).procedure("sendTypingIndicator", &typing).await;
                        assert!(sent.is_ok_and(|reply| reply.is_ok()));
                    }
                    other.within(Duration::from_secs(1), |seen| here(seen) > before).await
                })
                .await;
            }
        }
        self.kill().await;
        drop(held);
        self.cast.progress(SOME).await;
        let client = self.postgres.connect().await;
        let first = format!(
            "select min(tx::text::bigint) from messages
              where tx > '{newest}'::xid8 and era = (select era from incarnations order by id desc limit 1)"
        );
        let came_again = number(&client, &first).await < seen;
        burn(&client, 400).await;
        came_again
    }

    /// Ends the traffic and compares. Nothing acknowledged may be lost, unless `may_lose`.
    async fn end(mut self, may_lose: bool) {
        let db = self.postgres.connect().await;
        let (verdict, missing, wrong) = self.cast.end(&db).await;
        if !missing.is_empty() || !wrong.is_empty() {
            // The servers' logs may show the cause.
            self.replicas.iter().flat_map(Replica::log).for_each(|line| println!("{line}"));
        }
        assert!(wrong.is_empty(), "{} findings, incomplete: {missing:#?}\n{}", wrong.len(), wrong.join("\n"));
        assert!(missing.is_empty(), "incomplete, and yet without a finding: {missing:?}");
        let acknowledged =
            self.cast.counts.messages.load(Ordering::SeqCst) + self.cast.counts.commits.load(Ordering::SeqCst);
        println!("  {acknowledged} acknowledged, {} entries, {}", verdict.entries, self.progress());
        assert!(may_lose || verdict.entries >= acknowledged, "{} entries of {acknowledged} are there", verdict.entries);
        assert!(may_lose || self.anew() == 0, "a client had to start over although nothing was lost");
        assert!(verdict.ended > 0 && self.cast.reconnects() > 0, "no member was removed, or no stream was cut");
        let report = check::run(&self.postgres.config()).await.unwrap();
        assert!(report.is_clean(), "{report}");
    }

    /// Returns how often clients were told to start over.
    fn anew(&self) -> u64 {
        self.cast.sum(|seen| seen.anew.values().sum())
    }

    fn progress(&self) -> String {
        let (events, again) = self.cast.delivered();
        let (reconnects, anew) = (self.cast.reconnects(), self.anew());
        format!("{events} events delivered ({again} again), {reconnects} reconnects, {anew} begun anew")
    }
}

/// Maximum number of kills until ids repeat.
const MAX_KILLS: u32 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn p5_ids_repeat_after_postgres_is_killed_and_no_event_is_missed() {
    let mut scene = Scene::set(SHORT, false).await;
    // Unflushed write-ahead log stays in memory for ten seconds instead of a fifth of one, so that the crash loses it.
    set(&scene.postgres, "wal_writer_delay", "10s").await;
    let mut came_again = false;
    for _ in 0..MAX_KILLS {
        scene.cast.progress(SOME).await;
        // PostgreSQL may have flushed the ids by chance, which is more likely on a busy machine.
        came_again |= scene.kill_where_ids_come_again().await;
        scene.cast.progress(SOME).await;
        scene.kill().await;
        if came_again {
            break;
        }
    }
    assert!(came_again, "no id came again");
    scene.cast.progress(SOME).await;
    scene.end(false).await;
}

/// The servers know both hosts, as docs/operations.md describes.
#[tokio::test(flavor = "multi_thread")]
async fn p5_a_complete_standby_takes_over_and_no_event_is_missed() {
    let postgres = OwnCluster::start().await;
    let standby = postgres.standby().await;
    in_step(&postgres).await;
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", postgres.port(), standby.port());
    let url = format!("postgresql://catbird@{hosts}/catbird?target_session_attrs=read-write");
    let mut scene = Scene::with(postgres, Some(url), SHORT, false).await;
    scene.cast.progress(SOME).await;
    scene.promote(standby).await;
    scene.cast.progress(SOME).await;
    scene.end(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_an_incomplete_standby_takes_over_and_clients_of_lost_entries_are_told() {
    let mut scene = Scene::set(SHORT, true).await;
    let standby = scene.postgres.standby().await;
    scene.cast.progress(SOME).await;
    fall_behind(&scene.postgres, &standby).await;
    let commits = || scene.cast.counts.commits.load(Ordering::SeqCst);
    let lost = commits() + 3 * SHORT.conversations as u64;
    until("commits that will be lost", async || commits() >= lost).await;
    scene.promote(standby).await;
    scene.cast.progress(SOME).await;
    until("word of what is lost", async || scene.anew() > 0).await;
    let rolled_back = &scene.cast.counts.rolled_back;
    until("word of lost commits", async || rolled_back.load(Ordering::SeqCst) > 0).await;
    scene.end(true).await;
}

/// The last event that a client had is all that is lost: its cursor shows that it was read.
#[tokio::test(flavor = "multi_thread")]
async fn p5_a_client_with_the_only_lost_entry_is_told() {
    the_last_entry_is_lost(false).await;
}

/// The same for a client that was away, at a server that did not see the entry arrive.
#[tokio::test(flavor = "multi_thread")]
async fn p5_a_client_that_caught_up_on_a_lost_entry_is_told() {
    the_last_entry_is_lost(true).await;
}

async fn the_last_entry_is_lost(away: bool) {
    let mut scene = Scene::set(SHORT, true).await;
    let standby = scene.postgres.standby().await;
    scene.cast.progress(SOME).await;
    let held = scene.cast.hold().await;
    let primary = scene.postgres.connect().await;
    until("the standby to have all", async || {
        number(&primary, "select count(*) from pg_stat_replication where replay_lsn = pg_current_wal_lsn()").await == 1
    })
    .await;
    fall_behind(&scene.postgres, &standby).await;
    let convo = scene.cast.convos[0].clone();
    let members = convo.members();
    let last = json!({ "convoId": convo.id, "ciphertext": bytes_value(b"the last"), "epoch": convo.epoch() });
    if away {
        scene.replicas.iter_mut().for_each(Replica::kill);
        scene.replicas = replicas(&scene.url).await;
    }
    let sender = scene.cast.people[members[0]].at(scene.replicas[0].base.parse().unwrap());
    let reply = sender.procedure("sendMessage", &last).await.unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    let seq = reply.number("seq").unwrap();
    if away {
        scene.replicas = replicas(&scene.url).await;
        scene.cast.go_to(bases(&scene.replicas));
    }
    for member in &members {
        scene.cast.checkers[*member].until("the last entry", |seen| seen.has(&convo.id, seq)).await;
    }
    scene.promote(standby).await;
    drop(held);
    for member in &members {
        scene.cast.checkers[*member].until("word of what is lost", |seen| !seen.anew.is_empty()).await;
    }
    scene.cast.progress(SOME).await;
    scene.end(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_dump_continues_in_a_cluster_with_lower_ids_and_all_clients_are_told() {
    let mut scene = Scene::set(SHORT, true).await;
    scene.cast.progress(SOME).await;
    scene.restore().await;
    scene.cast.progress(SOME).await;
    for checker in &scene.cast.checkers {
        checker.until("word of the restore", |seen| seen.anew.contains_key("OutdatedCursor")).await;
    }
    scene.end(true).await;
}

/// It neither delays clients nor repeats everything since its start to those that return.
#[tokio::test(flavor = "multi_thread")]
async fn p5_with_a_transaction_that_stays_open_no_event_is_missed_and_few_repeat() {
    let mut scene = Scene::set(SHORT, false).await;
    let open = scene.postgres.connect().await;
    let begin = "begin isolation level repeatable read; select pg_current_xact_id(); select count(*) from messages";
    open.batch_execute(begin).await.unwrap();
    for round in 0..6 {
        scene.cast.progress(SOME).await;
        let which = round % MODES.len();
        let replacement = Replica::start(MODES[which], &scene.url, &[]).await;
        let mut old = std::mem::replace(&mut scene.replicas[which], replacement);
        scene.cast.go_to(bases(&scene.replicas));
        old.kill();
    }
    scene.cast.progress(SOME).await;
    let (events, again) = scene.cast.delivered();
    assert!(again * 4 < events, "{again} of {events} events came again");
    open.batch_execute("select count(*) from messages; commit").await.unwrap();
    scene.end(false).await;
}

/// Runs all of them one after the other for the time of a soak.
pub async fn soak(size: Size) {
    let mut scene = Scene::set(size, true).await;
    set(&scene.postgres, "wal_writer_delay", "10s").await;
    let (begin, mut rounds) = (Instant::now(), 0);
    while begin.elapsed() < size.lasts || rounds < 4 {
        let open = scene.postgres.connect().await;
        open.batch_execute("begin isolation level repeatable read; select pg_current_xact_id()").await.unwrap();
        scene.cast.progress(SOME).await;
        match rounds % 4 {
            0 => drop(scene.kill_where_ids_come_again().await),
            1 => {
                let standby = scene.standby_in_step().await;
                scene.cast.progress(SOME).await;
                scene.promote(standby).await;
            }
            2 => {
                let standby = scene.postgres.standby().await;
                scene.cast.progress(SOME).await;
                fall_behind(&scene.postgres, &standby).await;
                scene.cast.progress(SOME).await;
                scene.promote(standby).await;
            }
            _ => scene.restore().await,
        }
        rounds += 1;
        scene.cast.progress(SOME).await;
        println!("  {:>4} s, {rounds} rounds: {}", begin.elapsed().as_secs(), scene.progress());
    }
    assert!(scene.anew() > 0, "no client was told about the loss");
    scene.end(true).await;
}

async fn replicas(url: &str) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for mode in MODES {
        replicas.push(Replica::spawn(mode, url, &[]).await);
    }
    for replica in &replicas {
        replica.ready().await;
    }
    replicas
}

fn bases(replicas: &[Replica]) -> Vec<String> {
    replicas.iter().map(|replica| replica.base.clone()).collect()
}

/// Makes every COMMIT of `primary` wait for its standby.
async fn in_step(primary: &OwnCluster) {
    set(primary, "synchronous_standby_names", "standby").await;
    let client = primary.connect().await;
    until("a synchronous standby", async || {
        number(&client, "select count(*) from pg_stat_replication where sync_state = 'sync'").await == 1
    })
    .await;
}

/// Stops replication to the standby; COMMITs no longer wait for it.
async fn fall_behind(primary: &OwnCluster, standby: &OwnCluster) {
    set(standby, "primary_conninfo", "").await;
    let client = primary.connect().await;
    until("the end of replication", async || number(&client, "select count(*) from pg_stat_replication").await == 0)
        .await;
}

async fn set(cluster: &OwnCluster, name: &str, value: &str) {
    let client = cluster.connect().await;
    client.batch_execute(&format!("alter system set {name} = '{value}'")).await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Consumes this many transaction ids.
async fn burn(client: &Client, ids: i64) {
    let loops = format!("do $$ begin for i in 1..{ids} loop perform pg_current_xact_id(); commit; end loop; end $$");
    client.batch_execute(&loops).await.unwrap();
}

async fn tool(name: &'static str, arguments: &[&str]) {
    let mut command = Command::new(name);
    command.args(arguments);
    let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
}
