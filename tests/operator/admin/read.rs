//! `admin convo`, `person`, `export` and `audit`: look-ups show no content, an export is what getMessages returns, and both are recorded.

use catbird_client::random_did;
use catbird_testkit::app::TestApp;
use catbird_testkit::fleet::run_with;
use serde_json::{Value, json};

use super::{admin, attempt, list};

#[tokio::test(flavor = "multi_thread")]
async fn look_ups_and_exports_show_what_is_stored_and_are_recorded() {
    let app = TestApp::start().await;
    let mut members = app.conversation(2).await;
    let convo = members[0].convo().unwrap().to_owned();
    let mut unread = 0;
    for text in ["one", "two", "three"] {
        members[0].send(text).await.unwrap();
        unread += 1;
    }
    app.settle().await;
    let did = members[1].did().to_owned();

    let found: Value = serde_json::from_str(&admin(&app.database, &["convo", &convo]).await).unwrap();
    let of_bob = found["members"].as_array().unwrap().iter().find(|member| member["did"] == json!(did)).unwrap();
    assert_eq!((&found["seq"], &found["epoch"], &found["counts"]["members"]), (&json!(4), &json!(1), &json!(2)));
    assert_eq!((&of_bob["joinedSeq"], &found["counts"]["entries"]), (&json!(1), &json!(unread + 1)));
    assert!(found["counts"]["bytes"].as_i64().unwrap() > 100, "{found}");
    let by_group = admin(&app.database, &["convo", &catbird_client::persona::hex(&members[0].group_id)]).await;
    assert_eq!(serde_json::from_str::<Value>(&by_group).unwrap()["id"], json!(convo));
    let found: Value = serde_json::from_str(&admin(&app.database, &["person", &did]).await).unwrap();
    assert_eq!((&found["conversations"][0]["convoId"], &found["counts"]["conversations"]), (&json!(convo), &json!(1)));
    assert_eq!(found["counts"]["keyPackages"], json!(1), "{found}");
    assert!(!found.to_string().contains("ciphertext"));

    let reply = members[0]
        .xrpc
        .query("getMessages", &[("convoId", convo.clone()), ("sinceSeq", "0".to_owned())])
        .await
        .unwrap();
    let exported = admin(&app.database, &["export", &convo]).await;
    let lines: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(&json!(lines), &reply.body["messages"]);
    let path = std::env::temp_dir().join(random_did());
    let file = path.to_str().unwrap();
    std::fs::write(format!("{file}.partial"), "left by an interruption").unwrap();
    assert_eq!(admin(&app.database, &["export", &convo, "--file", file]).await, "");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), exported);
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap()) & 0o777, 0o600);
    assert!(!path.with_extension("partial").exists());
    let (code, _, errors) = attempt(&app.database, &["export", &convo, "--file", file]).await;
    assert!(code == Some(2) && errors.contains("exists"), "{errors}");
    std::fs::remove_file(path).unwrap();

    let (code, _, errors) = attempt(&app.database, &["convo", "NOSUCH"]).await;
    assert!(code == Some(2) && errors.contains("there is no conversation NOSUCH"), "{errors}");
    let (code, _, errors) = run_with(&["admin", "person", &did], &app.database.url).await;
    assert!(code == Some(2) && errors.contains("--reason"), "{errors}");
    let runs = list(&app.database, &["audit"]).await;
    let of = |command: &str| runs.lines().filter(|line| line.contains(&format!("  {command} "))).count();
    assert_eq!((of("convo"), of("person"), of("export")), (2, 1, 2), "{runs}");
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).unwrap().unwrap().name;
    let export = runs.lines().next().unwrap();
    assert!(
        export.contains(&format!("{user}@")) && export.contains("\"entries\": 4") && export.ends_with("  ticket 7"),
        "{export}"
    );
    app.finish().await;
}
