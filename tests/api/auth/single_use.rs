//! A token is valid for one request at one replica, with Redis, without it, and while it fails.

use std::time::{Duration, Instant};

use catbird_server::auth::Replay;
use catbird_server::auth::replay::TokenId;
use catbird_server::clock::Clock;
use catbird_server::error::Code;
use catbird_testkit::account::{Key, Spelling, document};
use catbird_testkit::cluster::{TestDatabase, database};
use catbird_testkit::directory::{Answer, Directory};
use catbird_testkit::redis::Redis;
use chrono::TimeDelta;
use fred::interfaces::ClientLike;
use futures_util::future::join_all;
use serde_json::json;

use crate::auth::service::{ALICE, NOW, Service, Setup, absent_store, claims, publish, replay, store, token};

/// Maximum time for a connection to open or close.
const PATIENCE: Duration = Duration::from_secs(20);

/// Replicas of one service, on one database, with or without Redis.
struct Fleet {
    database: TestDatabase,
    directory: Directory,
    key: Key,
}

impl Fleet {
    async fn new() -> Self {
        let (directory, key) = (Directory::start(), Key::secp256k1(1));
        publish(&directory, &key);
        Self { database: database().await, directory, key }
    }

    /// Starts a replica connected to this Redis; returns when it is connected.
    async fn replica(&self, redis: Option<&Redis>) -> (Service, Replay) {
        let url = redis.map(Redis::url);
        let replay = replay(url.as_deref(), store(self.database.config.clone()));
        if let Some(client) = replay.redis() {
            client.wait_for_connect().await.unwrap();
        }
        let setup = Setup { replay: Some(replay.clone()), ..Setup::new(&self.directory) };
        (setup.start(), replay)
    }

    fn token(&self) -> String {
        token(&self.key, ALICE)
    }

    /// Pretends that PostgreSQL started this long ago with an empty register.
    async fn incarnation_began(&self, ago: &str) {
        let db = self.database.connect().await;
        db.batch_execute(&format!(
            "select renew_incarnation(); update incarnations set since = now() - interval '{ago}'"
        ))
        .await
        .unwrap();
    }
}

/// A token of Alice's that lives for a minute, as the register identifies it.
fn token_id(jti: &str) -> TokenId {
    let expires_at = Clock::system().now() + TimeDelta::seconds(70);
    TokenId {
        issuer: ALICE.parse().unwrap(),
        jti: jti.to_owned(),
        issued_at: Clock::system().now(),
        expires_at,
        long_lived: false,
    }
}

/// Verifies and uses a token, as a request does.
async fn use_token(service: &Service, token: &str) -> Result<(), Code> {
    let verified = service.check(token).await.map_err(|error| error.code)?;
    service.authenticator.consume(&verified).await.map_err(|error| error.code)
}

async fn until_disconnected(replay: &Replay) {
    let client = replay.redis().expect("the replica has Redis");
    let deadline = Instant::now() + PATIENCE;
    while client.is_connected() {
        assert!(Instant::now() < deadline, "the client does not notice that Redis died");
        tokio::task::yield_now().await;
    }
}

