//! New devices of members: members are told, one of them adds the device, and a commit completes that.

use std::collections::BTreeSet;

use catbird_client::mls::{Handshake, MlsClient};
use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::Device;
use crate::harness::*;

either_serializer! {
    a_commit_that_uses_its_package_brings_a_new_device_in;
    the_external_commit_of_a_new_device_completes_its_addition;
    p8_additions_and_claims_at_once_issue_no_package_twice;
}
any_serializer! {
    of_members_that_claim_an_addition_at_once_one_gets_it;
    a_claim_without_a_key_package_keeps_nothing;
    a_device_with_new_keys_is_announced_again;
    a_client_that_is_in_the_group_when_it_registers_is_not_added_again;
    a_device_that_the_group_info_shows_is_not_added_again;
    owners_add_their_devices_from_their_whole_stock with ("KEY_PACKAGES_PER_CALLER", "1");
    strangers_and_former_members_see_no_addition;
    the_server_says_only_what_it_knows_about_the_groups_of_a_device;
}

pub async fn pending(caller: &Persona) -> Vec<Value> {
    ok(get(caller, "getPendingDeviceAdditions", &[]).await).list("pendingAdditions").unwrap().to_vec()
}

async fn expected(caller: &Persona, device: &str) -> Vec<Value> {
    ok(get(caller, "getExpectedConversations", &[("deviceId", device)]).await).list("conversations").unwrap().to_vec()
}

async fn claim_addition(caller: &Persona, addition: &Value) -> Reply {
    ok(ask(caller, "claimPendingDeviceAddition", &json!({ "pendingAdditionId": addition["id"] })).await)
}

async fn is_completed(caller: &Persona, addition: &Value) -> bool {
    let reply = ok(ask(caller, "completePendingDeviceAddition", &json!({ "pendingAdditionId": addition["id"] })).await);
    assert_eq!(reply.body["success"] == false, reply.body["error"].is_string(), "{reply}");
    reply.body["success"] == true
}

/// Moves the time at which members were asked, in seconds from now.
async fn asked_at(app: &TestApp, seconds: f64) {
    sql(app, "update device_memberships set created_at = now() + make_interval(secs => $1)", &[&seconds]).await;
}

/// Lets the time pass in which only the owner's devices may claim.
async fn grow_old(app: &TestApp) {
    asked_at(app, -10.0).await;
}

async fn a_commit_that_uses_its_package_brings_a_new_device_in(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let id = convo(&members[0]);
    let mut laptop = Device::registered(&members[1], "laptop", 2).await;
    let owner = members[1].did().to_owned();
    for member in &members {
        let seen = pending(member).await;
        assert_eq!(seen.len(), 1);
        assert_eq!(
            (&seen[0]["convoId"], &seen[0]["userDid"], &seen[0]["status"]),
            (&json!(id), &json!(owner), &json!("pending"))
        );
        assert_eq!(seen[0]["deviceName"].is_string(), member.did() == owner, "only its owner sees its name");
    }
    assert_eq!(expected(&members[1], &laptop.id).await[0]["needsRejoin"], true);
    let addition = pending(&members[0]).await.remove(0);
    // The owner's own devices come first.
    asked_at(app, 60.0).await;
    assert_eq!(claim_addition(&members[0], &addition).await.body, json!({ "claimed": false }));
    let claimed = claim_addition(&members[1], &addition).await;
    assert_eq!(claimed.body["claimed"], true);
    assert_eq!(claim_addition(&members[1], &addition).await.body, claimed.body, "again");
    grow_old(app).await;
    assert_eq!(
        claim_addition(&members[0], &addition).await.body,
        json!({ "claimed": false, "claimedBy": owner }),
        "another member has it"
    );
    assert_eq!(pending(&members[0]).await[0]["status"], "in_progress");
    assert!(!is_completed(&members[1], &addition).await);

    let package = claimed.bytes_in(&claimed.body["keyPackage"], "keyPackage").unwrap();
    let adder = &mut members[1];
    let staged = adder.mls.add(&adder.group_id, std::slice::from_ref(&package)).unwrap();
    let commit = json!({
        "convoId": id, "commit": base64_text(&staged.commit), "welcomeMessage": base64_text(&staged.welcome),
        "keyPackageHashes": [{ "did": owner, "hash": sha256_hex(&package) }],
    });
    ok(ask(adder, "submitCommit", &commit).await);
    merge(adder);
    assert!(is_completed(&members[0], &addition).await && is_completed(&members[1], &addition).await);
    assert_eq!(claim_addition(&members[1], &addition).await.body, json!({ "claimed": false }));
    assert!(pending(&members[1]).await.is_empty());
    assert_eq!(expected(&members[1], &laptop.id).await[0]["deviceInGroup"], true);
    let welcome = ok(get(&members[1], "getWelcome", &[("convoId", &id), ("deviceId", &laptop.id)]).await);
    let group = laptop.mls.join(&welcome.bytes("welcome").unwrap(), Handshake::default()).unwrap();
    assert_eq!(laptop.mls.epoch_authenticator(&group).unwrap(), members[1].epoch_authenticator().unwrap());
}

