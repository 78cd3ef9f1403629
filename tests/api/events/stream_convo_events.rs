//! streamConvoEvents: events reach the members that they concern, in order, and again from a cursor.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Instant;

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{Event, http};
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use super::*;
use crate::harness::*;

either_serializer! {
    p5_entries_come_whole_and_in_order_each_with_its_predecessor;
    p5_a_stream_resumes_from_the_cursor_of_any_event;
    p5_a_stream_that_is_cut_off_before_its_first_event_resumes_too;
    a_stream_follows_a_new_conversation_at_once;
    p7_a_removed_member_gets_its_removal_and_nothing_after_it;
    members_get_an_event_for_each_join_and_leave;
}

any_serializer! {
    the_reply_is_a_stream_of_server_sent_events;
    p5_a_gzip_stream_delivers_each_event_as_it_happens;
    p7_a_stream_of_one_conversation_is_for_its_members_and_ends_with_their_membership;
    p7_a_joiner_sees_nothing_from_before_its_join;
    p7_a_rejoined_member_sees_nothing_from_between_its_memberships;
    p5_a_client_removed_while_away_gets_the_rest_of_each_membership;
    an_unusable_cursor_is_refused_with_the_reason;
    a_cursor_from_after_a_lost_entry_is_refused;
    deleted_events_make_older_cursors_outdated;
    p5_rows_that_fill_more_than_a_page_all_come;
    p10_a_replay_is_bounded_in_bytes_as_well;
    a_read_position_is_sent_to_the_callers_other_devices_only;
    a_read_position_never_precedes_the_entries_that_were_read;
    a_change_of_membership_that_comes_again_has_its_name;
    an_owner_with_few_key_packages_left_is_told;
    p10_a_caller_has_so_many_streams_and_no_more;
    p10_a_stream_has_so_many_conversations_and_no_more;
    p5_a_slow_consumer_is_closed_with_a_reason_and_loses_nothing with ("SSE_BUFFER_SIZE", "20");
    p10_events_are_bounded_in_bytes_as_well;
    p5_a_transaction_that_began_first_and_commits_last_is_not_passed_over;
    p5_a_row_that_is_no_entry_is_not_passed_over_either;
    p5_the_naive_cursor_would_pass_it_over;
    p5_a_removal_older_than_a_sent_joining_is_not_sent_again;
    p7_entries_that_become_visible_with_a_removal_are_not_sent_to_the_removed;
    p5_a_transaction_that_stays_open_delays_no_event;
    a_pass_of_the_tail_reads_no_table_whole_that_one_transaction_has_filled;
    a_drained_server_sends_its_streams_away;
    p10_a_tail_that_takes_too_long_gives_up_its_position_and_no_event_is_missed;
    p10_a_server_whose_tail_cannot_read_is_not_ready_until_it_can;
    p5_many_streams_at_once_lose_nothing_while_others_write;
}

async fn p5_entries_come_whole_and_in_order_each_with_its_predecessor(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let mut stream = follow(&members[1]).await;
    let before = members[0].last_seq;
    for n in 0..5 {
        members[0].send(&format!("message {n}")).await.unwrap();
    }
    let carol = app.published_persona().await;
    members[0].add(&[carol.did()]).await.unwrap();
    let page = ok(get(&members[2], "getMessages", &[("convoId", &convo(&members[2])), ("peek", "true")]).await);
    let log: Vec<_> = page.list("messages").unwrap().iter().filter(|one| one["seq"].as_u64() > Some(before)).collect();
    assert_eq!(log.len(), 6);
    for entry in log {
        // Other events of the last message may arrive first, while the stream catches up.
        let event = stream.until(|event| event.name == "messageEvent").await.pop().unwrap();
        assert_eq!(&event.data["message"], entry);
    }
}

async fn p5_a_stream_resumes_from_the_cursor_of_any_event(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut stream = follow(&members[1]).await;
    let first = members[0].last_seq + 1;
    for n in 0..4 {
        members[0].send(&format!("message {n}")).await.unwrap();
    }
    let events = stream.until(|event| seq(event) == Some(first + 3)).await;
    drop(stream);
    for n in 4..8 {
        members[0].send(&format!("message {n}")).await.unwrap();
    }
    for (n, event) in events.iter().enumerate() {
        // As a parameter, and as a header like browsers send it.
        for by_header in [false, true] {
            let mut stream = match by_header {
                false => resume(&members[1], &event.id).await,
                true => try_follow(&members[1], &[], Some(&event.id)).await.unwrap(),
            };
            let replayed = stream.until(|event| event.data["info"] == "replayed").await;
            let mut seqs: Vec<u64> = replayed.iter().filter_map(seq).collect();
            assert!(seqs.is_sorted());
            seqs.retain(|seq| *seq > first + n as u64);
            assert_eq!(seqs, (first + n as u64 + 1..first + 8).collect::<Vec<_>>(), "everything after event {n}");
        }
    }
    // The header is newer than the parameter, which is not even parsed.
    let mut stream = try_follow(&members[1], &[("cursor", "not a cursor")], Some(&events[3].id)).await.unwrap();
    stream.until(|event| event.data["info"] == "replayed").await;
}

async fn p5_a_stream_that_is_cut_off_before_its_first_event_resumes_too(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut stream = follow(&members[1]).await.stream;
    stream.skip().await.unwrap();
    let cursor = stream.last_id.take().expect("it begins with a cursor");
    drop(stream);
    let sent = members[0].send("meanwhile").await.unwrap().seq;
    assert_eq!(resume(&members[1], &cursor).await.seqs_until(sent).await.last(), Some(&sent));
}

async fn a_stream_follows_a_new_conversation_at_once(app: &TestApp) {
    let mut alice = app.conversation(1).await.remove(0);
    let mut bob = app.published_persona().await;
    let mut stream = follow(&bob).await;
    alice.send("before").await.unwrap();
    let added = alice.add(&[bob.did()]).await.unwrap();
    let event = stream.expect("conversationEvent").await;
    assert_eq!((&event["convoId"], &event["actor"]), (&json!(convo(&alice)), &json!(alice.did())));
    assert_eq!((event["seq"].as_u64(), event["epoch"].as_u64()), (Some(added.seq), Some(added.epoch)));
    let welcome = stream.expect("welcomeEvent").await;
    assert_eq!((&welcome["convoId"], welcome["epoch"].as_u64()), (&json!(convo(&alice)), Some(added.epoch)));
    bob.join(&convo(&alice)).await.unwrap();
    alice.send("after").await.unwrap();
    assert_eq!(stream.expect("messageEvent").await["message"]["seq"], added.seq + 1);

    // A conversation created with this member is included too.
    let body = json!({ "groupId": catbird_client::persona::hex(random_did().as_bytes()),
        "cipherSuite": alice.mls.suite_name(), "initialMembers": [bob.did()] });
    let made = ok(ask(&alice, "createConvo", &body).await);
    assert_eq!(stream.expect("conversationEvent").await["convoId"], made.body["id"]);
    let sent = json!({ "convoId": made.body["id"], "ciphertext": { "$bytes": "aGVsbG8" }, "epoch": 0 });
    ok(ask(&alice, "sendMessage", &sent).await);
    let event = stream.expect("messageEvent").await;
    assert_eq!((&event["message"]["convoId"], event["prevSeq"].as_u64()), (&made.body["id"], Some(0)));
}

