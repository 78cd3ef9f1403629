//! docs/backup.md: its commands run as they are printed, while clients follow. Each test says what acknowledged writes were lost, what the
//! clients were told, and that all agree with the database in the end.

mod blobs;
pub mod conversation;
mod dump;
mod embedded;
mod members;
mod point_in_time;
pub mod servers;
mod standbys;

use catbird_testkit::page::sections;
use tokio_postgres::Client;

const PAGE: &str = "backup.md";

/// Each section with commands has a test, which fails if it has not run all of them.
#[test]
fn every_command_of_the_page_is_run_by_a_test() {
    let sections_with_tests =
        [dump::SECTION, point_in_time::SECTION, standbys::SECTION, embedded::SECTION, blobs::SECTION];
    assert_eq!(sections(PAGE), sections_with_tests);
}

/// Returns the number of incarnations and of eras.
async fn incarnations(db: &Client) -> (i64, i64) {
    let row = db.query_one("select count(*), count(distinct era) from incarnations", &[]).await.unwrap();
    (row.get(0), row.get(1))
}