async fn the_external_commit_of_a_new_device_completes_its_addition(app: &TestApp) {
    let members = app.conversation(2).await;
    let (alice, bob) = (&members[0], &members[1]);
    alice.publish_group_info().await.unwrap();
    let mut laptop = bob.device(Box::new(MlsClient::new(format!("{}#laptop", bob.did()))));
    let (id, _) = laptop.register_device("laptop", 1).await.unwrap();
    let addition = pending(alice).await.remove(0);
    laptop.enter(&convo(alice)).await.unwrap();
    assert!(pending(alice).await.is_empty());
    assert!(is_completed(alice, &addition).await);
    assert_eq!(expected(bob, &id).await[0]["deviceInGroup"], true);
}

async fn of_members_that_claim_an_addition_at_once_one_gets_it(app: &TestApp) {
    let members = app.conversation(4).await;
    Device::registered(&members[0], "laptop", 10).await;
    grow_old(app).await;
    let addition = pending(&members[0]).await.remove(0);
    let replies = join_all((0..20).map(|n| claim_addition(&members[1 + n % 3], &addition))).await;
    let won: Vec<_> = replies.iter().filter(|reply| reply.body["claimed"] == true).collect();
    assert!(!won.is_empty());
    assert!(won.iter().all(|reply| reply.body == won[0].body), "one member got one package");
    let issued = "select count(*) from key_packages where claimed_by is not null and device_id is not null";
    assert_eq!(app.database.connect().await.query_one(issued, &[]).await.unwrap().get::<_, i64>(0), 1);
    // After a minute another member may.
    sql(app, "update device_memberships set claim_expires_at = now()", &[]).await;
    let again = join_all(members[1..].iter().map(|member| claim_addition(member, &addition))).await;
    assert_eq!(again.iter().filter(|reply| reply.body["claimed"] == true).count(), 1);
}

async fn a_claim_without_a_key_package_keeps_nothing(app: &TestApp) {
    let members = app.conversation(3).await;
    let laptop = Device::registered(&members[0], "laptop", 1).await;
    grow_old(app).await;
    ok(ask(&app.persona(), "claimKeyPackages", &json!({ "dids": [members[0].did()] })).await);
    let addition = pending(&members[0]).await.remove(0);
    let before = contents(app).await;
    assert_eq!(claim_addition(&members[1], &addition).await.body, json!({ "claimed": false }));
    assert_eq!(contents(app).await, before);
    ok(publish(&members[0], &laptop.mls.key_package().unwrap()).await);
    assert_eq!(claim_addition(&members[2], &addition).await.body["claimed"], true);
}