async fn p7_a_removed_member_gets_its_removal_and_nothing_after_it(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let mut other = app.conversation(1).await.remove(0);
    let third = members[2].did().to_owned();
    let added = json!({ "convoId": convo(&other), "didList": [third] });
    ok(ask(&other, "addMembers", &added).await);
    let mut stream = follow(&members[2]).await;
    let mut witness = follow(&members[1]).await;
    members[0].send("before").await.unwrap();
    let removal = members[0].remove(&third).await.unwrap();
    members[0].send("after").await.unwrap();
    let events = stream.until(|event| event.name == "removedEvent").await;
    let seqs: Vec<u64> = events.iter().filter_map(seq).collect();
    assert_eq!(seqs, [removal.seq - 1, removal.seq], "up to the commit that removes it");
    let told = &events[2].data;
    assert_eq!((&told["action"], &told["actor"]), (&json!("removed"), &json!(members[0].did())));
    assert_eq!((told["seq"].as_u64(), &told["convoId"]), (Some(removal.seq), &json!(convo(&members[0]))));
    members[0].send("long after").await.unwrap();
    other.send("elsewhere").await.unwrap();
    assert_eq!(stream.expect("messageEvent").await["message"]["convoId"], convo(&other));
    // The other members continue.
    let seen = witness.until(|event| seq(event) == Some(removal.seq + 2)).await;
    assert!(seen.iter().any(|event| event.name == "membershipChangeEvent" && event.data["did"] == third));
    // Nothing with an older cursor either. It only gets the events of its own membership that it has not seen, since it
    // can read them nowhere else.
    let mut again = resume(&members[2], &events[0].id).await;
    let replayed = again.until(|event| event.data["info"] == "replayed").await;
    let here = |event: &&Event| event.data["message"]["convoId"] == convo(&members[0]);
    let seqs: Vec<u64> = replayed.iter().filter(here).filter_map(seq).collect();
    assert!(seqs.ends_with(&[removal.seq]), "{seqs:?}");
    let (end, told) = (replayed.iter().rposition(|event| here(&event)), |event: &Event| event.name == "removedEvent");
    assert!(replayed.iter().position(told) > end, "it learns it, however late, and last");
}

async fn members_get_an_event_for_each_join_and_leave(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let mut stream = follow(&members[0]).await;
    let leaver = members.pop().unwrap();
    ok(ask(&leaver, "leaveConvo", &json!({ "convoId": convo(&leaver) })).await);
    let event = stream.expect("membershipChangeEvent").await;
    assert_eq!((&event["did"], &event["action"]), (&json!(leaver.did()), &json!("left")));
    assert_eq!(event["actor"], leaver.did());
    let (carol, dave) = (app.persona(), app.persona());
    let added = json!({ "convoId": convo(&members[1]), "didList": [carol.did(), dave.did()] });
    ok(ask(&members[1], "addMembers", &added).await);
    for joiner in [&carol, &dave] {
        let event = stream.expect("membershipChangeEvent").await;
        assert_eq!((&event["did"], &event["action"]), (&json!(joiner.did()), &json!("joined")));
        assert_eq!(event["actor"], members[1].did());
    }
    // No event for requests that failed or were replayed.
    refused(ask(&members[1], "addMembers", &added).await, 409, "AlreadyMember");
    ok(ask(&leaver, "leaveConvo", &json!({ "convoId": convo(&leaver) })).await);
    members[1].send("now").await.unwrap();
    stream.expect("messageEvent").await;
}

async fn the_reply_is_a_stream_of_server_sent_events(app: &TestApp) {
    let alice = app.persona();
    let mut stream = follow(&alice).await;
    let headers = stream.stream.headers();
    assert_eq!(headers["content-type"], "text/event-stream");
    assert!(headers["cache-control"] == "no-cache" && headers["x-accel-buffering"] == "no");
    // A keepalive with a cursor, although nothing has happened.
    let beat = async {
        while stream.stream.comments == 0 {
            stream.stream.skip().await.unwrap();
        }
    };
    tokio::time::timeout(2 * PATIENCE, beat).await.expect("a heartbeat within its time");
    assert!(stream.stream.retry_ms.is_some());
    let id = stream.stream.last_id.clone().unwrap();
    assert_eq!(resume(&alice, &id).await.expect("infoEvent").await["info"], "replayed");
}

/// A proxy that compresses replies buffers small ones, and passes encoded ones on unchanged.
async fn p5_a_gzip_stream_delivers_each_event_as_it_happens(app: &TestApp) {
    let members = app.conversation(2).await;
    let (xrpc, method) = (&members[1].xrpc, "blue.catbird.mls.streamConvoEvents");
    let asking = xrpc.http.get(xrpc.url(method, &[])).bearer_auth(xrpc.token(method));
    let mut reply = asking.header("accept-encoding", "gzip, deflate, br").send().await.unwrap();
    let headers = reply.headers();
    assert!(headers["content-encoding"] == "gzip" && headers["vary"] == "Accept-Encoding");
    let mut decoder = flate2::write::GzDecoder::new(Vec::new());
    // Large events are shared by all streams; small ones are batched.
    for bytes in [1, 300_000, 2, 200_000] {
        let begun = Instant::now();
        let sent = ok(ask(&members[0], "sendMessage", &message(&members[0], &vec![b'x'; bytes])).await);
        let id = sent.string("messageId").unwrap();
        let whole = |decoded: &[u8]| {
            let text = String::from_utf8_lossy(decoded);
            text.split_once(id).is_some_and(|(_, rest)| rest.contains("\n\n"))
        };
        while !whole(decoder.get_ref()) {
            // Much sooner than a keepalive, which would flush a buffer.
            let left = (PATIENCE / 4).saturating_sub(begun.elapsed());
            let chunk = tokio::time::timeout(left, reply.chunk()).await.expect("the event comes by itself");
            decoder.write_all(&chunk.unwrap().expect("it goes on")).unwrap();
            decoder.flush().unwrap();
        }
    }
    let plain = follow(&members[1]).await;
    assert!(!plain.stream.headers().contains_key("content-encoding"));
}

