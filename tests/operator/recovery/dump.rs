//! A dump, restored into a new cluster.

use catbird_testkit::app::validated;
use catbird_testkit::host::Host;
use catbird_testkit::page::Section;

use super::conversation::Conversation;
use super::servers::{Servers, here};
use super::{PAGE, incarnations};

pub const SECTION: &str = "Dump and restore";

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_goes_on_in_a_new_cluster_and_all_clients_come_back() {
    let mut page = Section::of(PAGE, SECTION);
    let old = Host::with_database().await;
    let mut servers = Servers::start(&old.url(), &[]).await;
    let mut talk = Conversation::begin(&servers.urls(), validated).await;
    talk.progress(2).await;
    old.run(&page.take("Take a dump"), &[]).await;
    let before = incarnations(&old.connect().await).await;
    talk.do_what_is_lost().await;
    servers.stop().await;

    let new = Host::with_cluster().await;
    new.run(&page.take("Restore the dump"), &[("BACKUPS", &old.backups())]).await;
    drop(old);
    here(&page.take("Check the restored database"), &[("DATABASE_URL", &new.url())]).await;
    page.finish();

    servers.resume(&new.url(), &[]).await;
    talk.a_silent_client_is_told().await;
    talk.members_are_told("OutdatedCursor").await;
    talk.a_lost_addition_is_made_again("OutdatedCursor").await;
    let db = new.connect().await;
    let loss = talk.all_agree(&db).await;
    println!("dump: {loss}");
    assert!(loss.commits >= 9 && loss.messages > 0, "{loss}");
    assert_eq!(incarnations(&db).await, (before.0 + 1, before.1 + 1));
    talk.is_sound(&new.url()).await;
}