async fn a_device_with_new_keys_is_announced_again(app: &TestApp) {
    let members = app.conversation(2).await;
    let owner = &members[1];
    let body = |device: &Device| with(&device.registration("laptop", 1), json!({ "deviceUUID": "u" }));
    let (before, after) = (Device::new(owner, "laptop"), Device::new(owner, "laptop"));
    ok(ask(owner, "registerDevice", &body(&before)).await);
    let first = pending(owner).await;
    ok(ask(owner, "registerDevice", &body(&before)).await);
    assert_eq!(pending(owner).await, first, "the same keys");
    ok(ask(owner, "registerDevice", &body(&after)).await);
    let second = pending(owner).await;
    assert_eq!((second.len(), &second[0]["deviceId"]), (1, &first[0]["deviceId"]));
    assert_ne!(second[0]["id"], first[0]["id"]);
    assert_eq!(claim_addition(owner, &first[0]).await.body, json!({ "claimed": false }));
}

async fn a_client_that_is_in_the_group_when_it_registers_is_not_added_again(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let (id, _) = members[1].register_device("phone", 1).await.unwrap();
    assert!(pending(&members[0]).await.is_empty());
    assert_eq!(expected(&members[1], &id).await[0]["deviceInGroup"], true);
}

/// The group's creator leaves no record of its key: the server finds it in the GroupInfo.
async fn a_device_that_the_group_info_shows_is_not_added_again(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let (id, _) = members[0].register_device("phone", 3).await.unwrap();
    grow_old(app).await;
    let addition = pending(&members[1]).await.remove(0);
    // Somebody else's device with a leaf of its own is not in the group.
    Device::registered(&members[1], "laptop", 1).await;
    grow_old(app).await;
    members[1].publish_group_info().await.unwrap();
    assert_eq!(claim_addition(&members[1], &addition).await.body, json!({ "claimed": false }));
    assert!(is_completed(&members[1], &addition).await);
    assert_eq!(expected(&members[0], &id).await[0]["deviceInGroup"], true);
    let issued = "select count(*) from key_packages where claimed_by is not null and device_id is not null";
    assert_eq!(app.database.connect().await.query_one(issued, &[]).await.unwrap().get::<_, i64>(0), 0);
    let other = pending(&members[0]).await.remove(0);
    assert_eq!(claim_addition(&members[0], &other).await.body["claimed"], true);
}

async fn owners_add_their_devices_from_their_whole_stock(app: &TestApp) {
    let owner = app.persona();
    for _ in 0..3 {
        let mut again = Persona::new(owner.xrpc.clone());
        again.create(catbird_client::random_did().as_bytes(), "one of three").await.unwrap();
    }
    Device::registered(&owner, "laptop", 3).await;
    let mut hashes = BTreeSet::new();
    for addition in pending(&owner).await {
        let claimed = claim_addition(&owner, &addition).await;
        hashes.insert(claimed.body["keyPackage"]["keyPackageHash"].as_str().unwrap().to_owned());
        // As if a commit had used it.
        sql(app, "update key_packages set consumed_at = now(), consumed_convo = 'c' where claimed_by is not null", &[])
            .await;
    }
    assert_eq!(hashes.len(), 3);
}

async fn p8_additions_and_claims_at_once_issue_no_package_twice(app: &TestApp) {
    let owner = app.persona();
    owner.publish_key_packages(3).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = app.persona();
        other.create(catbird_client::random_did().as_bytes(), "with the owner").await.unwrap();
        other.add(&[owner.did()]).await.unwrap();
        others.push(other);
    }
    Device::registered(&owner, "laptop", 9).await;
    grow_old(app).await;
    let mut additions = Vec::new();
    for other in &others {
        additions.push(pending(other).await.remove(0));
    }
    let callers: Vec<_> = (0..6).map(|_| app.persona()).collect();
    let hash = |package: &Value| package["keyPackageHash"].as_str().unwrap().to_owned();
    let adding = others.iter().zip(&additions).flat_map(|pair| [pair, pair]).map(|(other, addition)| async move {
        (other.did().to_owned(), hash(&claim_addition(other, addition).await.body["keyPackage"]))
    });
    let claiming = callers.iter().flat_map(|caller| [caller, caller]).map(|caller| {
        let owner = &owner;
        async move {
            let reply = ok(ask(caller, "claimKeyPackages", &json!({ "dids": [owner.did()] })).await);
            (caller.did().to_owned(), hash(&reply.list("keyPackages").unwrap()[0]))
        }
    });
    let (added, claimed) = tokio::join!(join_all(adding), join_all(claiming));
    let issued: BTreeSet<_> = added.into_iter().chain(claimed).collect();
    let packages: BTreeSet<_> = issued.iter().map(|(_, hash)| hash).collect();
    assert_eq!((issued.len(), packages.len()), (9, 9), "each caller got one package of its own: {issued:?}");
}