async fn p7_a_stream_of_one_conversation_is_for_its_members_and_ends_with_their_membership(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut other = app.conversation(1).await.remove(0);
    let id = convo(&members[0]);
    ok(ask(&other, "addMembers", &json!({ "convoId": convo(&other), "didList": [members[1].did()] })).await);
    let refusal = async |who: &Persona, id: &str| match try_follow(who, &[("convoId", id)], None).await {
        Ok(_) => panic!("a stream was opened"),
        Err(reply) => reply,
    };
    refused(refusal(&other, &id).await, 404, "ConvoNotFound");
    refused(refusal(&other, "01JB2N0W3E8Z6TQ9K4M5V7X1YA").await, 404, "ConvoNotFound");
    let mut stream = try_follow(&members[1], &[("convoId", &id)], None).await.unwrap();
    other.send("elsewhere").await.unwrap();
    let sent = members[0].send("here").await.unwrap();
    assert_eq!(stream.expect("messageEvent").await["message"]["seq"], sent.seq);
    let did = members[1].did().to_owned();
    members[0].remove(&did).await.unwrap();
    let names: Vec<String> = stream.rest().await.into_iter().map(|event| event.name).collect();
    assert_eq!(names, ["messageEvent", "removedEvent"], "the commit, the removal, and the end");
    refused(refusal(&members[1], &id).await, 403, "NotMember");
}

async fn p7_a_joiner_sees_nothing_from_before_its_join(app: &TestApp) {
    let mut alice = app.conversation(1).await.remove(0);
    let mut old = follow(&alice).await;
    alice.send("old").await.unwrap();
    let long_ago = old.next().await.id;
    let gone = app.persona();
    ok(ask(&alice, "addMembers", &json!({ "convoId": convo(&alice), "didList": [gone.did()] })).await);
    ok(ask(&alice, "leaveConvo", &json!({ "convoId": convo(&alice), "targetDid": gone.did() })).await);
    let bob = app.published_persona().await;
    let added = alice.add(&[bob.did()]).await.unwrap();
    alice.send("new").await.unwrap();
    // With a much older cursor, which it can only have from another member.
    let mut stream = resume(&bob, &long_ago).await;
    let events = stream.until(|event| event.data["info"] == "replayed").await;
    let names: Vec<&str> = events.iter().map(|event| &*event.name).collect();
    assert_eq!(names, ["conversationEvent", "welcomeEvent", "messageEvent", "infoEvent"]);
    assert_eq!(seq(&events[2]), Some(added.seq + 1));
}

/// Reads events up to a removal at this seq or later, through cuts by a server that lost track. An earlier removal may
/// repeat.
async fn until_removed(who: &Persona, stream: &mut Follower, at: u64) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = stream.next().await;
        match event.name.as_str() {
            "infoEvent" if event.data["info"] == "reset" => *stream = resume(who, &event.id).await,
            "infoEvent" => {}
            "removedEvent" if event.data["seq"].as_u64().unwrap() >= at => return events,
            _ => events.push(event),
        }
    }
}

async fn p7_a_rejoined_member_sees_nothing_from_between_its_memberships(app: &TestApp) {
    let mut alice = app.conversation(1).await.remove(0);
    let bob = app.persona();
    let added = json!({ "convoId": convo(&alice), "didList": [bob.did()] });
    let removed = json!({ "convoId": convo(&alice), "targetDid": bob.did() });
    let mut stream = follow(&bob).await;
    for round in 0..5 {
        let joined = landed(&ok(ask(&alice, "addMembers", &added).await)).1;
        let within = alice.send("within").await.unwrap().seq;
        ok(ask(&alice, "leaveConvo", &removed).await);
        alice.send("between").await.unwrap();
        let events = until_removed(&bob, &mut stream, within).await;
        let told: Vec<&Event> = events.iter().filter(|event| event.name == "conversationEvent").collect();
        assert!(told.iter().any(|event| event.data["seq"] == joined), "round {round}");
        let seqs: Vec<u64> = events.iter().filter_map(seq).collect();
        assert!(seqs.contains(&within) && !seqs.contains(&(within + 1)), "round {round}: {seqs:?}");
    }
}

async fn p5_a_client_removed_while_away_gets_the_rest_of_each_membership(app: &TestApp) {
    let mut alice = app.conversation(1).await.remove(0);
    let bob = app.persona();
    let added = json!({ "convoId": convo(&alice), "didList": [bob.did()] });
    let removed = json!({ "convoId": convo(&alice), "targetDid": bob.did() });
    let mut stream = follow(&bob).await;
    ok(ask(&alice, "addMembers", &added).await);
    let first = alice.send("seen").await.unwrap().seq;
    let cursor = stream.until(|event| seq(event) == Some(first)).await.remove(0).id;
    drop(stream);
    let mut wanted = Vec::new();
    for _ in 0..3 {
        for text in ["one", "two"] {
            wanted.push(alice.send(text).await.unwrap().seq);
        }
        ok(ask(&alice, "leaveConvo", &removed).await);
        alice.send("between").await.unwrap();
        ok(ask(&alice, "addMembers", &added).await);
    }
    wanted.push(alice.send("at last").await.unwrap().seq);
    let mut stream = resume(&bob, &cursor).await;
    let events = stream.until(|event| event.data["info"] == "replayed").await;
    let mut seqs: Vec<u64> = events.iter().filter_map(seq).collect();
    seqs.retain(|seq| *seq > first);
    assert_eq!(seqs, wanted);
    let names: Vec<&str> = events.iter().map(|event| &*event.name).collect();
    let ends = names.iter().filter(|name| **name == "removedEvent").count();
    assert_eq!((names.first(), ends), (Some(&"conversationEvent"), 3), "{names:?}");
}

