//! The lexicon validator of the tests refuses invalid values: each type, with examples on both sides.

use catbird_testkit::lexicon::{
    Catalogue, sends_bytes, validate_bytes, validate_error, validate_event, validate_input, validate_output,
};
use reqwest::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};

const SEND: &str = "blue.catbird.mls.sendMessage";
const GET: &str = "blue.catbird.mls.getMessages";
const CREATE: &str = "blue.catbird.mls.createConvo";
const EPOCH: &str = "blue.catbird.mls.getEpoch";

/// Checks `value` as a `field` of a body with this schema.
fn field(schema: Value, value: Value) -> Result<(), String> {
    let body = json!({ "type": "object", "required": ["field"], "properties": { "field": schema } });
    let catalogue = Catalogue::new([json!({ "id": "test.one", "defs": {
        "main": { "type": "procedure", "output": { "encoding": "application/json", "schema": body } },
        "point": { "type": "object", "required": ["x"], "properties": { "x": { "type": "integer" } } },
        "name": { "type": "string", "maxLength": 3 },
    } })]);
    catalogue.output("test.one", &json!({ "field": value }))
}

#[track_caller]
fn accepts(schema: Value, good: &[Value]) {
    for value in good {
        assert_eq!(field(schema.clone(), value.clone()), Ok(()), "{value}");
    }
}

#[track_caller]
fn refuses(schema: Value, bad: &[Value]) {
    for value in bad {
        let why = field(schema.clone(), value.clone()).expect_err(&value.to_string());
        assert!(why.starts_with("$.field"), "{value}: {why}");
    }
}

fn message() -> Value {
    json!({
        "id": "01JB2N0W3E8Z6TQ9K4M5V7X1YA", "convoId": "01JB2N0W3E8Z6TQ9K4M5V7X1YB", "sender": "did:plc:alice",
        "messageType": "app", "ciphertext": { "$bytes": "aGVsbG8" }, "generation": 1, "epoch": 0, "seq": 1,
        "createdAt": "2025-11-03T10:00:00.123456Z",
    })
}

fn refusal(code: &str) -> Value {
    json!({ "error": code, "message": "It could not be done.", "recovery": "giveUp" })
}

/// Validates a reply of getMessages with one field of its message replaced, or removed with `None`.
fn changed_message(name: &str, value: Option<Value>) -> Result<(), String> {
    let mut message = message();
    match value {
        Some(value) => message[name] = value,
        None => _ = message.as_object_mut().unwrap().remove(name),
    }
    validate_output(GET, &json!({ "messages": [message], "lastSeq": 1 }))
}

#[test]
fn a_complete_reply_is_accepted() {
    assert_eq!(
        validate_output(GET, &json!({ "messages": [message(), message()], "lastSeq": 2, "cursor": "x" })),
        Ok(())
    );
    assert_eq!(validate_output(EPOCH, &json!({ "convoId": "c", "generation": 1, "currentEpoch": 7 })), Ok(()));
    let convo = json!({
        "id": "c", "groupId": "a1", "creator": "did:plc:alice", "memberCount": 1, "generation": 1, "epoch": 0, "seq": 0, "unreadCount": 0,
        "cipherSuite": "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519", "state": "active", "createdAt": "2025-11-03T10:00:00Z",
        "members": [{ "did": "did:plc:alice", "userDid": "did:plc:alice", "joinedAt": "2025-11-03T10:00:00Z", "isAdmin": true }],
        "metadata": { "name": "Team" },
    });
    assert_eq!(validate_output(CREATE, &convo), Ok(()));
}

