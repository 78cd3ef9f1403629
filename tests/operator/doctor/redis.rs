//! Redis with other settings than it needs.

use catbird_testkit::cluster::database;
use catbird_testkit::redis::Redis;

use super::doctor;

#[tokio::test(flavor = "multi_thread")]
async fn each_setting_of_redis_that_weakens_a_promise_is_named() {
    let (database, mut redis) = (database().await, Redis::start());
    let url = redis.url();
    let settings = [("REDIS_URL", url.as_str())];
    let set = |redis: &Redis, name: &str, value: &str| assert_eq!(redis.run(&["config", "set", name, value]), ["OK"]);
    let about_redis = async || {
        let said = doctor(&database.url, &settings).await;
        let about = said.against().into_iter().filter(|(subject, ..)| subject.starts_with("redis"));
        about.map(|(subject, severity, _)| format!("{subject} {severity}")).collect::<Vec<_>>()
    };
    assert_eq!(about_redis().await, ["redis_maxmemory weak"]);
    set(&redis, "maxmemory", "100mb");
    assert_eq!(about_redis().await, ["redis_eviction weak"]);
    set(&redis, "maxmemory-policy", "allkeys-lru");
    assert!(about_redis().await.is_empty());
    for (name, value, right) in [("appendonly", "yes", "no"), ("save", "60 1", "")] {
        set(&redis, name, value);
        assert_eq!(about_redis().await, ["redis_persistence weak"], "{name}");
        set(&redis, name, right);
    }
    assert_eq!(redis.run(&["replicaof", "127.0.0.1", "1"]), ["OK"]);
    assert_eq!(about_redis().await, ["redis_role weak"]);
    redis.kill();
    let said = doctor(&database.url, &settings).await;
    said.names("redis", "weak", "does not answer");
}