async fn an_unusable_cursor_is_refused_with_the_reason(app: &TestApp) {
    let alice = app.persona();
    let refusal = async |cursor: &str| match try_follow(&alice, &[("cursor", cursor)], None).await {
        Ok(_) => panic!("{cursor} opened a stream"),
        Err(reply) => reply,
    };
    for cursor in ["x", "7", "01JB2N0W3E8Z6TQ9K4M5V7X1YA"] {
        refused(refusal(cursor).await, 400, "InvalidCursor");
    }
    let mut stream = follow(&alice).await.stream;
    stream.skip().await.unwrap();
    let own = stream.last_id.unwrap();
    refused(refusal(&"7".repeat(200)).await, 400, "InvalidCursor");
    refused(refusal(&format!("{own}+")).await, 400, "InvalidCursor");
    assert!(try_follow(&alice, &[("cursor", &own)], None).await.is_ok());
    // Invented cursors are refused: of another incarnation, of another position in this one, or from before cursors
    // were sealed.
    let ulid: ulid::Ulid = own[..26].parse().unwrap();
    let incarnation = ulid::Ulid(ulid.0 ^ 1 << 40).to_string() + &own[26..];
    let place = format!("{}{}", &own[..own.len() - 1], if own.ends_with('A') { 'Q' } else { 'A' });
    for cursor in [incarnation, place, own[..26].to_owned()] {
        refused(refusal(&cursor).await, 400, "FutureCursor");
    }
}

async fn a_cursor_from_after_a_lost_entry_is_refused(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut stream = follow(&members[1]).await;
    let mut cursors = Vec::new();
    // The cursor of each event is older than the event, and still says that it was read.
    for text in ["first", "second", "third"] {
        let sent = members[0].send(text).await.unwrap().seq;
        cursors.push(stream.until(|event| seq(event) == Some(sent)).await.pop().unwrap().id);
    }
    // PostgreSQL comes back without the second transaction and all later ones.
    sql(app, "delete from incarnation_witness", &[]).await;
    members[0].send("fourth").await.unwrap();
    let lost = "update incarnations set floor = (select tx from messages where convo_id = $1 order by seq desc offset 2 limit 1)
                 where id = (select max(id) from incarnations)";
    assert_eq!(sql(app, lost, &[&convo(&members[0])]).await, 1);
    for (cursor, is_kept) in cursors.iter().zip([true, false, false]) {
        match try_follow(&members[1], &[("cursor", cursor)], None).await {
            Ok(_) => assert!(is_kept),
            Err(reply) => {
                assert!(!is_kept, "{reply}");
                assert_eq!(refused(reply, 400, "FutureCursor").body["recovery"], "startAnew");
            }
        }
    }
}

/// Creates this many events with this many letters for one member's devices, in one transaction.
async fn tell_many(app: &TestApp, who: &Persona, rows: i64, letters: i32) {
    let tell = "insert into event_stream (convo_id, recipient_did, event_type, payload)
                select $1, $2, 'cursor', jsonb_build_object('lastSeen', lpad(n::text, $4, '0')) from generate_series(1, $3::bigint) n";
    assert_eq!(sql(app, tell, &[&convo(who), &who.did(), &rows, &letters]).await.cast_signed(), rows);
}

async fn p5_rows_that_fill_more_than_a_page_all_come(app: &TestApp) {
    let members = app.conversation(1).await;
    let mut stream = follow(&members[0]).await;
    // Until a new stream is up to date, it tells only the newest position.
    tell_many(app, &members[0], 1, 8).await;
    stream.expect("cursorEvent").await;
    // More rows than a page holds, and then more bytes.
    for (rows, letters) in [(2_500, 8), (40, 100_000)] {
        tell_many(app, &members[0], rows, letters).await;
        for n in 1..=rows {
            let said = stream.expect("cursorEvent").await["lastSeen"].as_str().unwrap().parse::<i64>().unwrap();
            assert_eq!(said, n);
        }
    }
}

async fn p10_a_replay_is_bounded_in_bytes_as_well(app: &TestApp) {
    let members = app.conversation(1).await;
    let mut stream = follow(&members[0]).await;
    tell_many(app, &members[0], 30, 100_000).await;
    let cursor = stream.next().await.id;
    let mut again = resume(&members[0], &cursor).await;
    again.until(|event| event.data["info"] == "replayed").await;
    tell_many(app, &members[0], 50, 100_000).await;
    match try_follow(&members[0], &[("cursor", &cursor)], None).await {
        Ok(_) => panic!("five million bytes were replayed"),
        Err(reply) => refused(reply, 410, "OutdatedCursor"),
    };
}

async fn deleted_events_make_older_cursors_outdated(app: &TestApp) {
    let members = app.conversation(2).await;
    let mut stream = follow(&members[1]).await;
    let read = json!({ "convoId": convo(&members[1]) });
    ok(ask(&members[0], "sendMessage", &message(&members[0], b"x")).await);
    let early = stream.next().await.id;
    ok(ask(&members[1], "updateRead", &read).await);
    stream.expect("readEvent").await;
    sql(app, "delete from event_stream", &[]).await;
    match try_follow(&members[1], &[("cursor", &early)], None).await {
        Ok(_) => panic!("events that are gone were passed over"),
        Err(reply) => refused(reply, 410, "OutdatedCursor"),
    };
    // Once all earlier transactions in the cluster have ended, cursors are newer than the deleted events.
    let start = std::time::Instant::now();
    loop {
        ok(ask(&members[0], "sendMessage", &message(&members[0], b"y")).await);
        let late = stream.next().await.id;
        if let Ok(mut again) = try_follow(&members[1], &[("cursor", &late)], None).await {
            again.until(|event| event.data["info"] == "replayed").await;
            break;
        }
        assert!(start.elapsed() < PATIENCE, "no cursor leads on");
    }
}

async fn a_read_position_is_sent_to_the_callers_other_devices_only(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let (mut own, mut others) = (follow(&members[1]).await, follow(&members[0]).await);
    let (one, two) = (members[0].send("one").await.unwrap(), members[0].send("two").await.unwrap());
    own.seqs_until(two.seq).await;
    let id = convo(&members[1]);
    let read = ok(ask(&members[1], "updateRead", &json!({ "convoId": id, "messageId": one.message_id })).await);
    assert_eq!(read.number("seq").unwrap(), one.seq);
    let event = own.expect("readEvent").await;
    assert_eq!((event["seq"].as_u64(), &event["messageId"]), (Some(one.seq), &json!(one.message_id)));
    assert_eq!((&event["readAt"], &event["did"]), (&read.body["readAt"], &json!(members[1].did())));
    assert_eq!(only_convo(&members[1]).await["unreadCount"], 1);
    // Everything is read, and then an earlier position, which changes nothing and causes no event.
    let all = ok(ask(&members[1], "updateRead", &json!({ "convoId": id })).await);
    let back = ok(ask(&members[1], "updateRead", &json!({ "convoId": id, "messageId": one.message_id })).await);
    assert_eq!((all.number("seq").unwrap(), &back.body), (two.seq, &all.body));
    assert_eq!(only_convo(&members[1]).await["unreadCount"], 0);
    assert_eq!(own.expect("readEvent").await["seq"], two.seq);
    let cursor = json!({ "convoId": id, "cursor": own.stream.last_id.clone().unwrap() });
    ok(ask(&members[1], "updateCursor", &cursor).await);
    let event = own.expect("cursorEvent").await;
    assert_eq!((&event["convoId"], &event["lastSeen"]), (&json!(id), &cursor["cursor"]));
    ok(ask(&members[1], "updateCursor", &cursor).await);
    let three = members[0].send("three").await.unwrap();
    own.expect("messageEvent").await;
    ok(ask(&members[1], "updateCursor", &json!({ "convoId": id, "cursor": three.message_id })).await);
    let names = [own.next().await.name, own.next().await.name];
    assert_eq!(names, ["cursorEvent", "readEvent"]);
    let seen = others.until(|event| seq(event) == Some(three.seq)).await;
    assert!(seen.iter().all(|event| event.name == "messageEvent"), "{seen:?}");
}