#[test]
fn a_reply_with_two_results_is_one_of_them() {
    let mut sent = json!({ "messageId": "m", "receivedAt": "2025-11-03T10:00:00Z", "seq": 1, "epoch": 0 });
    assert_eq!(validate_output(SEND, &sent), Ok(()));
    sent["$type"] = json!(format!("{SEND}#accepted"));
    assert_eq!(validate_output(SEND, &sent), Ok(()));
    let stale =
        json!({ "error": "EpochMismatch", "message": "Late.", "recovery": "catchUpThenRebase", "serverEpoch": 2 });
    assert!(validate_output(SEND, &stale).is_err(), "it does not say what it is");
    let mut typed = stale.clone();
    typed["$type"] = json!(format!("{SEND}#stale"));
    assert_eq!(validate_output(SEND, &typed), Ok(()));
    typed["seq"] = json!(1);
    assert!(validate_output(SEND, &typed).is_err(), "a field of the other one");
    sent["$type"] = json!("blue.catbird.mls.addMembers#accepted");
    assert!(validate_output(SEND, &sent).is_err(), "of another method");
}

#[test]
fn the_offending_field_is_named_with_its_path() {
    let why = changed_message("seq", Some(json!("1"))).unwrap_err();
    assert!(why.starts_with("$.messages[0].seq: "), "{why}");
}

#[test]
fn a_missing_required_field_is_refused() {
    assert_eq!(changed_message("sender", None), Err("$.messages[0].sender: required, but missing".into()));
    assert!(validate_output(EPOCH, &json!({ "convoId": "c" })).is_err());
    assert!(validate_input(SEND, &json!({ "convoId": "c", "epoch": 0 })).is_err());
}

#[test]
fn an_undeclared_field_is_refused_in_replies_and_ignored_in_requests() {
    assert_eq!(changed_message("colour", Some(json!("red"))), Err("$.messages[0].colour: not declared".into()));
    let request = json!({ "convoId": "c", "ciphertext": { "$bytes": "AAEC" }, "epoch": 0, "colour": "red" });
    assert_eq!(validate_input(SEND, &request), Ok(()));
}

#[test]
fn an_optional_field_is_absent_and_not_null() {
    assert!(changed_message("embedType", Some(Value::Null)).is_err());
    refuses(json!({ "type": "string" }), &[Value::Null]);
    let nullable = json!({ "type": "object", "properties": { "a": { "type": "integer" } }, "nullable": ["a"] });
    accepts(nullable, &[json!({ "a": null }), json!({ "a": 1 }), json!({})]);
}

#[test]
fn bytes_have_one_form() {
    let bytes = json!({ "type": "bytes", "maxLength": 4 });
    accepts(
        bytes.clone(),
        &[
            json!({ "$bytes": "" }),
            json!({ "$bytes": "AA" }),
            json!({ "$bytes": "+/8" }),
            json!({ "$bytes": "AAECAw" }),
        ],
    );
    refuses(
        bytes,
        &[
            json!({ "$bytes": "AA==" }),
            json!({ "$bytes": "-_8" }),
            json!({ "$bytes": "AB" }),
            json!({ "$bytes": "A A" }),
            json!({ "$bytes": "AAECAwQ" }),
            json!({ "$bytes": [0, 1] }),
            json!({ "$bytes": "AA", "more": 1 }),
            json!("AA"),
            json!([0, 1]),
        ],
    );
    assert!(
        changed_message("ciphertext", Some(json!({ "$bytes": "aGVsbG8=" })))
            .unwrap_err()
            .starts_with("$.messages[0].ciphertext: ")
    );
}

#[test]
fn strings_keep_to_length_and_enum_but_not_to_known_values() {
    let short = json!({ "type": "string", "minLength": 1, "maxLength": 3 });
    accepts(short.clone(), &[json!("a"), json!("abc"), json!("é")]);
    refuses(short, &[json!(""), json!("abcd"), json!("éé"), json!(1), json!(["a"])]);
    let closed = json!({ "type": "string", "enum": ["app", "commit"] });
    accepts(closed.clone(), &[json!("app")]);
    refuses(closed, &[json!("App"), json!("")]);
    accepts(json!({ "type": "string", "knownValues": ["a"] }), &[json!("b")]);
}

