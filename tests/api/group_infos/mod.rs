mod get_group_info;
mod group_info_refresh;
mod update_group_info;
mod with_commits;

use catbird_client::persona::Persona;
use catbird_client::xrpc::{Reply, base64_text};
use serde_json::{Value, json};

use crate::harness::*;

/// Returns a member's own GroupInfo.
pub fn exported(member: &Persona) -> Vec<u8> {
    member.mls.group_info(&member.group_id).unwrap()
}

/// Returns the body of updateGroupInfo with these bytes, for the member's own epoch.
pub fn update_of(member: &Persona, group_info: &[u8]) -> Value {
    json!({ "convoId": convo(member), "groupInfo": base64_text(group_info), "epoch": member.epoch().unwrap() })
}

/// Stores a member's own GroupInfo.
pub async fn update(member: &Persona) -> Reply {
    ask(member, "updateGroupInfo", &update_of(member, &exported(member))).await
}

/// Calls getGroupInfo.
pub async fn fetch(member: &Persona) -> Reply {
    get(member, "getGroupInfo", &[("convoId", &convo(member))]).await
}
