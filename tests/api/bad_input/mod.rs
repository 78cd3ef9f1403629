//! Bad input gets a declared error and writes nothing: every field of every method with each kind of value that it does not take,
//! and bodies and query strings that are none. All of it is made from the lexicon documents and the examples.

mod procedures;
mod queries;
pub mod values;

use catbird_client::xrpc::Reply;

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