#[test]
fn integers_are_whole_and_in_range() {
    let schema = json!({ "type": "integer", "minimum": 0, "maximum": 100 });
    accepts(schema.clone(), &[json!(0), json!(100)]);
    refuses(schema, &[json!(-1), json!(101), json!(1.0), json!("1"), json!(u64::MAX), json!(true)]);
}

#[test]
fn booleans_are_not_words_or_numbers() {
    accepts(json!({ "type": "boolean" }), &[json!(true), json!(false)]);
    refuses(json!({ "type": "boolean" }), &[json!("true"), json!(1), json!(0)]);
}

#[test]
fn arrays_are_checked_item_by_item() {
    let schema = json!({ "type": "array", "items": { "type": "integer" }, "minLength": 1, "maxLength": 2 });
    accepts(schema.clone(), &[json!([1]), json!([1, 2])]);
    refuses(schema.clone(), &[json!([]), json!([1, 2, 3]), json!({ "0": 1 }), json!(1)]);
    assert!(field(schema, json!([1, "2"])).unwrap_err().starts_with("$.field[1]: "));
}

#[test]
fn refs_lead_to_objects_and_to_strings() {
    accepts(json!({ "type": "ref", "ref": "#point" }), &[json!({ "x": 1 })]);
    refuses(
        json!({ "type": "ref", "ref": "test.one#point" }),
        &[json!({}), json!({ "x": 1, "y": 2 }), json!({ "x": 1, "$type": "test.one#point" })],
    );
    accepts(json!({ "type": "ref", "ref": "#name" }), &[json!("abc")]);
    refuses(json!({ "type": "ref", "ref": "#name" }), &[json!("abcd")]);
    assert!(field(json!({ "type": "ref", "ref": "#nowhere" }), json!({})).is_err());
}

#[test]
fn unions_go_by_type() {
    let union = json!({ "type": "union", "refs": ["#point"] });
    accepts(union.clone(), &[json!({ "$type": "test.one#point", "x": 1 })]);
    refuses(
        union,
        &[
            json!({ "x": 1 }),
            json!({ "$type": "test.one#point" }),
            json!({ "$type": "test.one#other", "x": 1 }),
            json!("x"),
        ],
    );
}

#[test]
fn unknown_is_any_object() {
    accepts(json!({ "type": "unknown" }), &[json!({}), json!({ "anything": [1, "x"] })]);
    refuses(json!({ "type": "unknown" }), &[json!("x"), json!(1), json!([])]);
}

#[test]
fn dids_are_plain() {
    let did = json!({ "type": "string", "format": "did" });
    accepts(did.clone(), &[json!("did:plc:ewvi7nxzyoun6zhxrhs64oiz"), json!("did:web:localhost%3A8080")]);
    refuses(
        did,
        &[json!("alice"), json!("did:plc:"), json!("did:plc:x#device"), json!("did:PLC:x"), json!("did:web:x:")],
    );
}

#[test]
fn datetimes_are_rfc_3339_with_a_zone() {
    let datetime = json!({ "type": "string", "format": "datetime" });
    accepts(datetime.clone(), &[json!("2025-11-03T10:00:00Z"), json!("2025-11-03T10:00:00.123456+02:00")]);
    let bad = [
        "2025-11-03",
        "2025-11-03T10:00:00",
        "2025-11-03 10:00:00Z",
        "2025-11-03t10:00:00Z",
        "2025-11-03T10:00:00z",
        "2025-11-03T10:00:00-00:00",
        "2025-13-03T10:00:00Z",
        "2025-11-03T10:00Z",
    ];
    refuses(datetime, &bad.map(Value::from));
}

