//! A file is encrypted, uploaded, referred to by a message, fetched and decrypted.

use catbird_client::persona::File;
use catbird_testkit::app::TestApp;
use catbird_testkit::s3::S3Server;

use super::three;
use crate::interop::Library;

any_serializer! {
    a_file_is_read_by_all_members;
}

async fn a_file_is_read_by_all_members(app: &TestApp) {
    for library in Library::BOTH {
        let [mut alice, mut bob, mut carol] = three(app, library).await;
        let file = |name: &str, bytes: usize| File {
            name: name.to_owned(),
            media_type: "image/png".to_owned(),
            bytes: name.bytes().cycle().take(bytes).collect(),
        };
        let (small, large) = (file("small.png", 5_000), file("large.png", 600_000));
        alice.share(&small).await.unwrap();
        bob.catch_up().await.unwrap();
        bob.share_in_parts(&large, 256 * 1024).await.unwrap();
        let messages = carol.catch_up().await.unwrap();
        assert_eq!(messages.len(), 2);
        assert!(carol.fetch(&messages[0]).await.unwrap() == small);
        assert!(carol.fetch(&messages[1]).await.unwrap() == large);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_from_a_bucket_through_the_server_and_by_redirection() {
    for redirect in ["false", "true"] {
        let s3 = S3Server::start();
        let mut settings = s3.settings();
        settings.push(("BLOB_REDIRECT", redirect.to_owned()));
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
        let app = TestApp::with(&settings).await;
        a_file_is_read_by_all_members(&app).await;
        app.finish().await;
    }
}
