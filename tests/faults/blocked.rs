//! P7, P10: a conversation whose lock is held for ever is refused in time, and other conversations are not affected;
//! changes of the lock's holder count.

use std::cell::Cell;
use std::time::Duration;

use catbird_client::xrpc::Reply;
use catbird_testkit::cluster::{TestDatabase, database};
use catbird_testkit::fleet::{Fleet, Mode, Replica};
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::tools::{SEND, entries, eventually, lock_waiters, message, metric, recovered};

/// Maximum time of a request outside the blocked conversation, on a busy machine.
const QUICKLY: Duration = Duration::from_secs(2);

/// Blocks a conversation with the lock that the mode's writers need, until the connection is dropped.
pub async fn block(database: &TestDatabase, mode: Mode, convo: &str) -> Client {
    let blocker = database.connect().await;
    blocker.batch_execute("begin").await.unwrap();
    let block = match mode {
        Mode::Advisory => "select 1 from pg_advisory_xact_lock(hashtextextended($1, 0))",
        Mode::Actors => "select 1 from conversations where id = $1 for update",
    };
    blocker.query(block, &[&convo]).await.unwrap();
    blocker
}

fn is_overloaded(reply: &Reply) -> bool {
    let named = (reply.status, reply.error()) == (503, Some("Overloaded"));
    named && reply.headers.contains_key("retry-after") && reply.body["recovery"] == "retrySame"
}

/// Maximum time of an answer: an AT Protocol PDS disconnects after ten seconds, and its client would not learn to
/// retry.
pub const ANSWERED: Duration = Duration::from_millis(9_500);

/// Slow: `lock_timeout` is five seconds, and the maximum wait in a queue six.
pub async fn a_blocked_conversation_is_refused_in_time_and_starves_no_other(mode: Mode) {
    let database = database().await;
    let fleet = Fleet::start(&[mode], &database.config, &database.url).await;
    let blocked = fleet.conversation(1).await;
    let free = fleet.conversation(1).await;
    let convo = blocked[0].convo().unwrap();
    let blocker = block(&database, mode, convo).await;
    let watcher = database.connect().await;

    let start = Instant::now();
    let waiting = join_all((0..100).map(|n| {
        let body = message(&blocked[0], &n.to_string());
        let xrpc = &blocked[0].xrpc;
        async move { (xrpc.procedure("sendMessage", &body).await.unwrap(), start.elapsed()) }
    }));
    // Each of these waits for the lock alone, behind the others.
    let leave = json!({ "convoId": convo });
    let leaving = join_all((0..4).map(|_| async {
        let reply = blocked[0].xrpc.procedure("leaveConvo", &leave).await.unwrap();
        (reply, start.elapsed())
    }));
    let passing = async {
        lock_waiters(&watcher, 1).await;
        let mut sent = 0;
        // The pool has ten connections and a hundred requests wait; the others must get through.
        while start.elapsed() < Duration::from_secs(4) {
            let asked = Instant::now();
            let reply = free[0].xrpc.procedure("sendMessage", &message(&free[0], &sent.to_string())).await.unwrap();
            assert_eq!(reply.status, 200, "{reply}");
            assert!(asked.elapsed() < QUICKLY, "another conversation waited {:?}", asked.elapsed());
            sent += 1;
        }
        sent
    };
    let (mut refused, left, sent) = tokio::join!(waiting, leaving, passing);
    refused.extend(left);
    for (reply, after) in &refused {
        assert!(is_overloaded(reply), "{reply}");
        assert!(*after < ANSWERED, "answered after {after:?}");
    }
    let longest = refused.iter().map(|(_, after)| *after).max().unwrap();
    assert!(longest >= Duration::from_secs(5), "no request waited for the lock: the last reply took {longest:?}");
    assert_eq!(entries(&watcher, convo).await, 0, "what was refused was not done");
    if mode == Mode::Advisory {
        let waited = metric(&fleet.replicas[0], "conversation_lock_wait_seconds_sum").await;
        assert!(waited >= 2.0, "waits for a lock that is never released are measured: {waited} s");
    }
    assert!(sent > 0);
    assert_eq!(entries(&watcher, free[0].convo().unwrap()).await, sent);

    drop(blocker);
    recovered(&fleet.replicas[0], &blocked[0]).await;
    let reply = blocked[0].xrpc.procedure("sendMessage", &message(&blocked[0], "at last")).await.unwrap();
    assert_eq!((reply.status, reply.number("seq").unwrap()), (200, 1), "{reply}");
    fleet.check().await;
}

async fn refused_by_the_queue(mode: Mode, replica: &Replica) -> f64 {
    let name = match mode {
        Mode::Advisory => "queue_full_total",
        Mode::Actors => "actor_mailbox_full_events_total{actor_type=\"conversation_actor\"}",
    };
    metric(replica, name).await
}