async fn strangers_and_former_members_see_no_addition(app: &TestApp) {
    let mut members = app.conversation(3).await;
    Device::registered(&members[0], "laptop", 2).await;
    grow_old(app).await;
    let addition = pending(&members[0]).await.remove(0);
    let stranger = app.persona();
    members[2].leave().await.unwrap();
    let before = contents(app).await;
    for outsider in [&stranger, &members[2]] {
        assert!(pending(outsider).await.is_empty());
        assert_eq!(claim_addition(outsider, &addition).await.body, json!({ "claimed": false }));
        let unknown = json!({ "id": "01JB2N0W3E8Z6TQ9K4M5V7X1YA" });
        assert_eq!(claim_addition(outsider, &unknown).await.body, json!({ "claimed": false }));
        assert!(!is_completed(outsider, &addition).await && !is_completed(outsider, &unknown).await);
    }
    assert_eq!(contents(app).await, before);
    members[0].leave().await.unwrap();
    assert!(pending(&members[1]).await.is_empty(), "its owner has left");
}

async fn the_server_says_only_what_it_knows_about_the_groups_of_a_device(app: &TestApp) {
    let owner = app.persona();
    let phone = Device::registered(&owner, "phone", 2).await;
    let mut first = Persona::new(owner.xrpc.clone());
    first.create(catbird_client::random_did().as_bytes(), "own").await.unwrap();
    let seen = expected(&owner, &phone.id).await;
    assert_eq!((seen.len(), &seen[0]["shouldBeInGroup"]), (1, &json!(true)));
    assert!(seen[0].get("deviceInGroup").is_none() && seen[0].get("needsRejoin").is_none(), "{seen:?}");
    let laptop = Device::registered(&owner, "laptop", 1).await;
    assert_eq!(expected(&owner, &laptop.id).await[0]["deviceInGroup"], false);

    // Another person's commit leaves the laptop out.
    let mut alice = app.persona();
    alice.create(catbird_client::random_did().as_bytes(), "another's").await.unwrap();
    let claimed = ok(ask(&alice, "claimKeyPackages", &json!({ "dids": [owner.did()] })).await);
    let packages = claimed.list("keyPackages").unwrap();
    let of_phone = packages.iter().find(|package| package["deviceId"] == *phone.id).unwrap();
    let bytes = claimed.bytes_in(of_phone, "keyPackage").unwrap();
    let mut offered = offer_with(&mut alice, &[&owner], std::slice::from_ref(&bytes));
    offered.body["keyPackageHashes"] = hashes(&[&owner], std::slice::from_ref(&bytes));
    ok(ask(&alice, "addMembers", &offered.body).await);
    let groups = async |device: &str| {
        let all = expected(&owner, device).await;
        let theirs = all.into_iter().find(|one| one["convoId"] == *convo(&alice)).unwrap();
        (theirs["deviceInGroup"].clone(), theirs["needsRejoin"].clone())
    };
    assert_eq!(groups(&phone.id).await, (json!(true), json!(false)));
    assert_eq!(groups(&laptop.id).await, (json!(false), json!(true)));
    let page = ok(get(&owner, "getExpectedConversations", &[("limit", "1")]).await);
    let next = [("limit", "1"), ("cursor", page.string("cursor").unwrap())];
    let rest = ok(get(&owner, "getExpectedConversations", &next).await);
    assert_ne!(page.body["conversations"][0]["convoId"], rest.body["conversations"][0]["convoId"]);
    assert!(rest.body.get("cursor").is_none());
    refused(get(&owner, "getExpectedConversations", &[("deviceId", "unknown")]).await, 404, "DeviceNotFound");
    refused(get(&alice, "getExpectedConversations", &[("deviceId", &*phone.id)]).await, 404, "DeviceNotFound");
}
