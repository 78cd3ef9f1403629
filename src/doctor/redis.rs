//! Redis: whether it answers, and what it does when it is full.

use crate::redis::{self, Inspection};

use super::Diagnosis;

pub(super) async fn examine(url: &str) -> Vec<Diagnosis> {
    match redis::inspect(url).await {
        Ok(inspection) => judge(&inspection),
        Err(cause) => vec![Diagnosis::weak(
            "redis",
            format!("Redis does not answer: {cause}"),
            "P11: replicas learn of each other's events later, and each applies rate limits alone",
            "Start it, correct REDIS_URL, or leave REDIS_URL out",
        )],
    }
}

fn judge(inspection: &Inspection) -> Vec<Diagnosis> {
    let Inspection { is_replica, max_memory, policy, persists } = inspection;
    let mut found = Vec::new();
    if *is_replica {
        found.push(Diagnosis::weak(
            "redis_role",
            "Redis is a replica of another one, and only reads",
            "P11: used tokens and rate limits are not shared",
            "Let REDIS_URL lead to the primary",
        ));
    }
    if *max_memory == 0 {
        found.push(Diagnosis::weak(
            "redis_maxmemory",
            "Redis has no limit on its memory",
            "P10: it takes memory until the kernel ends it, or something else on its machine",
            "Set maxmemory (compose.yaml has 192mb) and maxmemory-policy allkeys-lru",
        ));
    } else if policy == "noeviction" {
        found.push(Diagnosis::weak(
            "redis_eviction",
            format!("Redis evicts nothing when its {max_memory} bytes are full"),
            "P11: from then on used tokens and rate limits are not shared",
            "Set maxmemory-policy allkeys-lru; nothing in it must stay",
        ));
    }
    if *persists == Some(true) {
        found.push(Diagnosis::weak(
            "redis_persistence",
            "Redis writes to disk",
            "P11: calls that wait for its disk are given up after 50 ms, and nothing in it needs to last",
            "Set save \"\" and appendonly no",
        ));
    }
    if found.is_empty() {
        found.push(Diagnosis::ok("redis", format!("Redis answers, and evicts keys ({policy}) at {max_memory} bytes")));
    }
    found
}
