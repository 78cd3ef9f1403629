//! One valid request of each method. The tests that hold for all methods are made from these and the lexicon documents,
//! so a method without an example fails them.

use std::collections::BTreeSet;

use catbird_client::mls::Handshake;
use catbird_client::persona::{Persona, hex, sha256_hex};
use catbird_client::random_did;
use catbird_client::xrpc::{NAMESPACE, Reply, base64_text, bytes_value};
use catbird_server::api::ROUTES;
use catbird_server::lexicons;
use catbird_server::xrpc::Kind;
use catbird_testkit::app::TestApp;
use catbird_testkit::lexicon::{resolve_def, validate_input};
use serde_json::{Value, json};

use crate::convos::reset_convo::make;
use crate::harness::*;

any_serializer! {
    every_method_has_an_example_with_every_field_of_its_document;
}

/// Body of the example of each upload.
pub const UPLOADED: &[u8] = b"the bytes of an upload";

/// A valid request that was not sent yet.
pub struct Example {
    pub method: &'static str,
    pub caller: Persona,
    /// Fields of its body or its parameters, in the order of the endpoint's input. Null stands for a field that the
    /// example omits, because no value is valid with the others.
    pub fields: Vec<(&'static str, Value)>,
    /// Fields that this request needs, in addition to those that the document requires.
    pub needs: &'static [&'static str],
    /// Changes that turn it into another request, for a method with an idempotency key.
    pub other: Value,
}

/// A method that is called with a token, as its lexicon document describes it.
#[derive(Clone)]
pub struct Method {
    pub name: &'static str,
    pub kind: Kind,
    /// True if it answers with an endless stream.
    pub streams: bool,
    /// True if its body is bytes, and its fields are parameters.
    pub uploads: bool,
    pub fields: Vec<Field>,
}

/// A property of a method's input.
#[derive(Clone)]
pub struct Field {
    pub name: String,
    /// Its schema, resolved.
    pub schema: Value,
    pub required: bool,
}

/// Returns the methods that are called with a token: all but subscriptions, which take a ticket.
pub fn methods() -> Vec<Method> {
    let methods = ROUTES.iter().filter(|route| route.kind != Kind::Subscription).map(|route| {
        let document: Value = serde_json::from_str(lexicons::find(route.nsid).unwrap()).unwrap();
        let main = &document["defs"]["main"];
        let uploads = main["input"]["encoding"] == "*/*";
        let schema = match route.kind {
            Kind::Procedure if !uploads => &main["input"]["schema"],
            _ => &main["parameters"],
        };
        let streams = main["output"]["encoding"] == "text/event-stream";
        Method { name: route.method(), kind: route.kind, streams, uploads, fields: Field::of(schema) }
    });
    methods.collect()
}

impl Method {
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }

    /// Returns whether its input is a query string.
    pub fn has_query(&self) -> bool {
        self.kind == Kind::Query || self.uploads
    }
}

impl Field {
    /// Returns the properties of an object's schema.
    pub fn of(schema: &Value) -> Vec<Self> {
        let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
        let properties = schema["properties"].as_object().into_iter().flatten();
        let fields = properties.map(|(name, schema)| Self {
            name: name.clone(),
            schema: resolved(schema),
            required: required.iter().any(|required| *required == **name),
        });
        fields.collect()
    }
}

/// Returns the schema that a schema refers to, or the schema itself.
pub fn resolved(schema: &Value) -> Value {
    schema["ref"].as_str().map_or_else(|| schema.clone(), resolve_def)
}

impl Example {
    /// Returns its body or its parameters as an object.
    pub fn input(&self) -> Value {
        let given = self.fields.iter().filter(|(_, value)| !value.is_null());
        given.map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    /// Sends an input of this method as the example's caller.
    pub async fn send(&self, input: &Value) -> Reply {
        self.send_as(&self.caller, input).await
    }

    /// Sends it as another caller, whose DID replaces the example's own DID.
    pub async fn send_as(&self, caller: &Persona, input: &Value) -> Reply {
        let mut input = input.clone();
        for value in input.as_object_mut().unwrap().values_mut().filter(|value| *value == self.caller.did()) {
            *value = json!(caller.did());
        }
        let method = methods().into_iter().find(|method| method.name == self.method).unwrap();
        match method.kind {
            _ if method.uploads => {
                let parameters = parameters(&input);
                let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, &**value)).collect();
                upload(caller, self.method, &parameters, UPLOADED).await
            }
            Kind::Procedure => ask(caller, self.method, &input).await,
            _ => caller.xrpc.query(self.method, &parameters(&input)).await.unwrap(),
        }
    }
}

