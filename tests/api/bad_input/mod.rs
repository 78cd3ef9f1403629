//! Whatever is sent, the answer is a declared error and nothing is written: every method, every field, every kind of value that
//! does not belong there, and bodies and query strings that are none.

mod procedures;
mod queries;

use catbird_client::xrpc::Reply;
use serde_json::{Value, json};

/// What a field holds, and so what it must not.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Id,
    Did,
    Dids,
    Bytes,
    /// Bytes that may be anything, but not nothing.
    Opaque,
    Hash,
    Hashes,
    Suite,
    Text,
    Key,
    Number,
    Flag,
    Date,
    Ulid,
    Uri,
    Metadata,
}

/// Values that no field of this kind takes.
fn hostile(kind: Kind) -> Vec<Value> {
    use Kind::*;
    let long = "x".repeat(100_000);
    let million = json!(vec!["did:plc:x"; 200_000]);
    let mut values = match kind {
        Flag => vec![json!("true"), json!("")],
        Number => vec![
            json!("1"),
            json!(-1),
            json!(1_000_000_000_000_000_000i64),
            json!(u64::MAX),
            json!(1u64 << 53),
            json!(1.5),
            json!(1e300),
        ],
        Text => vec![json!("\0"), json!(long)],
        Key => vec![json!(""), json!("\0"), json!(long), json!("🐈".repeat(33))],
        Metadata => vec![
            json!("x"),
            json!({ "name": 1 }),
            json!({ "name": "\0" }),
            json!({ "description": [] }),
            json!({ "name": long }),
        ],
        Dids => [
            json!("did:plc:x"),
            json!([1]),
            json!([null]),
            json!([["did:plc:x"]]),
            json!([{ "did": "did:plc:x" }]),
            million,
        ]
        .into_iter()
        .chain(hostile(Did).into_iter().map(|value| json!([value])))
        .collect(),
        Hashes => [
            json!("x"),
            json!(["x"]),
            json!([null]),
            json!([{}]),
            json!([{ "did": "did:plc:x" }]),
            json!([{ "hash": "ab".repeat(32) }]),
        ]
        .into_iter()
        .chain(
            hostile(Hash)
                .into_iter()
                .filter(|hash| !hash.is_null())
                .map(|hash| json!([{ "did": "did:plc:x", "hash": hash }])),
        )
        .chain(hostile(Did).into_iter().map(|did| json!([{ "did": did, "hash": "ab".repeat(32) }])))
        .collect(),
        Bytes | Opaque => vec![
            json!("not base64"),
            json!("A"),
            json!("AA=A"),
            json!("+-AA"),
            json!("AAA\n"),
            json!("\0"),
            json!("🐈"),
            json!(""),
            json!({ "$bytes": "" }),
            json!({ "$bytes": "A" }),
            json!({ "$bytes": 1 }),
            json!({ "$bytes": null }),
            json!({ "$bytes": { "$bytes": "AA" } }),
            json!({ "$bytes": "AA", "more": 1 }),
            json!({ "bytes": "AA" }),
            json!([0, 1, 2]),
        ],
        Id | Did | Hash | Suite | Date | Ulid | Uri => vec![
            json!("\0"),
            json!("🐈"),
            json!("'; drop table members; --"),
            json!("a b"),
            json!(long),
            json!("../../etc/passwd"),
            json!("%00"),
            json!("\u{202e}"),
        ],
    };
    if matches!(kind, Id | Did | Hash | Suite | Date | Ulid | Uri) {
        values.push(json!(""));
    }
    // Of another type altogether.
    if kind != Flag {
        values.push(json!(true));
    }
    if kind != Number {
        values.extend([json!(7), json!(1_000_000_000_000_000_000i64), json!(-0.5)]);
    }
    if kind != Metadata {
        values.extend([json!({}), json!({ "a": { "b": [] } })]);
    }
    if !matches!(kind, Dids | Hashes | Metadata) {
        values.extend([json!([]), json!([[]])]);
    }
    values
}

#[track_caller]
fn is_declared_refusal(reply: &Reply, what: &str) {
    // That the error is declared, and has its shape, is checked with every reply.
    assert!((400..500).contains(&reply.status) && reply.status != 401, "{what}: {reply}");
    // In words for people who do not know what the server is written in.
    let said = reply.string("message").unwrap();
    for word in [
        "i64",
        "u64",
        "struct ",
        "variant",
        "invalid digit",
        "sequence",
        "unsupported value",
        "target type",
        "unit value",
    ] {
        assert!(!said.contains(word), "{what}: {said}");
    }
    let recovery = match reply.error() {
        Some("EpochMismatch") => "catchUpThenRebase",
        Some("EpochAhead") => "rejoin",
        _ => "giveUp",
    };
    assert_eq!(reply.body["recovery"], recovery, "{what}: {reply}");
}
