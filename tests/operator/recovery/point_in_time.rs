//! A base backup and the archived log, restored to a point in time.

use catbird_testkit::app::validated;
use catbird_testkit::host::Host;
use catbird_testkit::page::Section;

use super::conversation::Conversation;
use super::servers::{Servers, here};
use super::{PAGE, incarnations};

pub const SECTION: &str = "Point in time";
const ARCHIVE: (&str, &str) = ("ARCHIVE", concat!(env!("CARGO_MANIFEST_DIR"), "/ops/postgres/archive.sh"));

#[tokio::test(flavor = "multi_thread")]
async fn a_point_in_time_is_restored_from_the_archive_and_all_clients_come_back() {
    let mut page = Section::of(PAGE, SECTION);
    let host = Host::with_database().await;
    let mut servers = Servers::start(&host.url(), &[]).await;
    let mut talk = Conversation::begin(&servers.urls(), validated).await;
    talk.progress(1).await;
    // PostgreSQL's user may not be able to read the repository.
    let script = host.keep("archive.sh", &std::fs::read_to_string(ARCHIVE.1).unwrap()).await;
    host.run(&page.take("Archive the log"), &[(ARCHIVE.0, &script)]).await;
    talk.progress(1).await;
    host.run(&page.take("Take a base backup"), &[]).await;
    // Only in the archive.
    talk.progress(1).await;
    let kept = talk.members[0].state.borrow().landed.last().copied().unwrap();
    let until = host.value("select clock_timestamp()").await;
    let before = incarnations(&host.connect().await).await;
    talk.do_what_is_lost().await;
    let arrived = host.run(&page.take("See that segments arrive"), &[]).await;
    assert!(arrived.contains("failed_count"), "{arrived}");
    servers.stop().await;

    host.run(&page.take("Restore a point in time"), &[("UNTIL", &until)]).await;
    assert_eq!(host.value("select failed_count from pg_stat_archiver").await, "0");
    here(&page.take("Check the database of that time"), &[("DATABASE_URL", &host.url())]).await;
    page.finish();
    let db = host.connect().await;
    let there = "select count(*) from messages where convo_id = $1 and seq = $2 and message_type = 'commit'";
    let row = db.query_one(there, &[&talk.id, &kept.seq.cast_signed()]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1, "the log was not replayed up to {until}");

    servers.resume(&host.url(), &[]).await;
    talk.a_silent_client_is_told().await;
    talk.members_are_told("FutureCursor").await;
    talk.a_lost_addition_is_made_again("FutureCursor").await;
    let loss = talk.all_agree(&db).await;
    println!("point in time: {loss}");
    assert!(loss.commits >= 9 && loss.messages > 0, "{loss}");
    assert_eq!(incarnations(&db).await, (before.0 + 1, before.1), "the numbers of transactions go on");
    talk.is_sound(&host.url()).await;
}

#[test]
fn an_archived_segment_is_whole_and_never_replaced() {
    let dir = std::env::temp_dir().join(format!("catbird-archive-{}", ulid::Ulid::new()));
    std::fs::create_dir(&dir).unwrap();
    let (segment, copy, half) = (dir.join("segment"), dir.join("copy"), dir.join("copy.new"));
    let archive =
        || std::process::Command::new("sh").arg(ARCHIVE.1).args([&segment, &copy]).status().unwrap().success();
    assert!(!archive(), "there is no segment");
    std::fs::write(&segment, "a segment").unwrap();
    // Left by a crash.
    std::fs::write(&half, "a seg").unwrap();
    // PostgreSQL repeats a command after a crash that may have succeeded before.
    for _ in 0..2 {
        assert!(archive());
        assert_eq!((std::fs::read_to_string(&copy).unwrap().as_str(), half.exists()), ("a segment", false));
    }
    std::fs::write(&segment, "another history").unwrap();
    assert!(!archive());
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), "a segment");
    std::fs::remove_dir_all(dir).unwrap();
}
