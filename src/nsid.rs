//! Names of methods (NSIDs, <https://atproto.com/specs/nsid>). Each is written once, as the `id` of its lexicon document, and read
//! from there at compile time.

/// Namespace of every document of this server, with its last dot.
pub const NAMESPACE: &str = "blue.catbird.mls.";

/// The method that streams events as server-sent events. Types of events begin with it.
pub const STREAM_CONVO_EVENTS: &str = of(include_str!("api/events/stream_convo_events.json"));
/// The method that streams events over a WebSocket. Types of events and of clients' messages begin with it.
pub const SUBSCRIBE_CONVO_EVENTS: &str = of(include_str!("api/events/subscribe_convo_events.json"));
/// The method that issues tickets. The key that signs them is derived for this name.
pub const GET_SUBSCRIPTION_TICKET: &str = of(include_str!("api/events/get_subscription_ticket.json"));

/// Returns the `id` of a lexicon document. A constant made from a document without one does not compile.
pub const fn of(document: &str) -> &str {
    let id = b"\"id\": \"";
    let (text, mut start, mut matched) = (document.as_bytes(), 0, 0);
    while matched < id.len() {
        matched = if text[start] == id[matched] { matched + 1 } else { (text[start] == id[0]) as usize };
        start += 1;
    }
    let mut end = start;
    while text[end] != b'"' {
        end += 1;
    }
    document.split_at(end).0.split_at(start).1
}

/// Returns the last part of a name, as metrics, logs and records of requests have it.
pub const fn method(nsid: &str) -> &str {
    let mut start = nsid.len();
    while start > 0 && nsid.as_bytes()[start - 1] != b'.' {
        start -= 1;
    }
    nsid.split_at(start).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_from_its_document() {
        assert_eq!(
            of(r#"{ "lexicon": 1, "id": "blue.catbird.mls.getEpoch", "defs": {} }"#),
            "blue.catbird.mls.getEpoch"
        );
        assert_eq!(of(r#"{ "uid": "x", "id": "a.b" }"#), "a.b");
        assert!(SUBSCRIBE_CONVO_EVENTS.starts_with(NAMESPACE));
    }

    #[test]
    fn a_method_is_the_last_part_of_its_name() {
        assert_eq!(method(GET_SUBSCRIPTION_TICKET), "getSubscriptionTicket");
        assert_eq!(method("getEpoch"), "getEpoch");
    }
}
