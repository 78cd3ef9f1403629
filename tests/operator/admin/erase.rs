//! `admin erase`: nothing names the person afterwards except what docs/operations.md says, members are told, an interrupted erasure is
//! completed by the same command, and the person may come back as anybody else.

use catbird_client::persona::Persona;
use catbird_client::xrpc::{base64_text, bytes_value};
use catbird_client::{persona, random_did};
use catbird_testkit::app::TestApp;
use serde_json::json;
use tokio_postgres::Client;

use super::{admin, attempt, contents, counts, event, list, tables};

/// Columns that name a person of whom everything is stored. A new column of this kind belongs here, into the seed below and, unless
/// `KEPT` has it, into the statements of the erasure.
const NAMES: [&str; 30] = [
    "admin_audit.target",
    "auth_nonces.issuer_did",
    "blobs.owner_did",
    "commit_reports.member_did",
    "conversations.creator_did",
    "cursors.user_did",
    "device_memberships.claimed_by",
    "device_memberships.owner_did",
    "devices.owner_did",
    "did_documents.did",
    "envelopes.recipient_did",
    "event_stream.payload",
    "event_stream.recipient_did",
    "external_commits.identity",
    "group_infos.group_info",
    "group_infos.signer_did",
    "idempotency_records.caller_did",
    "key_packages.claimed_by",
    "key_packages.key_package",
    "key_packages.owner_did",
    "mailbox_challenges.whom",
    "mailboxes.member_did",
    "members.left_by",
    "members.member_did",
    "messages.sender_did",
    "readdition_requests.identity",
    "readdition_requests.member_did",
    "retired_commits.sender_did",
    "suspensions.did",
    "welcome_messages.recipient_did",
];

/// Those that still name the person after the erasure.
const KEPT: [&str; 10] = [
    "admin_audit.target",
    "auth_nonces.issuer_did",
    "event_stream.payload",
    "event_stream.recipient_did",
    "group_infos.group_info",
    "members.left_by",
    "members.member_did",
    "messages.sender_did",
    "retired_commits.sender_did",
    "suspensions.did",
];

/// Returns the columns of all tables that contain a text.
async fn naming(db: &Client, text: &str) -> Vec<String> {
    let query = "select attname::text, atttypid = 'bytea'::regtype from pg_attribute
                  where attrelid = $1::text::regclass and attnum > 0 and not attisdropped";
    let mut names = Vec::new();
    for table in tables(db).await {
        for column in db.query(query, &[&table]).await.unwrap() {
            let (name, is_binary): (&str, bool) = (column.get(0), column.get(1));
            let contains = match is_binary {
                true => format!("position(convert_to($1, 'UTF8') in {name}) > 0"),
                false => format!("position($1 in {name}::text) > 0"),
            };
            let found = format!("select exists (select from {table} where {contains})");
            if db.query_one(&found, &[&text]).await.unwrap().get(0) {
                names.push(format!("{table}.{name}"));
            }
        }
    }
    names.sort();
    names
}

/// Creates a conversation without a group behind it.
async fn create(creator: &Persona, others: &[&str]) -> String {
    let body = json!({
        "groupId": persona::hex(random_did().as_bytes()), "cipherSuite": creator.mls.suite_name(), "initialMembers": others,
        "idempotencyKey": persona::unique(),
    });
    let reply = creator.xrpc.procedure("createConvo", &body).await.unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply.string("id").unwrap().to_owned()
}

async fn ask(who: &Persona, method: &str, body: &serde_json::Value) {
    let reply = who.xrpc.procedure(method, body).await.unwrap();
    assert_eq!(reply.status, 200, "{method}: {reply}");
}

