//! P10: PostgreSQL is out of disk or memory.

use catbird_client::xrpc;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode};
use serde_json::json;

use super::tools::{message, recovered};

/// A test cannot fill the disk for itself alone, so triggers raise PostgreSQL's errors.
pub async fn a_database_without_room_refuses_writes_for_a_while_and_serves_reads(mode: Mode) {
    let database = database().await;
    let db = database.connect().await;
    let fleet = Fleet::start(&[mode], &database.config, &database.url).await;
    let (replica, member) = (&fleet.replicas[0], fleet.conversation(1).await.remove(0));
    for condition in ["disk_full", "out_of_memory"] {
        let full = format!(
            "create or replace function no_room() returns trigger language plpgsql as $$
             begin raise exception using errcode = '{condition}', message = 'could not extend file'; end $$;
             create trigger no_room before insert on messages for each row execute function no_room();
             create trigger no_room before insert on conversations for each row execute function no_room()"
        );
        db.batch_execute(&full).await.unwrap();
        let create = json!({ "groupId": "ff00", "cipherSuite": "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519" });
        for (method, body) in [("sendMessage", message(&member, "no room")), ("createConvo", create)] {
            let reply = member.xrpc.procedure(method, &body).await.unwrap();
            assert_eq!((reply.status, &reply.body["error"]), (503, &"DatabaseUnavailable".into()), "{reply}");
            assert_eq!(
                (&reply.body["retryAfterMs"], reply.headers["retry-after"].as_bytes()),
                (&10_000.into(), &b"10"[..])
            );
        }
        let read = member.xrpc.query("getConvos", &[]).await.unwrap();
        assert_eq!(read.status, 200, "{read}");
        let ready = xrpc::http().unwrap().get(format!("{}/health/ready", replica.base)).send().await.unwrap();
        assert_eq!(ready.status(), 200, "reads go on");
        db.batch_execute("drop trigger no_room on messages; drop trigger no_room on conversations").await.unwrap();
    }
    recovered(replica, &member).await;
    fleet.check().await;
    let defects: Vec<_> = replica.log().into_iter().filter(|line| line.contains("unforeseen")).collect();
    assert!(defects.is_empty(), "{defects:?}");
}