#[test]
fn uris_have_a_scheme_and_no_blanks() {
    let uri = json!({ "type": "string", "format": "uri" });
    accepts(uri.clone(), &[json!("https://example.com/a?b#c"), json!("at://did:plc:x"), json!("dns:example.com")]);
    refuses(uri, &[json!("example.com"), json!("https:"), json!("https://a b"), json!("1x:y"), json!(":x")]);
}

#[test]
fn at_uris_have_authority_collection_and_key() {
    let uri = json!({ "type": "string", "format": "at-uri" });
    accepts(
        uri.clone(),
        &[
            json!("at://did:plc:x"),
            json!("at://alice.example.com/app.bsky.feed.post"),
            json!("at://did:plc:x/app.bsky.feed.post/3k2a"),
        ],
    );
    let bad = [
        "at://",
        "https://x.y",
        "at://alice",
        "at://did:plc:x/post",
        "at://did:plc:x/app.bsky.feed.post/",
        "at://did:plc:x/app.bsky.feed.post/a/b",
        "at://did:plc:x/app.bsky.feed.post/a b",
    ];
    refuses(uri, &bad.map(Value::from));
}

#[test]
fn a_schema_beyond_the_validator_is_refused_rather_than_passed() {
    refuses(json!({ "type": "blob" }), &[json!({})]);
    refuses(json!({}), &[json!({})]);
    refuses(json!({ "type": "string", "maxGraphemes": 3 }), &[json!("a")]);
    refuses(json!({ "type": "string", "format": "language" }), &[json!("en")]);
}

#[test]
fn the_parameters_of_a_query_are_its_input() {
    assert_eq!(validate_input(GET, &json!({ "convoId": "c", "limit": 100, "peek": true })), Ok(()));
    assert!(validate_input(GET, &json!({ "convoId": "c", "limit": 101 })).unwrap_err().starts_with("$.limit: "));
    assert!(validate_input(GET, &json!({ "limit": 1 })).is_err());
    let dids = |count: usize| json!({ "dids": vec!["did:plc:bob"; count] });
    assert_eq!(validate_input("blue.catbird.mls.getKeyPackages", &dids(100)), Ok(()));
    assert!(validate_input("blue.catbird.mls.getKeyPackages", &dids(101)).is_err());
}

#[test]
fn the_parameters_of_an_upload_are_its_input() {
    let upload = "blue.catbird.mls.uploadBlob";
    assert_eq!(validate_input(upload, &json!({ "convoId": "c" })), Ok(()));
    assert!(validate_input(upload, &json!({})).is_err());
    assert!(!sends_bytes(upload) && !sends_bytes(GET) && sends_bytes("blue.catbird.mls.getBlob"));
}

