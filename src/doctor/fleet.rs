//! The replicas that serve, and this command: settings that should be alike.

use std::collections::BTreeMap;

use crate::config::{Config, table};
use crate::replicas;
use crate::store::{ConnectError, Operator, Replica};

use super::Diagnosis;

pub(super) async fn examine(
    db: &Operator,
    config: &Config,
    replicas: &[Replica],
) -> Result<Vec<Diagnosis>, ConnectError> {
    if replicas.is_empty() {
        return Ok(vec![Diagnosis::ok("replicas", "no replica serves now")]);
    }
    // A role that may not read the key compares replicas only.
    let key = db.names_key().await.ok().flatten();
    let own = key.map(|key| replicas::settings(config, &key));
    let parties: Vec<(&str, &serde_json::Value)> = replicas
        .iter()
        .map(|replica| (replica.id.as_str(), &replica.settings))
        .chain(own.as_ref().map(|own| ("this command", own)))
        .collect();
    let mut found: Vec<Diagnosis> = table::settings().filter_map(|setting| compare(setting, &parties)).collect();
    if found.is_empty() {
        let who = if own.is_some() { "and this command" } else { "(this role cannot compare this command)" };
        found.push(Diagnosis::ok(
            "replicas",
            format!("{} replicas {who} have the settings alike that matter", replicas.len()),
        ));
    }
    Ok(found)
}

/// Compares one setting of all who have it; a replica of another build may lack it.
fn compare(setting: &table::Setting, parties: &[(&str, &serde_json::Value)]) -> Option<Diagnosis> {
    let difference = setting.difference?;
    let name = setting.name;
    let mut by_value: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (who, settings) in parties {
        if let Some(value) = settings[name].as_str() {
            by_value.entry(value).or_default().push(who);
        }
    }
    if by_value.len() < 2 {
        return None;
    }
    let sides: Vec<String> = by_value
        .iter()
        .map(|(value, who)| match setting.is_secret && *value != "none" {
            true => format!("one that hashes to {value} at {}", who.join(", ")),
            false => format!("{value} at {}", who.join(", ")),
        })
        .collect();
    let found = format!("{name} differs: {}", sides.join("; "));
    let advice = format!("Give {name} the same value everywhere, and restart the replicas that have another");
    let diagnosis = if difference.breaks { Diagnosis::fatal } else { Diagnosis::weak };
    Some(diagnosis("replicas", found, difference.consequence, advice))
}
