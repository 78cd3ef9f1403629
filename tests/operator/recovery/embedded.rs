//! The embedded PostgreSQL: a backup of the running server, restored in place.

use catbird_testkit::app::validated;
use catbird_testkit::page::Section;

use super::conversation::Conversation;
use super::servers::{Servers, here};
use super::{PAGE, incarnations};

pub const SECTION: &str = "Embedded PostgreSQL";

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_postgres_is_restored_from_a_backup_of_the_running_server() {
    let mut page = Section::of(PAGE, SECTION);
    let root = std::env::temp_dir().join(format!("catbird-embedded-{}", ulid::Ulid::new().to_string().to_lowercase()));
    let (data, backups) = (root.join("data"), root.join("backups"));
    std::fs::create_dir_all(&backups).unwrap();
    let settings = [("DATA_DIR", data.to_str().unwrap()), ("BACKUPS", backups.to_str().unwrap()), ("DATABASE_URL", "")];
    let mut servers = Servers::start("", &settings).await;
    let mut talk = Conversation::begin(&servers.urls(), validated).await;
    talk.progress(2).await;
    here(&page.take("Back up the embedded PostgreSQL"), &settings).await;
    let before = incarnations(&connect(&data).await).await;
    talk.do_what_is_lost().await;
    servers.stop().await;
    here(&page.take("Restore the embedded PostgreSQL"), &settings).await;

    servers.resume("", &settings).await;
    talk.a_silent_client_is_told().await;
    talk.members_are_told("FutureCursor").await;
    talk.a_lost_addition_is_made_again("FutureCursor").await;
    let db = connect(&data).await;
    let loss = talk.all_agree(&db).await;
    println!("embedded: {loss}");
    assert!(loss.commits >= 9 && loss.messages > 0, "{loss}");
    assert_eq!(incarnations(&db).await, (before.0 + 1, before.1), "the numbers of transactions go on");
    here(&page.take("Check the embedded database"), &settings).await;
    page.finish();
    servers.stop().await;
    std::fs::remove_dir_all(root).unwrap();
}

async fn connect(data: &std::path::Path) -> tokio_postgres::Client {
    let (client, connection) =
        catbird_server::embedded::config_of(data).unwrap().connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