#[test]
fn a_reply_of_bytes_says_what_they_are_and_that_they_are_no_page() {
    let common = [("x-content-type-options", "nosniff"), ("cache-control", "private, no-cache"), ("etag", "\"a1\"")];
    let content = [
        ("content-length", "5"),
        ("content-type", "text/html"),
        ("content-disposition", "attachment"),
        ("content-security-policy", "default-src 'none'; sandbox"),
        ("accept-ranges", "bytes"),
    ];
    let whole = [&common[..], &content].concat();
    let part = [&whole[..], &[("content-range", "bytes 0-4/9")]].concat();
    let elsewhere = vec![common[0], ("cache-control", "no-store"), ("location", "https://x.example/y")];
    let validate = |status, headers: &[(&'static str, &str)]| {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        validate_bytes(status, &HeaderMap::from_iter(headers))
    };
    for (status, headers) in [(200, &whole), (206, &part), (304, &common.to_vec()), (307, &elsewhere)] {
        assert_eq!(validate(status, headers), Ok(()));
        for n in 0..headers.len() {
            let mut without = headers.clone();
            let (name, _) = without.remove(n);
            assert!(validate(status, &without).is_err_and(|why| why.starts_with(name)), "{status} without {name}");
            let mut other = headers.clone();
            other[n].1 = "";
            assert!(validate(status, &other).is_err(), "{status} with an empty {name}");
        }
    }
    assert!(validate(200, &part).is_err(), "a part as the whole");
    assert!(validate(200, &[&whole[..], &[("content-encoding", "gzip")]].concat()).is_err());
}

#[test]
fn declared_and_common_errors_are_accepted() {
    for name in ["ConvoNotFound", "EpochMismatch", "EpochAhead", "InvalidRequest", "InternalServerError"] {
        assert_eq!(validate_error(SEND, &refusal(name)), Ok(()), "{name}");
    }
    let mut lost = refusal("EpochMismatch");
    lost["recovery"] = json!("catchUpThenRebase");
    lost["serverEpoch"] = json!(4);
    lost["reason"] = json!("stale");
    lost["moreMissing"] = json!(false);
    lost["requestId"] = json!("01JB2N0W3E8Z6TQ9K4M5V7X1YA");
    lost["missing"] = json!([{
        "id": "c4", "generation": 1, "epoch": 4, "seq": 9, "sender": "did:plc:bob", "commitData": { "$bytes": "AAEC" }, "createdAt": "2025-11-03T10:00:00Z",
    }]);
    assert_eq!(validate_error(SEND, &lost), Ok(()));
    lost["missing"][0]["epoch"] = json!(0);
    assert!(validate_error(SEND, &lost).unwrap_err().starts_with("$.missing[0].epoch: "));
}

#[test]
fn an_error_that_the_method_does_not_declare_is_refused() {
    assert!(validate_error(EPOCH, &refusal("LastMember")).unwrap_err().starts_with("$.error: "));
    assert!(validate_error(SEND, &refusal("epochmismatch")).is_err());
}

#[test]
fn an_error_reply_has_its_shape() {
    assert!(validate_error(EPOCH, &json!({ "error": "ConvoNotFound", "message": "No." })).is_err());
    assert!(validate_error(EPOCH, &json!({ "error": "ConvoNotFound", "message": "No.", "recovery": 7 })).is_err());
    let mut chatty = refusal("ConvoNotFound");
    chatty["detail"] = json!("secret");
    assert!(validate_error(EPOCH, &chatty).is_err());
}

#[test]
fn a_reply_of_an_unknown_method_is_refused() {
    for nsid in ["blue.catbird.mls.defs", "blue.catbird.mls.noSuchMethod"] {
        assert!(validate_output(nsid, &json!({})).is_err());
        assert!(validate_input(nsid, &json!({})).is_err());
        assert!(validate_error(nsid, &refusal("InvalidRequest")).is_err());
    }
}

#[test]
fn a_stream_holds_only_events_that_its_method_declares() {
    let event = |nsid: &str| json!({ "$type": format!("{nsid}#infoEvent"), "cursor": "x", "info": "replayed" });
    let (sse, socket) = ("blue.catbird.mls.streamConvoEvents", "blue.catbird.mls.subscribeConvoEvents");
    for (own, other) in [(sse, socket), (socket, sse)] {
        assert_eq!(validate_event(own, &event(own)), Ok(()));
        assert!(validate_event(own, &event(other)).is_err(), "of the other method");
    }
    assert!(validate_event(GET, &event(sse)).is_err(), "{GET} has no stream");
    let mut pong = json!({ "$type": format!("{socket}#pongEvent"), "cursor": "x" });
    assert_eq!(validate_event(socket, &pong), Ok(()));
    pong["seq"] = json!(1);
    assert!(validate_event(socket, &pong).is_err(), "a field that is not declared");
    let typing = json!({ "$type": format!("{socket}#typing"), "convoId": "c", "isTyping": true });
    assert!(validate_event(socket, &typing).is_err(), "what clients say is no event");
    assert_eq!(validate_input(socket, &json!({ "ticket": "x" })), Ok(()));
    assert!(validate_input(socket, &json!({ "cursor": "x" })).is_err(), "without a ticket");
}
