//! Promotion of a standby, with and without synchronous replication. The servers run on and find the new primary by themselves.

use std::time::Duration;

use catbird_testkit::app::validated;
use catbird_testkit::host::{Host, url};
use catbird_testkit::page::Section;

use super::conversation::Conversation;
use super::servers::{Servers, here};
use super::{PAGE, incarnations};

pub const SECTION: &str = "Standby and failover";
const PASSWORD: (&str, &str) = ("STANDBY_PASSWORD", "the password of the standby's role");
/// Maximum time until the standby has what the primary has.
const PATIENCE: Duration = Duration::from_secs(30);

struct Pair {
    page: Section,
    primary: Host,
    standby: Host,
    servers: Servers,
    talk: Conversation,
}

impl Pair {
    async fn start() -> Self {
        let mut page = Section::of(PAGE, SECTION);
        let (primary, standby) = tokio::join!(Host::with_database(), Host::new());
        primary.run(&page.take("Prepare the primary"), &[PASSWORD]).await;
        standby.run(&page.take("Make a standby"), &follows(&primary.port().to_string())).await;
        let hosts = format!("127.0.0.1:{},127.0.0.1:{}", primary.port(), standby.port());
        let url = format!("{}?target_session_attrs=read-write", url(&hosts));
        let servers = Servers::start(&url, &[]).await;
        let talk = Conversation::begin(&servers.urls(), validated).await;
        Self { page, primary, standby, servers, talk }
    }

    /// Waits until the primary says that the standby streams with this `sync_state`.
    async fn is(&mut self, state: &str) {
        let look = self.page.take("See how far the standby is");
        let start = tokio::time::Instant::now();
        loop {
            let printed = self.primary.run(&look, &[]).await;
            if printed.contains("streaming") && printed.contains(&format!("| {state} ")) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "it is not {state}: {printed}");
        }
    }

    /// Loses the primary, and promotes the standby.
    async fn fail_over(&mut self) {
        self.primary.run(&self.page.take("Stop the old primary"), &[]).await;
        let promoted = self.standby.run(&self.page.take("Promote the standby"), &[]).await;
        assert!(promoted.starts_with("f|"), "{promoted}");
    }

    /// Checks, and makes the old primary a standby of the new one.
    async fn end(mut self, eras: i64) -> Section {
        here(&self.page.take("Check after the failover"), &[("DATABASE_URL", &self.standby.url())]).await;
        self.primary.run(&self.page.take("Make the old primary a standby"), &[]).await;
        self.primary.run(&self.page.take("Make a standby"), &follows(&self.standby.port().to_string())).await;
        assert_eq!(self.primary.value("select pg_is_in_recovery()").await, "t");
        assert_eq!(self.standby.value("select count(*) from pg_stat_replication").await, "1");
        assert_eq!(incarnations(&self.standby.connect().await).await.1, eras, "the numbers of transactions go on");
        self.talk.is_sound(&self.standby.url()).await;
        self.page
    }
}

/// Settings of a standby of the primary at this port.
fn follows(port: &str) -> [(&'static str, &str); 4] {
    [PASSWORD, ("PRIMARY", "127.0.0.1"), ("PRIMARY_PORT", port), ("NAME", "standby")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lacks_the_end_takes_over_and_all_clients_come_back() {
    let mut pair = Pair::start().await;
    pair.is("async").await;
    pair.talk.progress(2).await;
    let (_, eras) = incarnations(&pair.primary.connect().await).await;
    // The network between the two fails before the primary does.
    let cut = "psql --no-psqlrc --quiet --dbname=postgres --command=\"alter system set primary_conninfo = ''\"; pg_ctl reload --silent";
    pair.standby.run(cut, &[]).await;
    let start = tokio::time::Instant::now();
    while pair.primary.value("select count(*) from pg_stat_replication").await != "0" {
        assert!(start.elapsed() < PATIENCE, "the standby goes on following");
    }
    pair.talk.do_what_is_lost().await;
    pair.fail_over().await;
    pair.servers.ready().await;
    pair.talk.a_silent_client_is_told().await;
    pair.talk.members_are_told("FutureCursor").await;
    pair.talk.a_lost_addition_is_made_again("FutureCursor").await;
    let loss = pair.talk.all_agree(&pair.standby.connect().await).await;
    println!("asynchronous standby: {loss}");
    assert!(loss.commits >= 9 && loss.messages > 0, "{loss}");
    pair.end(eras).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_standby_takes_over_and_nothing_acknowledged_is_lost() {
    let mut pair = Pair::start().await;
    pair.primary.run(&pair.page.take("Lose nothing"), &[("NAME", "standby")]).await;
    pair.is("sync").await;
    pair.talk.progress(2).await;
    let (_, eras) = incarnations(&pair.primary.connect().await).await;
    // The members write all the while.
    pair.fail_over().await;
    pair.servers.ready().await;
    pair.talk.progress(2).await;
    let loss = pair.talk.all_agree(&pair.standby.connect().await).await;
    println!("synchronous standby: {loss}");
    assert_eq!((loss.messages, loss.commits), (0, 0), "{loss}");
    for member in &pair.talk.members {
        let state = member.state.borrow().clone();
        assert!(state.told.is_empty(), "told of a loss: {:?}", state.told);
        assert!(
            state.connections > 1 && state.incarnations.len() == 2,
            "{} {:?}",
            state.connections,
            state.incarnations
        );
    }
    let page = pair.end(eras).await;
    page.finish();
}
