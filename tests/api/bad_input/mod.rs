//! Bad input gets a declared error and writes nothing: every field of every method with each kind of invalid value, and
//! malformed bodies and query strings. All of it is made from the lexicon documents and the examples.

mod procedures;
mod queries;
pub mod values;

use catbird_client::xrpc::Reply;

#[track_caller]
fn is_declared_refusal(reply: &Reply, what: &str) {
    // A list of work refuses its items one by one.
    if reply.status == 200
        && reply.body["succeeded"] == 0
        && reply.list("errors").is_ok_and(|errors| !errors.is_empty())
    {
        return;
    }
    // Every reply is checked for a declared error with its fields.
    assert!((400..500).contains(&reply.status) && reply.status != 401, "{what}: {reply}");
    // In words that do not depend on the server's language.
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