async fn a_read_position_never_precedes_the_entries_that_were_read(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let begin = follow(&members[1]).await.next_id().await;
    for n in 0..3 {
        members[0].send(&n.to_string()).await.unwrap();
    }
    let all =
        ok(ask(&members[1], "updateRead", &json!({ "convoId": convo(&members[1]) })).await).number("seq").unwrap();
    let last = members[0].send("unread").await.unwrap();
    // A client that returns gets the events in this order, also if it disconnects anywhere in between.
    let mut from = begin.clone();
    for breaks in [true, false] {
        let mut again = resume(&members[1], &from).await;
        let mut had = 0;
        loop {
            let event = again.next().await;
            from = event.id.clone();
            match event.name.as_str() {
                "messageEvent" => had = seq(&event).unwrap(),
                "readEvent" => {
                    assert!(had >= all, "the position {all} came after the entry {had}");
                    break;
                }
                name => panic!("{name} before the position"),
            }
            if breaks && had == all {
                break;
            }
        }
    }
    let mut again = resume(&members[1], &begin).await;
    let names = again.until(|event| event.data["info"] == "replayed").await;
    assert_eq!(names.iter().filter_map(seq).next_back(), Some(last.seq), "{names:?}");
    assert_eq!(names.iter().filter(|event| event.name == "readEvent").count(), 1, "{names:?}");
}

async fn a_change_of_membership_that_comes_again_has_its_name(app: &TestApp) {
    let members = app.conversation(2).await;
    let begin = follow(&members[1]).await.next_id().await;
    let (id, gone) = (convo(&members[0]), app.persona());
    // All at the same seq, because there was no commit.
    for _ in 0..2 {
        ok(ask(&members[0], "addMembers", &json!({ "convoId": id, "didList": [gone.did(), random_did()] })).await);
        ok(ask(&members[0], "leaveConvo", &json!({ "convoId": id, "targetDid": gone.did() })).await);
    }
    let mut told = Vec::new();
    for _ in 0..2 {
        let mut again = resume(&members[1], &begin).await;
        let events = again.until(|event| event.data["info"] == "replayed").await;
        let changes = events.iter().filter(|event| event.name == "membershipChangeEvent");
        told.push(changes.map(|event| event.data["eventId"].as_str().unwrap().to_owned()).collect::<Vec<_>>());
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0].iter().collect::<BTreeSet<_>>().len(), 6, "{told:?}");
}

async fn an_owner_with_few_key_packages_left_is_told(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    bob.publish_key_packages(6).await.unwrap();
    let mut stream = follow(&bob).await;
    stream.but = "";
    for left in [None, Some(4)] {
        let claimer = app.persona();
        assert!(claim(&claimer, bob.did()).await.is_some());
        if let Some(left) = left {
            assert_eq!(stream.expect("keyPackagesLowEvent").await["available"], left);
        }
        // The lease returns the same package again, which uses none.
        assert!(claim(&claimer, bob.did()).await.is_some());
    }
    assert!(claim(&alice, bob.did()).await.is_some());
    assert_eq!(stream.expect("keyPackagesLowEvent").await["available"], 3);
}

async fn p10_a_stream_has_so_many_conversations_and_no_more(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let most = i64::try_from(catbird_server::events::MAX_CONVOS).unwrap();
    let convos =
        "insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch, last_seq)
                  select 'c' || n, md5(n::text), $1, 'MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519', 0, 0, 0
                    from generate_series(1, $2::bigint) n";
    sql(app, convos, &[&members[0].did(), &most]).await;
    let joined = "insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq)
                  select id, $1, 0, 0, 0 from conversations where id <> $2 order by id limit $3";
    let own = convo(&members[1]);
    sql(app, joined, &[&members[1].did(), &own, &(most - 1)]).await;
    // Events of every conversation arrive, however many there are.
    let mut stream = follow(&members[1]).await;
    let sent = members[0].send("still here").await.unwrap().seq;
    stream.until(|event| seq(event) == Some(sent)).await;
    sql(
        app,
        "insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq)
              select max(id), $1, 0, 0, 0 from conversations c
               where not exists (select from members m where m.convo_id = c.id and m.member_did = $1)",
        &[&members[1].did()],
    )
    .await;
    match try_follow(&members[1], &[], None).await {
        Ok(_) => panic!("one too many"),
        Err(reply) => refused(reply, 403, "TooManyConversations"),
    };
    assert!(try_follow(&members[1], &[("convoId", &own)], None).await.is_ok());
}

