//! Replicas whose settings differ where they must not.

use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};

use super::{doctor, registered};

const ONE: (&str, &str) = ("TICKET_SECRET", "one secret of the tickets, 32 bytes");
const OTHER: (&str, &str) = ("TICKET_SECRET", "another secret of the tickets, 32 bytes");

#[tokio::test(flavor = "multi_thread")]
async fn replicas_with_different_settings_are_named_and_secrets_are_not_told() {
    let database = database().await;
    let one = Replica::start(Mode::Advisory, &database.url, &[ONE]).await;
    let alike = Replica::start(Mode::Actors, &database.url, &[ONE, ("SSE_BUFFER_SIZE", "100")]).await;
    let client = database.connect().await;
    registered(&client, 2).await;
    let said = doctor(&database.url, &[ONE]).await;
    assert!(!said.against().iter().any(|(subject, ..)| *subject == "replicas"), "{:#?}", said.report);
    assert!(said.report.to_string().contains("2 replicas open up to 22 connections"), "{:#?}", said.report);
    // This command would start a third replica with its own settings.
    doctor(&database.url, &[OTHER]).await.names("replicas", "fatal", "TICKET_SECRET differs");
    assert_eq!(alike.terminate().await, Some(0));
    registered(&client, 1).await;

    let differs = [OTHER, ("MESSAGE_EPOCH_WINDOW", "2"), ("MESSAGE_TTL_DAYS", "31")];
    let _other = Replica::start(Mode::Advisory, &database.url, &differs).await;
    registered(&client, 2).await;
    let said = doctor(&database.url, &[ONE]).await;
    said.names("replicas", "fatal", "TICKET_SECRET differs");
    said.names("replicas", "fatal", "MESSAGE_EPOCH_WINDOW differs: 0 at ");
    said.names("replicas", "weak", "MESSAGE_TTL_DAYS differs: 30 at ");
    assert_eq!((said.code, said.against().iter().filter(|(subject, ..)| *subject == "replicas").count()), (Some(1), 3));
    let rows = client.query("select settings::text from replicas", &[]).await.unwrap();
    let stored: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    for secret in [ONE.1, OTHER.1] {
        assert!(!said.report.to_string().contains(secret) && !stored.concat().contains(secret), "{stored:?}");
    }
    drop(one);
}