/// Returns the parameters of a query string; each value of a list is one parameter.
pub fn parameters(input: &Value) -> Vec<(&str, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut parameters = Vec::new();
    for (name, value) in input.as_object().unwrap() {
        match value.as_array() {
            Some(values) => parameters.extend(values.iter().map(|value| (&**name, text(value)))),
            None => parameters.push((&**name, text(value))),
        }
    }
    parameters
}

/// Uploads a blob, and returns its id.
async fn uploaded(member: &Persona) -> String {
    let convo = convo(member);
    let reply = ok(upload(member, "uploadBlob", &[("convoId", &convo)], UPLOADED).await);
    reply.body["blobId"].as_str().unwrap().to_owned()
}

/// Makes the examples of one method: one for each set of fields that belong together.
pub async fn examples(app: &TestApp, method: &'static str) -> Vec<Example> {
    let example = |caller, fields| Example { method, caller, fields, needs: &[], other: Value::Null };
    match method {
        "createConvo" => {
            let (mut alice, bob) = (app.persona(), app.published_persona().await);
            let group_id = random_did().into_bytes();
            alice.mls.create_group(&group_id, Default::default()).unwrap();
            let exported = alice.mls.self_update(&group_id).unwrap().group_info;
            let mut creator = app.conversation(1).await.remove(0);
            let packages = [claim(&alice, bob.did()).await.unwrap()];
            let welcome = offer_with(&mut creator, &[&bob], &packages).staged.welcome;
            let fields = vec![
                ("groupId", json!(hex(&group_id))),
                ("cipherSuite", json!(alice.mls.suite_name())),
                ("initialMembers", json!([bob.did()])),
                ("welcomeMessage", json!(base64_text(&welcome))),
                ("keyPackageHashes", hashes(&[&bob], &packages)),
                ("groupInfo", json!(base64_text(&exported))),
                ("storageModel", json!("blob")),
                ("metadata", json!({ "name": "n", "description": "d" })),
                ("currentEpoch", json!(1)),
                ("idempotencyKey", json!("k")),
            ];
            vec![Example { other: json!({ "metadata": { "name": "m" } }), ..example(alice, fields) }]
        }
        "addMembers" => {
            let (mut members, carol) = (app.conversation(2).await, app.published_persona().await);
            let packages = [claim(&members[0], carol.did()).await.unwrap()];
            let addition = offer_with(&mut members[0], &[&carol], &packages);
            let with_commit = vec![
                ("convoId", json!(convo(&members[0]))),
                ("didList", json!([carol.did()])),
                ("commit", json!(base64_text(&addition.staged.commit))),
                ("welcomeMessage", json!(base64_text(&addition.staged.welcome))),
                ("keyPackageHashes", hashes(&[&carol], &packages)),
                ("groupInfo", json!(base64_text(&addition.staged.group_info))),
                ("idempotencyKey", json!("k")),
                ("serverIncarnation", json!("0123456789abcdef")),
                ("conflict", json!("error")),
            ];
            let other = json!({ "didList": [random_did()], "keyPackageHashes": [] });
            let with_commit = Example { other, ..example(members.remove(0), with_commit) };
            let member = app.conversation(2).await.remove(0);
            let without = vec![
                ("convoId", json!(convo(&member))),
                ("didList", json!([random_did()])),
                ("idempotencyKey", json!("k")),
            ];
            vec![with_commit, Example { other: json!({ "didList": [random_did()] }), ..example(member, without) }]
        }
        "leaveConvo" => {
            let mut members = app.conversation(3).await;
            let target = members[2].did().to_owned();
            let admin = &mut members[0];
            let staged = admin.mls.remove(&admin.group_id, &[&target]).unwrap();
            let removal = vec![
                ("convoId", json!(convo(admin))),
                ("targetDid", json!(target)),
                ("commit", json!(base64_text(&staged.commit))),
                ("groupInfo", json!(base64_text(&staged.group_info))),
                ("idempotencyKey", json!("k")),
                ("serverIncarnation", json!("0123456789abcdef")),
                ("conflict", json!("error")),
            ];
            let other = json!({ "commit": null, "groupInfo": null });
            let removal = Example { other, ..example(members.remove(0), removal) };
            let mut members = app.conversation(3).await;
            let target = members[0].did().to_owned();
            let leaving = vec![("convoId", json!(convo(&members[1]))), ("idempotencyKey", json!("k"))];
            let leaving = Example { other: json!({ "targetDid": target }), ..example(members.remove(1), leaving) };
            let mut members = app.conversation(3).await;
            let proposing = vec![
                ("convoId", json!(convo(&members[1]))),
                ("proposal", json!(base64_text(&propose_leave(&mut members[1])))),
                ("idempotencyKey", json!("k")),
                ("serverIncarnation", json!("0123456789abcdef")),
                ("conflict", json!("error")),
            ];
            let proposing = Example { other: json!({ "proposal": null }), ..example(members.remove(1), proposing) };
            vec![removal, leaving, proposing]
        }
        "removeMember" => {
            let mut members = app.conversation(3).await;
            let target = members[2].did().to_owned();
            let admin = &mut members[0];
            let staged = admin.mls.remove(&admin.group_id, &[&target]).unwrap();
            let fields = vec![
                ("convoId", json!(convo(admin))),
                ("targetDid", json!(target)),
                ("commit", json!(base64_text(&staged.commit))),
                ("groupInfo", json!(base64_text(&staged.group_info))),
                ("reason", json!("spam")),
                ("idempotencyKey", json!("k")),
                ("serverIncarnation", json!("0123456789abcdef")),
                ("conflict", json!("error")),
            ];
            let other = json!({ "commit": null, "groupInfo": null });
            vec![Example { other, ..example(members.remove(0), fields) }]
        }
        "submitCommit" => {
            let (mut members, carol) = (app.conversation(3).await, app.published_persona().await);
            let packages = [claim(&members[0], carol.did()).await.unwrap()];
            let removed = members[2].did().to_owned();
            let admin = &mut members[0];
            let staged = admin.mls.change(&admin.group_id, &packages, &[&removed]).unwrap();
            let fields = vec![
                ("convoId", json!(convo(admin))),
                ("commit", json!(base64_text(&staged.commit))),
                ("addedDids", json!([carol.did()])),
                ("removedDids", json!([removed])),
                ("welcomeMessage", json!(base64_text(&staged.welcome))),
                ("keyPackageHashes", hashes(&[&carol], &packages)),
                ("groupInfo", json!(base64_text(&staged.group_info))),
                ("idempotencyKey", json!("k")),
                ("serverIncarnation", json!("0123456789abcdef")),
                ("conflict", json!("error")),
            ];
            let other = json!({ "removedDids": null });
            let change = Example { other, ..example(members.remove(0), fields) };
            let mut member = app.conversation(2).await.remove(0);
            let update = member.mls.self_update(&member.group_id).unwrap();
            let fields = vec![
                ("convoId", json!(convo(&member))),
                ("commit", json!(base64_text(&update.commit))),
                ("idempotencyKey", json!("k")),
            ];
            vec![change, Example { other: json!({ "removedDids": [random_did()] }), ..example(member, fields) }]
        }
        "sendMessage" => {
            let mut members = app.conversation(2).await;
            let other = || json!({ "ciphertext": bytes_value(b"hullo") });
            let least = |sender: &Persona| {
                vec![
                    ("convoId", json!(convo(sender))),
                    ("ciphertext", bytes_value(b"hello")),
                    ("epoch", json!(sender.epoch().unwrap())),
                    ("idempotencyKey", json!("k")),
                ]
            };
            let mut all = least(&members[0]);
            all.extend([
                ("senderDid", json!(members[0].did())),
                ("generation", json!(1)),
                ("msgId", json!("m-1")),
                ("embedType", json!("t")),
                ("embedUri", json!("https://example.com")),
                ("blobs", json!([uploaded(&members[0]).await])),
                ("serverIncarnation", json!("0123456789abcdef")),
                ("conflict", json!("error")),
            ]);
            let all = Example { other: other(), ..example(members.remove(0), all) };
            let least = least(&members[0]);
            vec![all, Example { other: other(), ..example(members.remove(0), least) }]
        }
        "processExternalCommit" => {
            let members = app.conversation(2).await;
            let info = members[0].mls.group_info(&members[0].group_id).unwrap();
            let mut device = Persona::new(members[1].xrpc.clone());
            let mut enter = || device.mls.enter(&info, Handshake::default()).unwrap().staged;
            let (staged, another) = (enter(), enter());
            let fields = vec![
                ("convoId", json!(convo(&members[0]))),
                ("externalCommit", json!(base64_text(&staged.commit))),
                ("groupInfo", json!(base64_text(&staged.group_info))),
                ("idempotencyKey", json!("k")),
                ("serverIncarnation", json!("0123456789abcdef")),
                ("conflict", json!("error")),
            ];
            let other = json!({
                "externalCommit": base64_text(&another.commit), "groupInfo": base64_text(&another.group_info),
            });
            vec![Example { other, ..example(device, fields) }]
        }
        "readdition" => {
            let member = app.conversation(2).await.remove(0);
            let fields = vec![("convoId", json!(convo(&member)))];
            vec![example(member, fields)]
        }
        "rejoin" => {
            let member = app.conversation(2).await.remove(0);
            let fields = vec![
                ("convoId", json!(convo(&member))),
                ("keyPackage", json!(base64_text(&member.mls.key_package().unwrap()))),
                ("reason", json!("lost")),
            ];
            vec![example(member, fields)]
        }
        "submitProposal" => {
            let mut members = app.conversation(2).await;
            let fields = vec![
                ("convoId", json!(convo(&members[1]))),
                ("proposal", json!(base64_text(&propose_leave(&mut members[1])))),
                ("idempotencyKey", json!("k")),
                ("serverIncarnation", json!("0123456789abcdef")),
                ("conflict", json!("error")),
            ];
            let other = json!({ "proposal": base64_text(&propose_leave(&mut members[1])) });
            vec![Example { other, ..example(members.remove(1), fields) }]
        }
        "publishKeyPackage" => {
            let owner = app.persona();
            let package = || json!(base64_text(&owner.mls.key_package().unwrap()));
            let device = json!({
                "deviceName": "laptop", "signaturePublicKey": bytes_value(owner.mls.signature_key()),
                "keyPackages": [{ "keyPackage": package(), "cipherSuite": owner.mls.suite_name() }],
            });
            let device = ok(ask(&owner, "registerDevice", &device).await).body["deviceId"].clone();
            let fields = vec![
                ("keyPackage", package()),
                ("cipherSuite", json!(owner.mls.suite_name())),
                ("expires", json!((app.app.clock.now() + chrono::TimeDelta::days(1)).to_rfc3339())),
                ("deviceId", device),
                ("idempotencyKey", json!("k")),
            ];
            let other = json!({ "keyPackage": package() });
            vec![Example { other, ..example(owner, fields) }]
        }
        "publishKeyPackages" => {
            let owner = app.persona();
            let items = |n| {
                let item = || json!({ "keyPackage": base64_text(&owner.mls.key_package().unwrap()), "cipherSuite": owner.mls.suite_name() });
                Value::from_iter((0..n).map(|_| item()))
            };
            let fields = vec![("keyPackages", items(1)), ("idempotencyKey", json!("k"))];
            let other = json!({ "keyPackages": items(2) });
            vec![Example { other, ..example(owner, fields) }]
        }
        "registerDevice" => {
            let owner = app.persona();
            let item = || {
                json!({
                    "keyPackage": base64_text(&owner.mls.key_package().unwrap()), "cipherSuite": owner.mls.suite_name(),
                    "expires": (app.app.clock.now() + chrono::TimeDelta::days(1)).to_rfc3339(),
                })
            };
            let fields = vec![
                ("deviceName", json!("laptop")),
                ("deviceUUID", json!("uuid")),
                ("keyPackages", json!([item()])),
                ("signaturePublicKey", bytes_value(owner.mls.signature_key())),
                ("idempotencyKey", json!("k")),
            ];
            let other = json!({ "keyPackages": [item()] });
            vec![Example { other, ..example(owner, fields) }]
        }
        "deleteDevice" => {
            let owner = app.persona();
            let device = json!({
                "deviceName": "laptop", "signaturePublicKey": bytes_value(owner.mls.signature_key()), "keyPackages": [{
                    "keyPackage": base64_text(&owner.mls.key_package().unwrap()), "cipherSuite": owner.mls.suite_name(),
                }],
            });
            let device = ok(ask(&owner, "registerDevice", &device).await).body["deviceId"].clone();
            let other = json!({ "deviceId": "01JB2N0W3E8Z6TQ9K4M5V7X1YA" });
            let fields = vec![("deviceId", device), ("idempotencyKey", json!("k"))];
            vec![Example { other, ..example(owner, fields) }]
        }
        "getPendingDeviceAdditions" => {
            let fields = vec![("convoIds", json!(["01JB2N0W3E8Z6TQ9K4M5V7X1YA"])), ("limit", json!(5))];
            vec![example(app.persona(), fields)]
        }
        "claimPendingDeviceAddition" => {
            vec![example(app.persona(), vec![("pendingAdditionId", json!("01JB2N0W3E8Z6TQ9K4M5V7X1YA"))])]
        }
        "completePendingDeviceAddition" => {
            let fields = vec![("pendingAdditionId", json!("01JB2N0W3E8Z6TQ9K4M5V7X1YA")), ("newEpoch", json!(1))];
            vec![example(app.persona(), fields)]
        }
        "getExpectedConversations" | "validateDeviceState" => {
            let owner = app.persona();
            let device = json!({
                "deviceName": "laptop", "signaturePublicKey": bytes_value(owner.mls.signature_key()), "keyPackages": [{
                    "keyPackage": base64_text(&owner.mls.key_package().unwrap()), "cipherSuite": owner.mls.suite_name(),
                }],
            });
            let device = ok(ask(&owner, "registerDevice", &device).await).body["deviceId"].clone();
            let mut fields = vec![("deviceId", device)];
            if method == "getExpectedConversations" {
                fields.extend([("limit", json!(5)), ("cursor", json!("before.01JB2N0W3E8Z6TQ9K4M5V7X1YA"))]);
            }
            vec![example(owner, fields)]
        }
        "listDevices" => vec![example(app.persona(), Vec::new())],
        "getKeyPackageStats" | "getKeyPackageStatus" | "syncKeyPackages" => {
            let owner = app.published_persona().await;
            let hash = owner.mls.key_package().map(|package| sha256_hex(&package)).unwrap();
            let fields = match method {
                "getKeyPackageStats" => {
                    vec![("did", json!(owner.did())), ("cipherSuite", json!(owner.mls.suite_name()))]
                }
                "getKeyPackageStatus" => vec![("limit", json!(5)), ("cursor", json!(format!("1.{hash}")))],
                _ => vec![("localHashes", json!([hash])), ("deleteHashes", json!([hash]))],
            };
            vec![example(owner, fields)]
        }
        "claimKeyPackages" | "getKeyPackages" => {
            let carol = app.published_persona().await;
            let fields = vec![("dids", json!([carol.did()])), ("cipherSuite", json!(carol.mls.suite_name()))];
            vec![example(app.persona(), fields)]
        }
        "confirmWelcome" | "getWelcome" => {
            let (mut creator, invited) = (app.conversation(1).await.remove(0), app.persona());
            let device = json!({
                "deviceName": "laptop", "signaturePublicKey": bytes_value(invited.mls.signature_key()), "keyPackages": [{
                    "keyPackage": base64_text(&invited.mls.key_package().unwrap()), "cipherSuite": invited.mls.suite_name(),
                }],
            });
            let device = ok(ask(&invited, "registerDevice", &device).await).body["deviceId"].clone();
            creator.add(&[invited.did()]).await.unwrap();
            let id = convo(&creator);
            let welcome = ok(get(&invited, "getWelcome", &[("convoId", &id)]).await).body;
            let mut fields = vec![("convoId", json!(id)), ("keyPackageHash", welcome["keyPackageHash"].clone())];
            if method == "confirmWelcome" {
                fields.insert(1, ("success", json!(false)));
                fields.insert(2, ("errorDetails", json!("x")));
                fields.push(("epoch", welcome["epoch"].clone()));
            }
            fields.push(("deviceId", device));
            vec![example(invited, fields)]
        }
        "reportCommit" => {
            let member = app.conversation(2).await.remove(0);
            let id = convo(&member);
            let page = ok(get(&member, "getCommits", &[("convoId", &id), ("fromEpoch", "1")]).await);
            let commit = page.bytes_in(&page.list("commits").unwrap()[0], "commitData").unwrap();
            let fields = vec![
                ("convoId", json!(id)),
                ("epoch", json!(1)),
                ("commitHash", json!(sha256_hex(&commit))),
                ("epochAuthenticator", bytes_value(&member.epoch_authenticator().unwrap())),
                ("applied", json!(true)),
                ("idempotencyKey", json!("k")),
            ];
            vec![Example { other: json!({ "applied": false }), ..example(member, fields) }]
        }
        "getGroupInfo" | "updateGroupInfo" => {
            let member = app.conversation(1).await.remove(0);
            let all = vec![
                ("convoId", json!(convo(&member))),
                ("groupInfo", json!(base64_text(&member.mls.group_info(&member.group_id).unwrap()))),
                ("epoch", json!(member.epoch().unwrap())),
            ];
            if method == "updateGroupInfo" {
                return vec![example(member, all)];
            }
            let stored = Example { method: "updateGroupInfo", ..example(member, all) };
            ok(stored.send(&stored.input()).await);
            let fields = vec![("convoId", json!(convo(&stored.caller)))];
            vec![example(stored.caller, fields)]
        }
        "resetConvo" => {
            let mut members = app.conversation(2).await;
            members[1].publish_key_packages(1).await.unwrap();
            let mut creator = members.remove(0);
            let body = make(&mut creator, &[&members[0]]).await.body;
            let fields = vec![
                ("convoId", body["convoId"].clone()),
                ("prior", body["prior"].clone()),
                ("newGroupId", body["newGroupId"].clone()),
                ("cipherSuite", json!(creator.mls.suite_name())),
                ("currentEpoch", json!(1)),
                ("commit", body["commit"].clone()),
                ("welcomeMessage", body["welcomeMessage"].clone()),
                ("keyPackageHashes", body["keyPackageHashes"].clone()),
                ("groupInfo", body["groupInfo"].clone()),
                ("conflict", json!("error")),
                ("idempotencyKey", json!("k")),
            ];
            let needs = &["welcomeMessage", "keyPackageHashes"];
            let other = json!({ "prior": { "generation": 1, "epoch": 9 } });
            vec![Example { needs, other, ..example(creator, fields) }]
        }
        "setMailbox" => {
            let member = app.conversation(1).await.remove(0);
            let fields = vec![
                ("convoId", json!(convo(&member))),
                ("provider", json!("webhook")),
                ("zone", json!("home")),
                ("url", json!("https://mail.example.com/in")),
                ("secret", bytes_value(&[7; 32])),
            ];
            vec![Example { needs: &["url", "secret"], ..example(member, fields) }]
        }
        "uploadBlob" => {
            let member = app.conversation(1).await.remove(0);
            let fields = vec![("convoId", json!(convo(&member))), ("sha256", json!(sha256_hex(UPLOADED)))];
            vec![example(member, fields)]
        }
        "createBlobUpload" => {
            let member = app.conversation(1).await.remove(0);
            let fields = vec![
                ("convoId", json!(convo(&member))),
                ("size", json!(UPLOADED.len())),
                ("partSize", json!(256 * 1024)),
            ];
            vec![example(member, fields)]
        }
        "uploadBlobPart" | "completeBlobUpload" | "getBlobUpload" | "abortBlobUpload" => {
            let member = app.conversation(1).await.remove(0);
            let create = json!({ "convoId": convo(&member), "size": UPLOADED.len(), "partSize": 256 * 1024 });
            let begun = ok(ask(&member, "createBlobUpload", &create).await);
            let blob = begun.body["blobId"].clone();
            let part = [("blobId", blob.as_str().unwrap()), ("part", "1")];
            let hash = ("sha256", json!(sha256_hex(UPLOADED)));
            let mut fields = vec![("blobId", blob.clone())];
            match method {
                "uploadBlobPart" => fields.extend([("part", json!(1)), hash]),
                "completeBlobUpload" => {
                    ok(upload(&member, "uploadBlobPart", &part, UPLOADED).await);
                    fields.push(hash);
                }
                _ => {}
            }
            vec![example(member, fields)]
        }
        "getBlob" => {
            let member = app.conversation(1).await.remove(0);
            let blob = uploaded(&member).await;
            let referring = with(&message(&member, b"a blob"), json!({ "blobs": [blob] }));
            ok(ask(&member, "sendMessage", &referring).await);
            vec![example(member, vec![("blobId", json!(blob))])]
        }
        "getConvos" => {
            let fields = vec![("limit", json!(5)), ("cursor", json!("01JB2N0W3E8Z6TQ9K4M5V7X1YA"))];
            vec![example(app.conversation(1).await.remove(0), fields)]
        }
        _ => {
            let mut member = app.conversation(1).await.remove(0);
            let sent = member.send("hello").await.unwrap();
            let more = match method {
                "getEpoch" | "getMailbox" | "getQuota" | "getSubscriptionTicket" | "groupInfoRefresh" => vec![vec![]],
                "getMessages" => vec![
                    vec![("limit", json!(5)), ("sinceSeq", json!(0)), ("markRead", json!(true)), ("peek", json!(true))],
                    vec![("limit", json!(5)), ("cursor", json!("3"))],
                    vec![("sinceMessage", json!(sent.message_id))],
                ],
                "getCommits" => vec![vec![
                    ("fromEpoch", json!(0)),
                    ("toEpoch", json!(1)),
                    ("generation", json!(1)),
                    ("limit", json!(5)),
                    ("cursor", json!("1")),
                ]],
                "sendTypingIndicator" => vec![vec![("isTyping", json!(true))]],
                "streamConvoEvents" => vec![vec![("cursor", Value::Null)]],
                "updateCursor" => vec![vec![("cursor", json!("01JB2N0W3E8Z6TQ9K4M5V7X1YA"))]],
                "updateRead" => vec![vec![("messageId", json!(sent.message_id))]],
                _ => panic!("{method} has no example here"),
            };
            let whole = more.into_iter().map(|mut fields: Vec<(&'static str, Value)>| {
                fields.insert(0, ("convoId", json!(convo(&member))));
                let mut caller = Persona::new(member.xrpc.clone());
                caller.convo_id.clone_from(&member.convo_id);
                example(caller, fields)
            });
            whole.collect()
        }
    }
}

async fn every_method_has_an_example_with_every_field_of_its_document(app: &TestApp) {
    for method in methods() {
        let mut shown = BTreeSet::new();
        for example in examples(app, method.name).await {
            validate_input(&format!("{NAMESPACE}.{}", method.name), &example.input()).unwrap();
            assert_eq!(method.has("idempotencyKey"), example.other.is_object(), "{}", method.name);
            shown.extend(example.fields.into_iter().map(|(name, _)| name.to_owned()));
        }
        assert_eq!(shown, method.fields.into_iter().map(|field| field.name).collect(), "{}", method.name);
    }
}