/// 256 requests wait behind the running batch; all others are refused at once with a time to retry.
pub async fn a_full_queue_refuses_at_once_and_loses_no_queued_request(mode: Mode) {
    const REQUESTS: usize = 400;
    const WAITING: usize = 256;
    const BATCH: usize = 64;
    let database = database().await;
    let fleet = Fleet::start(&[mode], &database.config, &database.url).await;
    // Of two members, since one member's bodies are not all accepted at once.
    let members = fleet.conversation(2).await;
    let convo = members[0].convo().unwrap();
    let watcher = database.connect().await;
    let before = entries(&watcher, convo).await;
    let blocker = block(&database, mode, convo).await;
    let waiting = join_all((0..REQUESTS).map(|n| {
        let member = &members[n % members.len()];
        let (body, xrpc) = (message(member, &n.to_string()), &member.xrpc);
        async move { xrpc.procedure("sendMessage", &body).await.unwrap() }
    }));
    let releasing = async {
        let full = (REQUESTS - WAITING - BATCH) as f64;
        eventually("the queue is full", async || refused_by_the_queue(mode, &fleet.replicas[0]).await >= full).await;
        drop(blocker);
    };
    let (replies, ()) = tokio::join!(waiting, releasing);
    let (accepted, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert!(refused.iter().all(|reply| is_overloaded(reply)), "{refused:?}");
    assert!((WAITING + 1..=WAITING + BATCH).contains(&accepted.len()), "{} had room", accepted.len());
    assert_eq!((entries(&watcher, convo).await - before) as usize, accepted.len());
    recovered(&fleet.replicas[0], &members[0]).await;
    fleet.check().await;
}

/// P7. A writer that changes the roster without the lock holds the conversation's row, and changes neither its epoch
/// nor its seq.
pub async fn a_member_removed_while_its_message_waits_cannot_send_it(mode: Mode) {
    let database = database().await;
    let fleet = Fleet::start(&[mode], &database.config, &database.url).await;
    let members = fleet.conversation(2).await;
    let convo = members[0].convo().unwrap();
    let watcher = database.connect().await;
    let before = entries(&watcher, convo).await;

    let mut remover = database.connect().await;
    let removal = remover.transaction().await.unwrap();
    removal.execute("update conversations set updated_at = now() where id = $1", &[&convo]).await.unwrap();
    let leave = "update members set left_at = now(), left_by = $3, left_epoch = c.current_epoch, left_seq = c.last_seq
        from conversations c where c.id = $1 and convo_id = $1 and member_did = $2";
    removal.execute(leave, &[&convo, &members[1].did(), &members[0].did()]).await.unwrap();

    let sending = async { members[1].xrpc.procedure("sendMessage", &message(&members[1], "late")).await.unwrap() };
    let removing = async {
        lock_waiters(&watcher, 1).await;
        removal.commit().await.unwrap();
    };
    let (reply, ()) = tokio::join!(sending, removing);
    assert_eq!((reply.status, reply.error()), (403, Some("NotMember")), "{reply}");
    assert_eq!(entries(&watcher, convo).await, before);
    let reply = members[0].xrpc.procedure("sendMessage", &message(&members[0], "on")).await.unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    fleet.check().await;
}

/// Stopped backends, which neither answer nor close their connections.
struct Stopped(Vec<Pid>);

impl Stopped {
    /// Waits until these statements wait for a lock, each in one backend, and stops those. The event tail may wait too.
    async fn those_that_wait(watcher: &Client, statements: &[&str]) -> Self {
        const WAITING: &str = "select pid from pg_stat_activity
            where datname = current_database() and application_name = 'catbird-server' and wait_event_type = 'Lock'
              and split_part(substr(query, 4), ':', 1) = any ($1)";
        let waiting = Cell::new(Vec::new());
        eventually("the statements wait for a lock", async || {
            let rows = watcher.query(WAITING, &[&statements]).await.unwrap();
            waiting.set(rows.iter().map(|row| Pid::from_raw(row.get(0))).collect());
            rows.len() == statements.len()
        })
        .await;
        let pids = waiting.take();
        pids.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).unwrap());
        Self(pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| _ = kill(*pid, Signal::SIGCONT));
    }
}

/// P4, P10. A statement that was sent may have succeeded; the reply says so, and when to retry.
pub async fn a_backend_that_has_stopped_is_answered_for_in_time(mode: Mode) {
    let database = database().await;
    let fleet = Fleet::start(&[mode], &database.config, &database.url).await;
    let members = fleet.conversation(1).await;
    let (sender, convo) = (&members[0], members[0].convo().unwrap());
    let (blocker, watcher) = (database.connect().await, database.connect().await);
    blocker.batch_execute("begin; lock table messages in access exclusive mode").await.unwrap();
    let mut body = message(sender, "in doubt");
    body["msgId"] = json!("in-doubt");
    let start = Instant::now();
    let sending = async { (sender.xrpc.procedure("sendMessage", &body).await.unwrap(), start.elapsed()) };
    let page = [("convoId", convo.to_owned())];
    let reading = async { (sender.xrpc.query("getMessages", &page).await.unwrap(), start.elapsed()) };
    let stopping = Stopped::those_that_wait(&watcher, &[SEND, "messages/list_before"]);
    let ((sent, sent_after), (read, read_after), stopped) = tokio::join!(sending, reading, stopping);
    assert_eq!((sent.status, sent.error()), (503, Some("DatabaseUnavailable")), "{sent}");
    assert_eq!(sent.body["outcome"], "unknown", "{sent}");
    assert!(is_overloaded(&read), "{read}");
    for (reply, after) in [(&sent, sent_after), (&read, read_after)] {
        assert!(reply.headers.contains_key("retry-after"), "{reply}");
        assert!(after < ANSWERED, "answered after {after:?}: {reply}");
    }
    drop(stopped);
    blocker.batch_execute("rollback").await.unwrap();
    recovered(&fleet.replicas[0], sender).await;
    let again = sender.xrpc.procedure("sendMessage", &body).await.unwrap();
    assert_eq!(again.status, 200, "{again}");
    assert_eq!(entries(&watcher, convo).await, 1);
    fleet.check().await;
}