async fn p10_a_caller_has_so_many_streams_and_no_more(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let mut streams = Vec::new();
    for _ in 0..catbird_server::events::hub::MAX_STREAMS_PER_CALLER {
        streams.push(follow(&alice).await);
    }
    // The newest stream is accepted, so a thief of a token cannot lock out its owner.
    let _bob = follow(&bob).await;
    for _ in 0..3 {
        streams.push(follow(&alice).await);
        let rest = streams.remove(0).rest().await;
        let end = &rest.last().expect("the oldest one ends").data;
        assert_eq!(end["info"], "replaced");
        assert!(end["retryAfterMs"].as_u64().unwrap() >= 30_000, "who comes back by itself replaces another");
    }
    // A stream that is refused for another reason replaces none.
    assert!(try_follow(&alice, &[("cursor", "nowhere")], None).await.is_err());
    assert!(try_follow(&alice, &[("convoId", "01M7ZYXXG28C7PCE4ZTPCRBEN4")], None).await.is_err());
    let start = std::time::Instant::now();
    while app.app.events.streams() > catbird_server::events::hub::MAX_STREAMS_PER_CALLER + 1 {
        assert!(start.elapsed() < PATIENCE, "those that have ended stay");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(app.app.events.streams(), catbird_server::events::hub::MAX_STREAMS_PER_CALLER + 1);
}

/// Waits until the server's tail has passed everything committed so far.
async fn tail_is_past(witness: &mut Follower, sender: &Persona) {
    let sent = ok(ask(sender, "sendMessage", &message(sender, b"marker")).await);
    witness.seqs_until(sent.number("seq").unwrap()).await;
}

async fn p5_a_slow_consumer_is_closed_with_a_reason_and_loses_nothing(app: &TestApp) {
    let members = app.conversation(3).await;
    let mut witness = follow(&members[2]).await;
    let mut slow = follow(&members[1]).await;
    tail_is_past(&mut witness, &members[0]).await;
    let first = slow.next().await;
    let begin = seq(&first).unwrap();
    // More than the sockets' buffers, plus more than may wait.
    let big = vec![b'x'; 1024 * 1024];
    let mut last = 0;
    for _ in 0..40 {
        last = ok(ask(&members[0], "sendMessage", &message(&members[0], &big)).await).number("seq").unwrap();
        // A client that reads is not delayed.
        witness.seqs_until(last).await;
    }
    let events = slow.rest().await;
    let told = events.last().unwrap();
    assert_eq!((&*told.name, &told.data["info"]), ("infoEvent", &json!("slowConsumer")));
    assert!(told.data["retryAfterMs"].as_u64().is_some_and(|ms| slow.stream.retry_ms == Some(ms)));
    let mut seen: Vec<u64> = events.iter().filter_map(seq).collect();
    assert!(seen.len() < 40, "it was cut before the end");
    let mut again = resume(&members[1], &told.id).await;
    seen.extend(again.seqs_until(last).await);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (begin + 1..=last).collect::<Vec<_>>());
}

async fn p10_events_are_bounded_in_bytes_as_well(app: &TestApp) {
    let members = app.conversation(2).await;
    let mut slow = follow(&members[1]).await;
    let big = vec![b'x'; 7 * 1024 * 1024];
    for _ in 0..8 {
        ok(ask(&members[0], "sendMessage", &message(&members[0], &big)).await);
    }
    let events = slow.rest().await;
    assert_eq!(events.last().unwrap().data["info"], "slowConsumer", "56 MiB waited for one client");
    let mut seen = 0;
    let mut at = events.last().unwrap().id.clone();
    // It makes progress, however large the entries are.
    while seen < 8 {
        let mut stream = resume(&members[1], &at).await;
        let event = stream.until(|event| seq(event).is_some()).await.pop().unwrap();
        (seen, at) = (seen + 1, event.id);
        if seen == 1 {
            let last = members[1].last_seq + 8;
            stream.seqs_until(last).await;
            break;
        }
    }
}

/// A transaction that has its id from the start, as at another replica, and writes when the test says so.
async fn begin_early(db: &mut tokio_postgres::Client) -> tokio_postgres::Transaction<'_> {
    let transaction = db.transaction().await.unwrap();
    transaction.query_one("select pg_current_xact_id()::text", &[]).await.unwrap();
    transaction
}

async fn write_entry(transaction: &tokio_postgres::Transaction<'_>, sender: &Persona) {
    let moved = "update conversations set last_seq = last_seq + 1 where id = $1 returning last_seq, current_epoch";
    let at = transaction.query_one(moved, &[&convo(sender)]).await.unwrap();
    let (seq, epoch): (i64, i64) = (at.get(0), at.get(1));
    let insert = "insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
                  values ($1, $2, 'late-' || $2::bigint, $3, 'app', $4, 'late')";
    transaction.execute(insert, &[&convo(sender), &seq, &sender.did(), &epoch]).await.unwrap();
}

async fn p5_a_transaction_that_began_first_and_commits_last_is_not_passed_over(app: &TestApp) {
    let members = app.conversation(2).await;
    let quiet = app.conversation(1).await.remove(0);
    ok(ask(&quiet, "addMembers", &json!({ "convoId": convo(&quiet), "didList": [members[1].did()] })).await);
    let mut stream = follow(&members[1]).await;
    let mut db = app.database.connect().await;
    let late = begin_early(&mut db).await;
    let early = send_early(&members[0]).await;
    // The entries of the busy conversation and their cursors are sent before the late transaction commits.
    let events = stream.until(|event| seq(event) == Some(early)).await;
    let cursor = events.last().unwrap().id.clone();
    write_entry(&late, &quiet).await;
    late.commit().await.unwrap();
    // For a live stream,
    let came = stream.until(|event| event.data["message"]["convoId"] == convo(&quiet)).await;
    assert!(came.last().unwrap().data["message"]["id"].as_str().unwrap().starts_with("late-"));
    // and for a client that returns with an older cursor.
    let mut again = resume(&members[1], &cursor).await;
    let replayed = again.until(|event| event.data["info"] == "replayed").await;
    assert!(replayed.iter().any(|event| event.data["message"]["convoId"] == convo(&quiet)), "{replayed:?}");
}

/// Sends a message that starts later and commits at once; returns its seq.
async fn send_early(sender: &Persona) -> u64 {
    ok(ask(sender, "sendMessage", &message(sender, b"early")).await).number("seq").unwrap()
}

async fn p5_a_row_that_is_no_entry_is_not_passed_over_either(app: &TestApp) {
    let members = app.conversation(2).await;
    let mut stream = follow(&members[1]).await;
    let mut db = app.database.connect().await;
    let late = begin_early(&mut db).await;
    let early = send_early(&members[0]).await;
    stream.until(|event| seq(event) == Some(early)).await;
    let insert = "insert into event_stream (convo_id, recipient_did, event_type, payload)
                  values ($1, $2, 'cursor', '{\"lastSeen\": \"late\"}')";
    late.execute(insert, &[&convo(&members[1]), &members[1].did()]).await.unwrap();
    late.commit().await.unwrap();
    assert_eq!(stream.expect("cursorEvent").await["lastSeen"], "late");
}