/// Returns one value.
async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(db: &Client, query: &str) -> T {
    db.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_names_an_erased_person_except_those_that_the_page_lists() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    let (mut bob, mut eve, mut carol) = (app.persona(), app.published_persona().await, app.published_persona().await);
    eve.publish_last_resort().await.unwrap();
    // A conversation in which she is a member, with everything that a member can have there.
    bob.create(random_did().as_bytes(), "with Eve").await.unwrap();
    bob.add(&[eve.did()]).await.unwrap();
    let with_eve = bob.convo().unwrap().to_owned();
    eve.join(&with_eve).await.unwrap();
    eve.send("by Eve").await.unwrap();
    bob.catch_up().await.unwrap();
    bob.send("by Bob").await.unwrap();
    ask(&eve, "updateCursor", &json!({ "convoId": with_eve, "cursor": "01JB2N0W3E8Z6TQ9K4M5V7X1YA" })).await;
    // One that she has created, with a GroupInfo of hers, and from which she has removed somebody.
    let mut creator = Persona::new(app.xrpc(eve.did()));
    let mut bob_there = Persona::new(app.xrpc(bob.did()));
    bob_there.publish_key_packages(1).await.unwrap();
    creator.create(random_did().as_bytes(), "by Eve").await.unwrap();
    let by_eve = creator.convo().unwrap().to_owned();
    creator.add(&[bob.did(), carol.did()]).await.unwrap();
    bob_there.join(&by_eve).await.unwrap();
    carol.join(&by_eve).await.unwrap();
    creator.remove(carol.did()).await.unwrap();
    creator.publish_group_info().await.unwrap();
    // One of her own, one that she has left, and one with a Welcome that she has not opened.
    let alone = create(&eve, &[]).await;
    let message = json!({ "convoId": alone, "ciphertext": bytes_value(b"alone"), "epoch": 0, "idempotencyKey": persona::unique() });
    ask(&eve, "sendMessage", &message).await;
    let left = create(&bob, &[eve.did()]).await;
    ask(&eve, "leaveConvo", &json!({ "convoId": left })).await;
    let mut inviting = Persona::new(app.xrpc(bob.did()));
    inviting.create(random_did().as_bytes(), "unopened").await.unwrap();
    inviting.add(&[eve.did()]).await.unwrap();
    // Key packages of hers that others were issued, and one that she was issued.
    let mut laptop = Persona::new(app.xrpc(eve.did()));
    laptop.register_device("laptop", 2).await.unwrap();
    carol.publish_key_packages(1).await.unwrap();
    for (caller, owner) in [(&carol, &eve), (&eve, &carol)] {
        let claimed = caller.xrpc.query("getKeyPackages", &[("dids", owner.did().to_owned())]).await.unwrap();
        assert_eq!(claimed.status, 200, "{claimed}");
    }
    app.settle().await;
    let (did, carols) = (eve.did(), carol.did());
    db.batch_execute(&format!(
        "insert into commit_reports (convo_id, generation, epoch, member_did, commit_hash, applied, is_newest)
         select convo_id, 1, epoch, '{did}', body_hash, true, true from messages where convo_id = '{with_eve}' and message_type = 'commit';
         insert into readdition_requests (convo_id, identity, member_did, request_id, joined_seq, requested_at)
         values ('{with_eve}', '{did}#laptop', '{did}', '01JB2N0W3E8Z6TQ9K4M5V7X1YA', 1, now());
         insert into external_commits (convo_id, identity, accepted_at) values ('{with_eve}', '{did}#laptop', now());
         insert into devices (owner_did, device_id, name, signature_key, announced_to)
         values ('{carols}', 'phone', 'phone', sha256('phone'), null);
         insert into device_memberships (convo_id, owner_did, device_id, addition_id, claimed_by, claim_expires_at)
         values ('{by_eve}', '{carols}', 'phone', 'addition', '{did}', now());
         insert into device_memberships (convo_id, owner_did, device_id, epoch)
         select '{with_eve}', owner_did, device_id, 1 from devices where owner_did = '{did}' on conflict do nothing;
         insert into mailboxes (member_did, convo_id, provider, url, host, secret, state)
         values ('{did}', '', 'webhook', 'https://mail.invalid/', 'mail.invalid', 'secret', 'verified');
         insert into mailbox_challenges (whom) values ('member {did}');
         insert into envelopes (id, convo_id, recipient_did, message_id, seq, host, next_attempt_at)
         select 'envelope', convo_id, '{did}', id, seq, 'mail.invalid', now() + interval '1 hour' from messages
          where convo_id = '{with_eve}' and sender_did = '{bobs}' and message_type = 'app';
         insert into blobs (key, convo_id, owner_did, size_bytes, expires_at)
         values (repeat('e', 32), '{with_eve}', '{did}', 5, now() + interval '1 hour');
         insert into did_documents (did, account_key, fetched_at) values ('{did}', 'z', now());
         insert into allowances (quota, key, used, ends_at)
         values ('stored_bytes', substr(sha256(convert_to('{did}', 'UTF8')), 1, 16), 1, now() + interval '1 hour');
         insert into suspensions (did, reason) values ('{did}', 'a test');
         with gone as (delete from messages where convo_id = '{by_eve}' and seq = 1 returning *)
         insert into retired_commits (convo_id, epoch, seq, sender_did, body_hash, unread)
         select convo_id, epoch, seq, sender_did, body_hash, true from gone;
         insert into log_starts (convo_id, seq) values ('{by_eve}', 2)",
        bobs = bob.did()
    ))
    .await
    .unwrap();
    let issued: Vec<u8> =
        one(&db, &format!("select key_package from key_packages where claimed_by = '{carols}'")).await;
    list(&app.database, &["name", did]).await;
    admin(&app.database, &["person", did]).await;
    assert_eq!(naming(&db, did).await, NAMES, "the seed, and the list of this test");
    let columns = "select relname || '.' || attname from pg_class c join pg_attribute a on a.attrelid = c.oid
                    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and attnum > 0 and not attisdropped
                      and (attname ~ '(^|_)did$' or attname in ('claimed_by', 'left_by', 'identity', 'whom', 'target'))";
    for column in db.query(columns, &[]).await.unwrap() {
        let column: String = column.get(0);
        assert!(NAMES.contains(&&*column), "{column} may name a person: erase it, or say why not");
    }

    let before = contents(&db).await;
    let planned = counts(&admin(&app.database, &["erase", did, "--dry-run"]).await);
    assert_eq!(contents(&db).await, before, "a dry run changes nothing");
    let mut stream = bob.xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    stream.skip().await.unwrap();
    let done = counts(&admin(&app.database, &["erase", did]).await);
    assert_eq!(done, planned);
    assert_eq!(
        (&done["conversations"], &done["memberships"], &done["endedConversations"]),
        (&json!(4), &json!(1), &json!(1))
    );
    assert_eq!(
        one::<i64>(&db, &format!("select count(*) from members where convo_id = '{left}' and member_did = '{did}'"))
            .await,
        0
    );
    assert_eq!(naming(&db, did).await, KEPT);

    for convo in [&with_eve, &by_eve, &inviting.convo().unwrap().to_owned()] {
        let told =
            event(&mut stream, |event| event.name == "membershipChangeEvent" && event.data["convoId"] == json!(convo))
                .await;
        assert_eq!((&told.data["did"], &told.data["action"]), (&json!(did), &json!("left")));
    }
    // Her right to remove others has passed on, what she removed counts as a departure, and the one of her own is empty.
    let creators: String = one(&db, &format!("select creator_did from conversations where id = '{by_eve}'")).await;
    let removed: String =
        one(&db, &format!("select left_by from members where convo_id = '{by_eve}' and member_did = '{carols}'")).await;
    assert_eq!((creators.as_str(), removed.as_str()), (bob.did(), carols));
    assert!(one::<bool>(&db, &format!("select ended_at is not null from conversations where id = '{alone}'")).await);
    assert_eq!(
        one::<i64>(
            &db,
            &format!("select max(octet_length(ciphertext))::bigint from messages where convo_id = '{alone}'")
        )
        .await,
        0
    );
    // No package of hers is ever issued again.
    admin(&app.database, &["release", did]).await;
    let again = json!({ "keyPackage": base64_text(&issued), "cipherSuite": eve.mls.suite_name() });
    let mut reply = eve.xrpc.procedure("publishKeyPackage", &again).await.unwrap();
    while reply.status == 403 {
        // The server has yet to notice the release.
        reply = eve.xrpc.procedure("publishKeyPackage", &again).await.unwrap();
    }
    assert_eq!(reply.status, 400, "{reply}");
    // Twice is once.
    assert_eq!(counts(&admin(&app.database, &["erase", did]).await), json!({}));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_erasure_is_completed_by_the_same_command_and_the_person_may_come_back() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    let mut members = app.conversation(2).await;
    let first = members[0].convo().unwrap().to_owned();
    members[1].send("stays").await.unwrap();
    let second = create(&members[0], &[members[1].did()]).await;
    let eve = members[1].did().to_owned();
    let mut stream = members[1].xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    stream.skip().await.unwrap();
    db.batch_execute(&format!(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'a test'; end $$;
         create trigger refuse before update on members for each row when (old.convo_id = '{second}') execute function refuse()"
    ))
    .await
    .unwrap();
    let (code, _, errors) = attempt(&app.database, &["erase", &eve]).await;
    assert!(code == Some(2) && !errors.is_empty(), "{code:?} {errors}");
    let told = event(&mut stream, |event| event.name == "removedEvent").await;
    assert_eq!((&told.data["convoId"], &told.data["action"]), (&json!(first), &json!("left")));
    let memberships = format!("select array_agg(convo_id) from members where left_at is null and member_did = '{eve}'");
    assert_eq!(one::<Vec<String>>(&db, &memberships).await, std::slice::from_ref(&second));
    let runs = list(&app.database, &["audit", "--target", &eve]).await;
    assert!(runs.contains(&format!("erase {eve}  not finished  ticket 7\n")) && runs.ends_with("1 runs\n"), "{runs}");

    db.batch_execute("drop trigger refuse on members").await.unwrap();
    let done = counts(&admin(&app.database, &["erase", &eve]).await);
    assert_eq!(done["conversations"], 1);
    let told = event(&mut stream, |event| event.name == "removedEvent").await;
    assert_eq!(told.data["convoId"], json!(second));
    let entries = format!("select count(*) from messages where sender_did = '{eve}'");
    assert_eq!(one::<i64>(&db, &entries).await, 1, "the others keep what she wrote");

    // Her token is that of somebody who has left, and the others can take her leaf out of the group.
    let mut back = Persona::new(app.xrpc(&eve));
    assert_eq!(back.xrpc.query("getConvos", &[]).await.unwrap().body["conversations"], json!([]));
    let read = back.xrpc.query("getMessages", &[("convoId", first.clone())]).await.unwrap();
    assert_eq!((read.status, read.error()), (403, Some("NotMember")), "{read}");
    back.publish_key_packages(1).await.unwrap();
    members[0].catch_up().await.unwrap();
    members[0].replace(&[&eve], &[&eve]).await.unwrap();
    back.join(&first).await.unwrap();
    members[0].send("welcome back").await.unwrap();
    assert_eq!(back.catch_up().await.unwrap(), ["welcome back"]);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_ended_by_an_interrupted_erasure_is_emptied_by_the_next() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    let eve = app.persona();
    let convo = create(&eve, &[]).await;
    let message = json!({ "convoId": convo, "ciphertext": bytes_value(b"alone"), "epoch": 0 });
    ask(&eve, "sendMessage", &message).await;
    db.batch_execute(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'a test'; end $$;
         create trigger refuse before update on messages for each row execute function refuse()",
    )
    .await
    .unwrap();
    assert_eq!(attempt(&app.database, &["erase", eve.did()]).await.0, Some(2));
    let ended = format!("select ended_at is not null from conversations where id = '{convo}'");
    assert!(one::<bool>(&db, &ended).await, "that far it came");
    db.batch_execute("drop trigger refuse on messages").await.unwrap();
    let planned = counts(&admin(&app.database, &["erase", eve.did(), "--dry-run"]).await);
    assert_eq!(planned, json!({ "entries": 1, "bytes": 5 }));
    assert_eq!(counts(&admin(&app.database, &["erase", eve.did()]).await), planned);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_is_erased_in_portions() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    let (owner, eve) = (app.persona(), app.persona());
    let convo = create(&owner, &[eve.did()]).await;
    db.batch_execute(&format!(
        "insert into idempotency_records (caller_did, method, key, fingerprint, reply)
         select '{did}', 'updateRead', n::text, '', '{{}}' from generate_series(1, 1200) n;
         insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, left_at, left_by, left_epoch, left_seq)
         select '{convo}', 'did:x:' || n, 0, 0, 0, now(), '{did}', 0, 0 from generate_series(1, 1200) n;
         insert into key_packages (hash, init_key_hash, owner_did, cipher_suite, last_resort, expires_at, claimed_by, claimed_at, claim_expires_at)
         select sha256(n::text::bytea), sha256(n::text::bytea), '{did}', 'x', false, now(), 'did:x:a', now(), now() from generate_series(1, 600) n",
        did = eve.did()
    ))
    .await
    .unwrap();
    let planned = counts(&admin(&app.database, &["erase", eve.did(), "--dry-run"]).await);
    assert_eq!(
        (&planned["requests"], &planned["removals"], &planned["issuedKeyPackages"]),
        (&json!(1_200), &json!(1_200), &json!(600))
    );
    assert_eq!(counts(&admin(&app.database, &["erase", eve.did()]).await), planned);
    assert_eq!(
        one::<i64>(&db, "select count(distinct xmin::text) from key_packages where owner_did = ''").await,
        2,
        "one transaction each"
    );
    app.finish().await;
}
