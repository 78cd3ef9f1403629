//! Blob stores that do not do what the server needs of them.

use catbird_testkit::cluster::{blob_folder, database};
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::s3::{Fault, S3Server};

use super::{Said, doctor, registered};

fn says_nothing_against_it(said: &Said) {
    assert!(!said.against().iter().any(|(subject, ..)| *subject == "blob_store"), "{:#?}", said.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_a_bucket_does_not_do_is_named() {
    let (database, mut service) = (database().await, S3Server::start());
    let settings = service.settings();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
    let said = doctor(&database.url, &settings).await;
    says_nothing_against_it(&said);
    assert!(said.report.to_string().contains("stores, returns and deletes an object"), "{:#?}", said.report);
    let requests = service.requests();
    for method in ["PUT", "GET", "DELETE"] {
        assert!(
            requests.iter().any(|request| request.starts_with(&format!("{method} /catbird-tests/some/prefix/doctor/")))
        );
    }
    let left = || service.file("doctor").read_dir().is_ok_and(|mut left| left.next().is_some());
    assert!(!left(), "{requests:?}");
    for (method, fault, severity, found) in [
        ("PUT", Fault::Status(500), "fatal", "does not store an object: it answered 500"),
        ("PUT", Fault::Forget, "fatal", "does not store an object: it has kept None of"),
        ("HEAD", Fault::Status(403), "fatal", "does not store an object: "),
        ("GET", Fault::Status(403), "fatal", "does not return an object: "),
        ("DELETE", Fault::Status(403), "weak", "does not delete an object: "),
    ] {
        service.fail_at(method, fault);
        let said = doctor(&database.url, &settings).await;
        said.names("blob_store", severity, found);
        let secret = settings.iter().find(|(name, _)| *name == "AWS_SECRET_ACCESS_KEY").unwrap().1;
        assert!(!said.report.to_string().contains(secret), "{:#?}", said.report);
        assert_eq!(left(), method == "DELETE", "{method}");
    }
    service.kill();
    doctor(&database.url, &settings).await.names("blob_store", "fatal", "Connection refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_takes_no_file_is_named_and_none_is_created() {
    let database = database().await;
    let folder = blob_folder(&database.config);
    says_nothing_against_it(&doctor(&database.url, &[]).await);
    assert!(!folder.exists(), "it is the server's to create");
    std::fs::create_dir_all(&folder).unwrap();
    says_nothing_against_it(&doctor(&database.url, &[]).await);
    assert_eq!(folder.read_dir().unwrap().count(), 0);
    // Something of another program is in the way.
    std::fs::write(folder.join("doctor"), "").unwrap();
    doctor(&database.url, &[]).await.names("blob_store", "fatal", "does not store an object: ");
    let file = format!("file://{}/doctor", folder.display());
    let said = doctor(&database.url, &[("BLOB_STORE_URL", &file)]).await;
    said.names("blob_store", "fatal", "does not store an object: BLOB_STORE_URL: the folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_replicas_with_folders_are_named() {
    let database = database().await;
    let client = database.connect().await;
    let (_one, _two) = (
        Replica::start(Mode::Advisory, &database.url, &[]).await,
        Replica::start(Mode::Actors, &database.url, &[]).await,
    );
    registered(&client, 2).await;
    let said = doctor(&database.url, &[]).await;
    said.names("blob_folder", "weak", "2 replicas keep blobs in folders");
    let bucket = "update replicas set settings = settings || '{\"BLOB_STORE_URL\": \"s3://pictures\"}'
                   where id = (select max(id) from replicas)";
    client.batch_execute(bucket).await.unwrap();
    let said = doctor(&database.url, &[]).await;
    assert!(!said.against().iter().any(|(subject, ..)| *subject == "blob_folder"), "{:#?}", said.report);
}