/// Like a replica that removes a member and writes more in one transaction: no pass of the tail can fall in between.
async fn p7_entries_that_become_visible_with_a_removal_are_not_sent_to_the_removed(app: &TestApp) {
    let members = app.conversation(3).await;
    let (mut gone, mut stays) = (follow(&members[2]).await, follow(&members[1]).await);
    let last = send_early(&members[0]).await;
    gone.seqs_until(last).await;
    stays.seqs_until(last).await;
    let (id, did) = (convo(&members[0]), members[2].did().to_owned());
    let mut db = app.database.connect().await;
    let together = db.transaction().await.unwrap();
    write_entry(&together, &members[0]).await;
    let leave =
        "update members m set left_at = now(), left_by = $3, left_epoch = c.current_epoch, left_seq = c.last_seq
                   from conversations c where c.id = $1 and m.convo_id = $1 and m.member_did = $2";
    together.execute(leave, &[&id, &did, &members[0].did()]).await.unwrap();
    let tell = "insert into event_stream (convo_id, recipient_did, event_type, payload)
                select $1, told, kind, jsonb_build_object('did', $2::text, 'actor', $3::text, 'epoch', 1, 'seq', $4::bigint)
                  from (values (null, 'left'), ($2::text, 'removed')) rows (told, kind)";
    together.execute(tell, &[&id, &did, &members[0].did(), &(last.cast_signed() + 1)]).await.unwrap();
    write_entry(&together, &members[0]).await;
    together.commit().await.unwrap();
    let events = gone.until(|event| event.name == "removedEvent").await;
    assert_eq!(events.iter().filter_map(seq).collect::<Vec<_>>(), [last + 1], "up to its removal and no further");
    assert_eq!(stays.seqs_until(last + 2).await, [last + 1, last + 2]);
}

/// Control: the result with the cursor of earlier event streams. It shows that the tests above can fail.
async fn p5_the_naive_cursor_would_pass_it_over(app: &TestApp) {
    let members = app.conversation(1).await;
    let quiet = app.conversation(1).await.remove(0);
    let mut db = app.database.connect().await;
    let late = begin_early(&mut db).await;
    send_early(&members[0]).await;
    let reader = app.database.connect().await;
    let newest = "select max(tx::text::bigint) from messages";
    let naive: i64 = reader.query_one(newest, &[]).await.unwrap().get(0);
    let xmin = "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
    let safe: i64 = reader.query_one(xmin, &[]).await.unwrap().get(0);
    write_entry(&late, &quiet).await;
    late.commit().await.unwrap();
    let found = "select count(*) from messages where convo_id = $1 and tx::text::bigint > $2";
    let missed: i64 = reader.query_one(found, &[&convo(&quiet), &naive]).await.unwrap().get(0);
    assert_eq!(missed, 0, "greater than the last one seen does not find it");
    let found = "select count(*) from messages where convo_id = $1 and tx::text::bigint >= $2";
    let there: i64 = reader.query_one(found, &[&convo(&quiet), &safe]).await.unwrap().get(0);
    assert_eq!(there, 1, "not below the watermark does");
}

/// Like a replica without locks: the transaction that adds a member again began before the one that removed it.
async fn p5_a_removal_older_than_a_sent_joining_is_not_sent_again(app: &TestApp) {
    let members = app.conversation(2).await;
    let (id, did) = (convo(&members[0]), members[1].did().to_owned());
    let mut stream = follow(&members[1]).await;
    let (mut db, mut another) = (app.database.connect().await, app.database.connect().await);
    let joining = begin_early(&mut db).await;
    // No cursor can pass this one, which is newer than the joining and older than the removal.
    let open = begin_early(&mut another).await;
    ok(ask(&members[0], "leaveConvo", &json!({ "convoId": id, "targetDid": did })).await);
    stream.until(|event| event.name == "removedEvent").await;
    let join = "update members m set left_at = null, left_by = null, left_epoch = null, left_seq = null,
                                     joined_at = clock_timestamp(), joined_seq = c.last_seq, joined_epoch = c.current_epoch
                  from conversations c where c.id = $1 and m.convo_id = $1 and m.member_did = $2 returning m.joined_seq";
    let at: i64 = joining.query_one(join, &[&id, &did]).await.unwrap().get(0);
    let tell = "insert into event_stream (convo_id, event_type, payload)
                values ($1, 'joined', jsonb_build_object('dids', array[$2::text], 'actor', $3::text, 'epoch', 1,
                                                         'seq', $4::bigint, 'welcome', false))";
    joining.execute(tell, &[&id, &did, &members[0].did(), &at]).await.unwrap();
    joining.commit().await.unwrap();
    stream.until(|event| event.name == "conversationEvent" && event.data["seq"] == at).await;
    let mut cursor = String::new();
    for _ in 0..4 {
        let sent = send_early(&members[0]).await;
        cursor = stream.until(|event| seq(event) == Some(sent)).await.pop().unwrap().id;
    }
    let mut again = resume(&members[1], &cursor).await;
    let replayed = again.until(|event| event.data["info"] == "replayed").await;
    assert!(replayed.iter().all(|event| event.name != "removedEvent"), "{replayed:?}");
    let sent = send_early(&members[0]).await;
    again.until(|event| seq(event) == Some(sent)).await;
    open.rollback().await.unwrap();
}

async fn p5_a_transaction_that_stays_open_delays_no_event(app: &TestApp) {
    let members = app.conversation(2).await;
    let mut db = app.database.connect().await;
    let open = begin_early(&mut db).await;
    let mut stream = follow(&members[1]).await;
    let mut cursor = String::new();
    for _ in 0..20 {
        let sent = send_early(&members[0]).await;
        cursor = stream.until(|event| seq(event) == Some(sent)).await.pop().unwrap().id;
    }
    // It does not make a replay longer either: events since the cursor's pass may repeat, and few more.
    let mut again = resume(&members[1], &cursor).await;
    let replayed = again.until(|event| event.data["info"] == "replayed").await;
    let seqs: Vec<u64> = replayed.iter().filter_map(seq).collect();
    assert!(seqs.len() <= 3, "{seqs:?}");
    open.rollback().await.unwrap();
}

async fn a_drained_server_sends_its_streams_away(app: &TestApp) {
    let members = app.conversation(2).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(follow(&members[0]).await);
    }
    let sent = ok(ask(&members[1], "sendMessage", &message(&members[1], b"last")).await).number("seq").unwrap();
    for stream in &mut streams {
        stream.seqs_until(sent).await;
    }
    app.app.events.drain();
    let mut waits = std::collections::BTreeSet::new();
    for stream in &mut streams {
        let events = stream.rest().await;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].data["info"], "draining");
        waits.insert(stream.stream.retry_ms.unwrap());
        assert_eq!(events[0].data["retryAfterMs"].as_u64(), stream.stream.retry_ms);
    }
    assert!(waits.len() > 1, "they do not all come back at once: {waits:?}");
    match try_follow(&members[0], &[], None).await {
        Ok(_) => panic!("a draining server took a stream in"),
        Err(reply) => refused(reply, 503, "Overloaded"),
    };
}

