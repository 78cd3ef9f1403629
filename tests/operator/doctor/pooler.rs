//! PgBouncer in the wrong mode, the wrong value of DATABASE_POOLER, and commands through a pooler.

use catbird_testkit::cluster::database;
use catbird_testkit::fleet::run_as;
use catbird_testkit::pgbouncer::PgBouncer;
use tokio_postgres::NoTls;

use super::doctor;

/// PgBouncer drops start-up parameters then, in place of refusing them.
const LENIENT: &str = "ignore_startup_parameters = options";
const POOLER: (&str, &str) = ("DATABASE_POOLER", "true");
const CONVO: &str = "01JB2N0W3E8Z6TQ9K4M5V7X1YA";
const EVE: &str = "did:plc:eveeveeveeveeveeveeveeve";
/// A throw-away cluster has these.
const THROW_AWAY: [&str; 4] = ["fsync", "full_page_writes", "data_checksums", "role"];

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_another_mode_than_the_settings_say_is_named() {
    let database = database().await;
    let direct = doctor(&database.url, &[]).await;
    direct.names_only(&THROW_AWAY);
    // No pooler, although the setting says so.
    doctor(&database.url, &[POOLER]).await.names("pooler", "weak", "no pooler shares connections");

    let right = PgBouncer::start(&database.config, 3);
    doctor(&right.url(), &[POOLER]).await.names_only(&THROW_AWAY);
    let refused = doctor(&right.url(), &[]).await;
    refused.names("sessions", "fatal", "unsupported startup parameter");
    assert_eq!(refused.code, Some(1));
    drop(right);

    // PgBouncer before 1.21 loses prepared statements in this mode; every version loses the time limits and LISTEN.
    let lenient = PgBouncer::start_in("transaction", &database.config, 3, LENIENT);
    let said = doctor(&lenient.url(), &[]).await;
    said.names("pooler", "fatal", "shares connections among sessions");
    said.names("session_time_limits", "fatal", "lock_timeout of the server's connections is 0 ms");
    said.names("session_time_limits", "fatal", "statement_timeout");
    said.names("session_time_limits", "fatal", "idle_in_transaction_session_timeout");
    said.names("listen", "weak", "does not arrive");
    drop(lenient);

    let session = PgBouncer::start_in("session", &database.config, 5, LENIENT);
    doctor(&session.url(), &[POOLER]).await.names("pooler", "weak", "no pooler shares connections");
    let said = doctor(&session.url(), &[]).await;
    said.names("session_time_limits", "fatal", "lock_timeout");
    assert!(!said.against().iter().any(|(subject, ..)| ["pooler", "listen"].contains(subject)), "{:#?}", said.report);
    drop(session);

    let statement = PgBouncer::start_in("statement", &database.config, 3, "");
    let said = doctor(&statement.url(), &[POOLER]).await;
    said.names("sessions", "fatal", "no transaction of several statements is possible");
    assert_eq!(said.code, Some(1));
}

/// A prepared statement stays on the connection on which it was made, which another client gets in this mode. PgBouncer before
/// 1.21 does not know of it, so that client's statement of the same name fails.
#[tokio::test(flavor = "multi_thread")]
async fn commands_prepare_no_statements_behind_a_pooler() {
    let database = database().await;
    let pooler = PgBouncer::start(&database.config, 1);
    let (other, connection) = tokio_postgres::connect(&pooler.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    // The client library names its statements s0, s1 and so on.
    let taken: String = (0..20).map(|n| format!("prepare s{n} as select 1;")).collect();
    other.batch_execute(&taken).await.unwrap();
    let seed = format!(
        "insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch)
         values ('{CONVO}', '00', '{EVE}', 'MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519', 0, 0);
         insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq) values ('{CONVO}', '{EVE}', 0, 0, 0)"
    );
    database.connect().await.batch_execute(&seed).await.unwrap();
    for command in [
        &["check"][..],
        &["envelopes"],
        &["admin", "suspensions"],
        &["admin", "convo", CONVO, "--reason", "a test"],
        &["admin", "person", EVE, "--reason", "a test"],
        &["admin", "export", CONVO, "--reason", "a test"],
        &["admin", "suspend", EVE, "--reason", "a test"],
        &["admin", "release", EVE, "--reason", "a test"],
        &["admin", "erase", EVE, "--reason", "a test"],
        &["admin", "delete", CONVO, "--reason", "a test"],
    ] {
        let (code, said, errors) = run_as(command, &pooler.url(), &[POOLER]).await;
        // A command that changes something says there what it did.
        assert!(code == Some(0) && (errors.is_empty() || command.contains(&"--reason")), "{command:?}: {said}{errors}");
    }
    doctor(&pooler.url(), &[POOLER]).await.names_only(&THROW_AWAY);
    other.batch_execute("prepare s0 as select 1").await.expect_err("the name is still taken");
}