async fn until_connected(replay: &Replay) {
    let client = replay.redis().expect("the replica has Redis");
    let deadline = Instant::now() + PATIENCE;
    while !client.is_connected() {
        assert!(Instant::now() < deadline, "the client does not find Redis again");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_token_used_at_one_replica_is_refused_at_the_others() {
    let fleet = Fleet::new().await;
    let redis = Redis::start();
    for redis in [None, Some(&redis)] {
        let (a, _) = fleet.replica(redis).await;
        let (b, _) = fleet.replica(redis).await;
        let token = fleet.token();
        assert_eq!(use_token(&a, &token).await, Ok(()));
        for replica in [&a, &b] {
            assert_eq!(use_token(replica, &token).await, Err(Code::TokenReplayed));
        }
        assert_eq!(use_token(&b, &fleet.token()).await, Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_of_many_simultaneous_uses_one_succeeds() {
    let fleet = Fleet::new().await;
    let redis = Redis::start();
    let (with_redis, _) = fleet.replica(Some(&redis)).await;
    let (without, _) = fleet.replica(None).await;
    for _ in 0..10 {
        let token = fleet.token();
        let uses = (0..20).map(|n| use_token(if n % 2 == 0 { &with_redis } else { &without }, &token));
        let outcomes = join_all(uses).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(()) | Err(Code::TokenReplayed))), "{outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_jti_belongs_to_its_issuer() {
    let fleet = Fleet::new().await;
    let redis = Redis::start();
    let bob = format!("did:web:127.0.0.1%3A{}", fleet.directory.port);
    let method = fleet.key.method("#atproto", Spelling::Multikey);
    fleet.directory.put("/.well-known/did.json", Answer::Document(document(&bob, &[method])));
    for (redis, jti) in [(None, "one"), (Some(&redis), "two")] {
        let (service, _) = fleet.replica(redis).await;
        for iss in [ALICE, &bob] {
            let mut claims = claims(iss);
            claims["jti"] = jti.into();
            let token = fleet.key.token(&json!({"alg": "ES256K"}), &claims);
            assert_eq!(use_token(&service, &token).await, Ok(()), "{iss}");
            assert_eq!(use_token(&service, &token).await, Err(Code::TokenReplayed), "{iss}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_losing_redis_costs_nothing_but_time() {
    let fleet = Fleet::new().await;
    let mut redis = Redis::start();
    let (a, replay) = fleet.replica(Some(&redis)).await;
    let spent_before = fleet.token();
    assert_eq!(use_token(&a, &spent_before).await, Ok(()));

    redis.kill();
    until_disconnected(&replay).await;
    assert_eq!(use_token(&a, &spent_before).await, Err(Code::TokenReplayed), "Redis alone cannot have known it");
    let spent_without = fleet.token();
    assert_eq!(use_token(&a, &spent_without).await, Ok(()));

    redis.resume();
    until_connected(&replay).await;
    for token in [&spent_before, &spent_without] {
        assert_eq!(use_token(&a, token).await, Err(Code::TokenReplayed), "Redis came back empty");
    }
    assert_eq!(use_token(&a, &fleet.token()).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_redis_that_forgets_lets_nothing_through() {
    let fleet = Fleet::new().await;
    let redis = Redis::start();
    let (service, _) = fleet.replica(Some(&redis)).await;
    let token = fleet.token();
    assert_eq!(use_token(&service, &token).await, Ok(()));
    redis.run(&["flushall"]);
    assert_eq!(use_token(&service, &token).await, Err(Code::TokenReplayed));
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_redis_that_hangs_is_left_out() {
    let fleet = Fleet::new().await;
    let redis = Redis::start();
    let (service, _) = fleet.replica(Some(&redis)).await;
    redis.freeze();
    let token = fleet.token();
    for outcome in [Ok(()), Err(Code::TokenReplayed)] {
        let used = tokio::time::timeout(PATIENCE, use_token(&service, &token)).await;
        assert_eq!(used.expect("the wait for Redis is bounded"), outcome);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_redis_that_was_never_there_does_not_keep_the_service_from_starting() {
    let fleet = Fleet::new().await;
    let replay = replay(Some("redis://127.0.0.1:1"), store(fleet.database.config.clone()));
    let service = Setup { replay: Some(replay), ..Setup::new(&fleet.directory) }.start();
    let token = fleet.token();
    assert_eq!(use_token(&service, &token).await, Ok(()));
    assert_eq!(use_token(&service, &token).await, Err(Code::TokenReplayed));
}

/// The other replica knows without asking the database, and the message reveals no DID.
#[tokio::test(flavor = "multi_thread")]
async fn p12_through_redis_replicas_tell_each_other_of_used_tokens() {
    let fleet = Fleet::new().await;
    let redis = Redis::start();
    let (a, _) = fleet.replica(Some(&redis)).await;
    let (b, known_at_b) = fleet.replica(Some(&redis)).await;
    let deadline = Instant::now() + PATIENCE;
    for nth in 0.. {
        let mut claims = claims(ALICE);
        claims["jti"] = format!("told-{nth}").into();
        let token = fleet.key.token(&json!({"alg": "ES256K"}), &claims);
        assert_eq!(use_token(&a, &token).await, Ok(()));
        // The first message may be sent before the other replica subscribes.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if known_at_b.knows(&token_id(&format!("told-{nth}"))) {
            assert_eq!(use_token(&b, &token).await, Err(Code::TokenReplayed));
            break;
        }
        assert!(Instant::now() < deadline, "nothing was told");
    }
    assert_eq!(redis.run(&["keys", "*"]).concat(), "", "nothing is kept in Redis");
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_token_that_could_not_be_recorded_is_not_used_up() {
    let fleet = Fleet::new().await;
    let redis = Redis::start();
    let replay = replay(Some(&redis.url()), absent_store());
    replay.redis().expect("a URL was given").wait_for_connect().await.unwrap();
    let cut_off = Setup { replay: Some(replay), ..Setup::new(&fleet.directory) }.start();
    let (healthy, _) = fleet.replica(Some(&redis)).await;
    let token = fleet.token();
    assert_eq!(use_token(&cut_off, &token).await, Err(Code::DatabaseUnavailable));
    assert_eq!(use_token(&healthy, &token).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_token_has_its_outcome_when_those_of_the_other_register_cannot_be_recorded() {
    let fleet = Fleet::new().await;
    let replay = replay(None, store(fleet.database.config.clone()));
    let now = Clock::system().now();
    let long = |jti: &str| TokenId { expires_at: now + TimeDelta::hours(23), long_lived: true, ..token_id(jti) };
    let other = fleet.database.connect().await;
    other.batch_execute("begin; lock table auth_nonces in access exclusive mode").await.unwrap();
    let consume = |token_id: TokenId| {
        let replay = replay.clone();
        tokio::spawn(async move { replay.consume(token_id.clone(), token_id.expires_at, now).await })
    };
    let waits = "select exists (select from pg_locks where not granted and relation = 'auth_nonces'::regclass)";
    let first = consume(long("first"));
    while !other.query_one(waits, &[]).await.unwrap().get::<_, bool>(0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // While it waits, these two arrive, and they are checked together.
    let (second, short) = (consume(long("second")), consume(token_id("short")));
    assert_eq!(short.await.unwrap().map_err(|error| error.code), Ok(true));
    for long in [first, second] {
        assert_eq!(long.await.unwrap().map_err(|error| error.code), Err(Code::Overloaded));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_token_is_remembered_for_as_long_as_it_lives() {
    let fleet = Fleet::new().await;
    fleet.incarnation_began("1 hour").await;
    let (service, _) = fleet.replica(None).await;
    let mut claims = claims(ALICE);
    claims["exp"] = (*NOW + 3_600).into();
    let token = fleet.key.token(&json!({"alg": "ES256K"}), &claims);
    assert_eq!(use_token(&service, &token).await, Ok(()));
    service.clock.advance(TimeDelta::seconds(3_609));
    let verified = service.check(&token).await.unwrap();
    assert_eq!(use_token(&service, &token).await, Err(Code::TokenReplayed));
    // A replica that started later and knows only the database.
    for minutes in [0, 20, 59] {
        let (another, _) = fleet.replica(None).await;
        another.clock.advance(TimeDelta::minutes(minutes));
        assert_eq!(use_token(&another, &token).await, Err(Code::TokenReplayed), "{minutes}");
    }

    service.clock.advance(TimeDelta::seconds(1));
    assert_eq!(use_token(&service, &token).await, Err(Code::ExpiredToken));
    let late = service.authenticator.consume(&verified).await.unwrap_err();
    assert_eq!(late.code, Code::ExpiredToken, "verified in time and spent too late");
}

/// A crash empties the register and loses the record of used tokens.
#[tokio::test(flavor = "multi_thread")]
async fn p12_long_lived_tokens_from_before_a_crash_are_refused() {
    let fleet = Fleet::new().await;
    let (service, _) = fleet.replica(None).await;
    let token = |iat: i64, exp: i64| {
        let mut claims = claims(ALICE);
        (claims["iat"], claims["exp"]) = ((*NOW + iat).into(), (*NOW + exp).into());
        fleet.key.token(&json!({"alg": "ES256K"}), &claims)
    };
    let without_iat = |exp: i64| {
        let mut claims = claims(ALICE);
        claims.as_object_mut().unwrap().remove("iat");
        claims["exp"] = (*NOW + exp).into();
        fleet.key.token(&json!({"alg": "ES256K"}), &claims)
    };
    // The age of the register is not known yet.
    assert_eq!(use_token(&service, &token(0, 3_600)).await, Err(Code::TokenReplayed));
    assert_eq!(use_token(&service, &token(0, 60)).await, Ok(()));
    fleet.incarnation_began("10 minutes").await;
    for (iat, exp, outcome) in [
        (-1_200, 1_800, Err(Code::TokenReplayed)),
        (-600, 1_800, Err(Code::TokenReplayed)),
        (-400, 1_800, Ok(())),
        (-550, 1_800, Err(Code::TokenReplayed)),
        (-1_200, 60, Err(Code::TokenReplayed)),
        (-3_300, 240, Err(Code::TokenReplayed)),
        (-240, 60, Ok(())),
        (0, 3_600, Ok(())),
    ] {
        assert_eq!(use_token(&service, &token(iat, exp)).await, outcome, "{iat} {exp}");
    }
    // Its issue time is unknown, so its maximum lifetime is short.
    assert_eq!(use_token(&service, &without_iat(1_800)).await, Err(Code::InvalidToken));
    fleet.incarnation_began("2 hours").await;
    for token in [token(-1_200, 60), token(-3_000, 600)] {
        assert_eq!(use_token(&service, &token).await, Ok(()));
    }
}

/// Short-lived tokens and tickets are accepted whatever the age of the register, with or without an issue time.
#[tokio::test(flavor = "multi_thread")]
async fn short_lived_tokens_are_accepted_whatever_the_age_of_the_register() {
    let fleet = Fleet::new().await;
    let setup = Setup::new(&fleet.directory);
    let replay = replay(None, store(fleet.database.config.clone()));
    let mut setup = Setup { replay: Some(replay), ..setup };
    setup.config.ticket_secret = Some("a secret for tickets, of some length".to_owned());
    let service = setup.start();
    for age in ["0 seconds", "4 minutes", "5 minutes", "10 minutes", "50 minutes", "1 day"] {
        fleet.incarnation_began(age).await;
        let mut claims = claims(ALICE);
        claims.as_object_mut().unwrap().remove("iat");
        for token in [fleet.token(), fleet.key.token(&json!({"alg": "ES256K"}), &claims)] {
            assert_eq!(use_token(&service, &token).await, Ok(()), "{age}");
        }
        let ticket = service.authenticator.issue_ticket(&ALICE.parse().unwrap(), None, None).unwrap();
        let ticket = service.authenticator.verify_ticket(&ticket.text).unwrap();
        service.authenticator.consume_ticket(&ticket).await.unwrap_or_else(|error| panic!("{age}: {error:?}"));
        assert_eq!(service.authenticator.consume_ticket(&ticket).await.unwrap_err().code, Code::TokenReplayed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_enforcement_a_token_may_be_used_again() {
    let fleet = Fleet::new().await;
    let mut setup = Setup::new(&fleet.directory);
    setup.config.enforce_jti = false;
    let service = setup.start();
    let token = fleet.token();
    assert_eq!(use_token(&service, &token).await, Ok(()));
    assert_eq!(use_token(&service, &token).await, Ok(()));
}

/// Statement of replicas of the build before the ring of slots.
const EARLIER_BUILD: &str = "
insert into auth_nonces (issuer_did, jti, expires_at)
select issuer_did, jti, expires_at from unnest($1::text[], $2::text[], $3::timestamptz[]) n (issuer_did, jti, expires_at)
 order by issuer_did, jti
on conflict (issuer_did, jti) do update set expires_at = excluded.expires_at where auth_nonces.expires_at < $4
returning issuer_did, jti";

/// Returns true if a replica of that build accepts the token, which it records for two minutes.
async fn takes(earlier: &tokio_postgres::Client, token_id: &TokenId) -> bool {
    let now = Clock::system().now();
    let until = token_id.expires_at.max(now + TimeDelta::seconds(120));
    let (issuers, jtis, untils) = (vec![token_id.issuer.as_str()], vec![token_id.jti.as_str()], vec![until]);
    let rows = earlier.query(EARLIER_BUILD, &[&issuers, &jtis, &untils, &now]).await.unwrap();
    !rows.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_token_is_used_once_among_replicas_of_this_build_and_the_one_before() {
    let fleet = Fleet::new().await;
    let store = store(fleet.database.config.clone());
    let spend = async |token_id: &TokenId| {
        let now = Clock::system().now();
        store.consume_tokens(&[(token_id, token_id.expires_at)], now).await.unwrap()[0]
    };
    let earlier = fleet.database.connect().await;
    assert!(takes(&earlier, &token_id("there first")).await);
    assert!(!spend(&token_id("there first")).await && !takes(&earlier, &token_id("there first")).await);
    assert!(spend(&token_id("here first")).await);
    assert!(!takes(&earlier, &token_id("here first")).await && !spend(&token_id("here first")).await);
    // Until the token expires, or later: that build does not record the expiry.
    let mut long = token_id("long");
    long.expires_at += TimeDelta::seconds(240);
    assert!(takes(&earlier, &long).await && !spend(&long).await);

    // Concurrent uses: the second waits for the first, which may still fail.
    for (jti, ends, taken) in [("both", "commit", false), ("first fails", "rollback", true)] {
        earlier.batch_execute("begin").await.unwrap();
        assert!(takes(&earlier, &token_id(jti)).await);
        let (store, second) = (store.clone(), token_id(jti));
        let spending =
            tokio::spawn(
                async move { store.consume_tokens(&[(&second, second.expires_at)], Clock::system().now()).await },
            );
        tokio::time::sleep(Duration::from_millis(100)).await;
        earlier.batch_execute(ends).await.unwrap();
        assert_eq!(spending.await.unwrap().unwrap(), [taken], "{jti}");
    }
    let here = fleet.database.connect().await;
    here.batch_execute("begin").await.unwrap();
    let digest = token_id("other way").digest();
    let expires_at = token_id("other way").expires_at;
    here.execute("insert into used_tokens values (token_slot($1), $2)", &[&expires_at, &digest.as_slice()])
        .await
        .unwrap();
    let waits = tokio::spawn(async move { takes(&earlier, &token_id("other way")).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    here.batch_execute("commit").await.unwrap();
    assert!(!waits.await.unwrap());

    // Tokens that were used before the ring existed.
    here.batch_execute(&format!(
        "set session_replication_role = replica;
         insert into auth_nonces (issuer_did, jti, expires_at) values ('{ALICE}', 'long ago', now() + interval '1 minute')"
    ))
    .await
    .unwrap();
    here.batch_execute(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/sql/migrations/V046__tokens_before_the_ring.sql"
    )))
    .await
    .unwrap();
    assert!(!spend(&token_id("long ago")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_replica_and_the_database_agree_on_the_slot_of_a_token() {
    let fleet = Fleet::new().await;
    let (store, db) = (store(fleet.database.config.clone()), fleet.database.connect().await);
    // A token of an hour counts as used in the first minute of an incarnation.
    fleet.incarnation_began("1 day").await;
    let now = Clock::system().now();
    for seconds in (-240..4_000).step_by(97) {
        let token_id =
            TokenId { expires_at: now + TimeDelta::seconds(seconds), issued_at: now, ..token_id(&seconds.to_string()) };
        assert_eq!(store.consume_tokens(&[(&token_id, now)], now).await.unwrap(), [true], "{seconds}");
        let right = "select slot = token_slot($1) from used_tokens where token = $2";
        let rows = db.query(right, &[&token_id.expires_at, &token_id.digest().as_slice()]).await.unwrap();
        assert!(rows.iter().map(|row| row.get::<_, bool>(0)).eq([true]), "{seconds}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_slot_is_emptied_only_when_no_replica_accepts_its_tokens() {
    let fleet = Fleet::new().await;
    let db = fleet.database.connect().await;
    fleet.incarnation_began("1 day").await;
    // One token for each ten minutes, from seventy minutes ago to beyond the last acceptable one.
    db.batch_execute(
        "insert into used_tokens select token_slot(now() + n * interval '10 minutes'), n::text::bytea from generate_series(-7, 8) n",
    )
    .await
    .unwrap();
    let emptied = async || -> Vec<bool> {
        let query = "select empty_used_tokens(token_slot(now() + n * interval '10 minutes')) from generate_series(-7, 8) n order by n";
        db.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let before = Clock::system().now().timestamp() / 600;
    let first = emptied().await;
    if Clock::system().now().timestamp() / 600 == before {
        assert_eq!(first, [[true; 6].as_slice(), &[false; 10]].concat());
    }
    assert_eq!(emptied().await[..6], [false; 6], "there is nothing left in them");
    // A slot in use is not even locked; a lock would last until the transaction ends.
    db.batch_execute("begin; select empty_used_tokens(token_slot(now()))").await.unwrap();
    let locks = "select count(*) from pg_locks where pid = pg_backend_pid() and mode = 'AccessExclusiveLock'";
    assert_eq!(db.query_one(locks, &[]).await.unwrap().get::<_, i64>(0), 0);
    db.batch_execute("rollback").await.unwrap();

    // PostgreSQL's clock refuses tokens whose records may be deleted, whatever the replica's clock says.
    let store = store(fleet.database.config.clone());
    for (minutes, taken) in
        [(-11, false), (-6, false), (-4, true), (1, true), (8, true), (61, true), (69, true), (71, false), (160, false)]
    {
        let expires_at = Clock::system().now() + TimeDelta::minutes(minutes);
        let token = TokenId { expires_at, ..token_id(&format!("{minutes}")) };
        let skewed = expires_at - TimeDelta::minutes(1);
        assert_eq!(store.consume_tokens(&[(&token, expires_at)], skewed).await.unwrap(), [taken], "{minutes}");
        assert_eq!(store.consume_tokens(&[(&token, expires_at)], skewed).await.unwrap(), [false], "{minutes}");
        assert_eq!(store.is_used(&token, skewed).await.unwrap(), taken, "{minutes}");
    }
    // A development token may live for a day.
    let long_lived =
        TokenId { expires_at: Clock::system().now() + TimeDelta::hours(23), long_lived: true, ..token_id("lasting") };
    for taken in [true, false] {
        assert_eq!(
            store.consume_tokens(&[(&long_lived, long_lived.expires_at)], Clock::system().now()).await.unwrap(),
            [taken]
        );
    }
    assert!(store.is_used(&long_lived, Clock::system().now()).await.unwrap());
}