async fn p5_many_streams_at_once_lose_nothing_while_others_write(app: &TestApp) {
    let mut members = app.conversation(4).await;
    let sender = members.remove(0);
    let id = convo(&sender);
    let epoch = sender.epoch().unwrap();
    let xrpc = sender.xrpc.clone();
    let (done, over) = tokio::sync::oneshot::channel::<()>();
    let sending = tokio::spawn(async move {
        let mut last = 0;
        // While it keeps waiting.
        while over.is_empty() {
            let body = json!({ "convoId": id, "ciphertext": { "$bytes": "aGVsbG8" }, "epoch": epoch });
            last = xrpc.procedure("sendMessage", &body).await.unwrap().number("seq").unwrap();
        }
        last
    });
    // They connect and disconnect meanwhile, each from its last cursor.
    let mut following = Vec::new();
    for member in &members {
        let mut cursor: Option<String> = None;
        let mut seen: Vec<u64> = Vec::new();
        for round in 0..8 {
            let parameters: Vec<(&str, &str)> = cursor.iter().map(|cursor| ("cursor", &**cursor)).collect();
            let mut stream = try_follow(member, &parameters, None).await.unwrap();
            for _ in 0..(5 + 3 * round) {
                let event = stream.next().await;
                if let Some(seq) = seq(&event) {
                    let newest = seen.iter().copied().max();
                    assert!(newest.is_none_or(|newest| seq <= newest + 1), "a hole before {seq} after {newest:?}");
                    seen.push(seq);
                }
                cursor = Some(event.id);
            }
        }
        following.push((cursor.unwrap(), seen));
    }
    done.send(()).unwrap();
    let last = sending.await.unwrap();
    for (member, (cursor, mut seen)) in members.iter().zip(following) {
        let mut stream = resume(member, &cursor).await;
        seen.extend(stream.seqs_until(last).await);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (seen[0]..=last).collect::<Vec<_>>());
    }
}

/// A read that waits for a lock is cancelled, which PostgreSQL does after eight seconds.
async fn p10_a_tail_that_takes_too_long_gives_up_its_position_and_no_event_is_missed(app: &TestApp) {
    const CANCEL: &str = "select pg_cancel_backend(pid) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and query like '%events/news%'";
    let mut members = app.conversation(2).await;
    let mut stream = follow(&members[1]).await;
    stream.stream.skip().await.unwrap();
    let (blocker, watcher) = (app.database.connect().await, app.database.connect().await);
    blocker.batch_execute("begin; lock table event_stream in access exclusive mode").await.unwrap();
    let sent = members[0].send("not read yet").await.unwrap().seq;
    let cancelling = async {
        loop {
            watcher.query(CANCEL, &[]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let rest = tokio::select! {
        rest = stream.rest() => rest,
        () = cancelling => unreachable!("it has no end"),
    };
    assert_eq!(rest.last().map(|event| &event.data["info"]), Some(&json!("reset")), "{rest:?}");
    blocker.batch_execute("rollback").await.unwrap();
    let mut again = resume(&members[1], &stream.stream.last_id.unwrap()).await;
    let replayed = again.until(|event| event.data["info"] == "replayed").await;
    let seqs: Vec<u64> = rest.iter().chain(&replayed).filter_map(seq).collect();
    assert!(seqs.contains(&sent), "{seqs:?}");
    let next = members[0].send("live again").await.unwrap().seq;
    assert_eq!(again.seqs_until(next).await, [next]);
}

/// Slow: readiness waits ten seconds for the tail.
async fn p10_a_server_whose_tail_cannot_read_is_not_ready_until_it_can(app: &TestApp) {
    let ready = async || {
        let page = http().unwrap().get(format!("{}/health/ready", app.base)).send().await.unwrap();
        (page.status().as_u16(), page.json::<Value>().await.unwrap())
    };
    let mut members = app.conversation(2).await;
    let mut stream = follow(&members[1]).await;
    stream.stream.skip().await.unwrap();
    let cursor = stream.stream.last_id.clone().unwrap();
    let blocker = app.database.connect().await;
    blocker.batch_execute("begin; lock table messages in access exclusive mode").await.unwrap();
    let begin = Instant::now();
    let (status, page) = loop {
        let (status, page) = ready().await;
        if status != 200 {
            break (status, page);
        }
        assert!(begin.elapsed() < 2 * PATIENCE, "it is ready all the time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((status, &page["checks"]["database"], &page["checks"]["events"]), (503, &json!(true), &json!(false)));
    // New streams do not wait for ever.
    let reply = try_follow(&members[1], &[("cursor", &cursor)], None).await.err().expect("nothing can be read");
    refused(reply, 503, "Overloaded");
    blocker.batch_execute("rollback").await.unwrap();
    let begin = Instant::now();
    while ready().await.0 != 200 {
        assert!(begin.elapsed() < PATIENCE, "it does not become ready again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sent = members[0].send("at last").await.unwrap().seq;
    let mut again = resume(&members[1], &cursor).await;
    assert_eq!(again.seqs_until(sent).await.last(), Some(&sent));
}

/// Like an import. PostgreSQL's statistics then assume that every transaction fills the table.
async fn a_pass_of_the_tail_reads_no_table_whole_that_one_transaction_has_filled(app: &TestApp) {
    let db = app.database.connect().await;
    db.batch_execute(
        "set session_replication_role = replica;
         begin;
         insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
         select 'imported', n, n::text, 'did:plc:importer', 'app', 0, '' from generate_series(1, 50000) n;
         insert into event_stream (convo_id, event_type, payload)
         select 'imported', 'read', '{}' from generate_series(1, 50000);
         commit;
         analyze messages, event_stream;
         set plan_cache_mode = force_generic_plan",
    )
    .await
    .unwrap();
    let snapshot: String = db.query_one("select pg_current_snapshot()::text", &[]).await.unwrap().get(0);
    for (name, types, statement, rest) in [
        (
            "news",
            "text, bigint, bigint, bigint",
            include_str!("../../../sql/queries/events/news.sql"),
            "200000, 1000, 1000000",
        ),
        (
            "more_news",
            "text, text, bigint, bigint, bigint, integer",
            include_str!("../../../sql/queries/events/more_news.sql"),
            &format!("'{snapshot}', 0, 1000, 1000000, 1"),
        ),
    ] {
        db.batch_execute(&format!("prepare {name} ({types}) as {statement}")).await.unwrap();
        let rows = db.query(&format!("explain execute {name} ('{snapshot}', {rest})"), &[]).await.unwrap();
        let plan: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let whole = |line: &&str| line.contains("Seq Scan on messages") || line.contains("Seq Scan on event_stream");
        assert!(!plan.iter().any(whole), "{name}:\n{}", plan.join("\n"));
    }
    // Rows that no request has written violate the invariants.
    db.batch_execute(
        "delete from messages where convo_id = 'imported'; delete from event_stream where convo_id = 'imported'",
    )
    .await
    .unwrap();
}
