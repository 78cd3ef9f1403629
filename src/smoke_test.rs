//! `catbird-server smoke-test [URL]`: runs a whole conversation against a running server, with real keys.
//!
//! It is the tests' client and knows the server only through the wire, and its `JWT_SECRET` and `SERVICE_DID` from the
//! settings. Without `SERVICE_DID` it asks the server. All DIDs and the group are new in every run, so it can run against a server with data,
//! repeatedly. Exit code 0 after one line of success, 1 after a description of the failed step.

mod report;

use std::error::Error;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use catbird_client::mls::{MlsClient, Proposal};
use catbird_client::persona::{File, Landed, Persona, hex, unique};
use catbird_client::random_did;
use catbird_client::xrpc::{Xrpc, causes, http};
use catbird_server::config::Config;

use report::{Failure, equal, step};

/// Runs it against the server at `url`, or at the default address; progress goes to standard output and the failure to
/// standard error.
pub async fn run(url: Option<String>, config: &Config) -> ExitCode {
    match play(url, config).await {
        Ok(success) => {
            println!("{success}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// The server that is tested.
struct Server {
    url: String,
    secret: String,
    service_did: String,
}

async fn play(url: Option<String>, config: &Config) -> Result<String, Failure> {
    let server = step(
        "find the server and its DID",
        "an address, JWT_SECRET, and SERVICE_DID or a DID document at /.well-known/did.json",
        "the first argument, .env, and whether the server is up",
        find_server(url, config),
    )
    .await?;

    let signed_in = || Xrpc::new(&server.url, &random_did(), &server.secret, &server.service_did);
    let first =
        signed_in().map_err(|why| Failure::new("sign in", "an http or https address", why, "the first argument"))?;
    let persona = || Persona::new(first.signed_in_as(&random_did()));
    let (mut alice, mut bob, mut carol, mut dave, mut erin) = (persona(), persona(), persona(), persona(), persona());

    step(
        "five members publish key packages",
        "200 with the SHA-256 of each key package as its hash",
        "publishKeyPackage: this is the first call that needs a token",
        async {
            for person in [&alice, &bob, &carol, &dave, &erin] {
                person.publish_key_packages(2).await?;
            }
            Ok(())
        },
    )
    .await?;

    let convo = step("alice creates a conversation", "200 with an id, epoch 0 and seq", "createConvo", async {
        alice.create(unique().as_bytes(), "smoke test").await?;
        Ok(alice.convo()?.to_owned())
    })
    .await?;

    step(
        "alice adds bob and carol with one commit",
        "200, and the conversation in epoch 1",
        "getKeyPackages returns the published packages; addMembers accepts commit and Welcome together",
        async {
            let landed = alice.add(&[bob.did(), carol.did()]).await?;
            equal("epoch, conflicts", (landed.epoch, landed.conflicts), (1, 0))
        },
    )
    .await?;

    step(
        "bob and carol join from their Welcome",
        "a Welcome that opens with the key package it was made for, into the epoch the server names",
        "getWelcome and confirmWelcome; the Welcome must be returned byte for byte",
        async {
            bob.join(&convo).await?;
            carol.join(&convo).await?;
            agree(&[&alice, &bob, &carol]).await
        },
    )
    .await?;

    step(
        "three messages, each read by the two others",
        "every text decrypts, in the order it was sent, without a gap in seq",
        "sendMessage and getMessages; the order of the log is the order of the replies",
        async {
            alice.send("from alice").await?;
            bob.send("from bob").await?;
            carol.send("from carol").await?;
            equal("alice reads", alice.catch_up().await?, texts(&["from bob", "from carol"]))?;
            equal("bob reads", bob.catch_up().await?, texts(&["from alice", "from carol"]))?;
            equal("carol reads", carol.catch_up().await?, texts(&["from alice", "from bob"]))
        },
    )
    .await?;

    step(
        "alice and bob commit at once; the loser rebases from its 409 alone",
        "one 200 and one 409 EpochMismatch whose `missing` holds the winner; the second try of the loser wins",
        "the compare-and-swap of the epoch, and the body of the 409",
        commit_at_once(&mut alice, &mut bob, &dave, &erin),
    )
    .await?;

    step(
        "dave and erin join; all members catch up",
        "five members in one epoch with one epoch authenticator",
        "the Welcome of the commit that lost must never be served, the one of its second try must be",
        async {
            dave.join(&convo).await?;
            erin.join(&convo).await?;
            catch_up(&mut [&mut alice, &mut bob, &mut carol, &mut dave, &mut erin]).await?;
            agree(&[&alice, &bob, &carol, &dave, &erin]).await
        },
    )
    .await?;

    step(
        "carol leaves; alice commits the removal",
        "a leave that keeps the epoch, then a commit that moves it on by one",
        "leaveConvo without a commit, then with targetDid and commit for a member that has left",
        async {
            let before = alice.epoch()?;
            let left = carol.leave().await?;
            equal("epoch after leaving", left.epoch, before)?;
            let removed = alice.remove(carol.did()).await?;
            equal("epoch, conflicts", (removed.epoch, removed.conflicts), (before + 1, 0))?;
            catch_up(&mut [&mut bob, &mut dave, &mut erin]).await?;
            agree(&[&alice, &bob, &dave, &erin]).await
        },
    )
    .await?;

    step(
        "alice adds carol again; carol joins, sends and is read",
        "a new Welcome for a former member, and her message in every member's log",
        "addMembers for a DID that has left; carol's log starts at her second join",
        async {
            alice.add(&[carol.did()]).await?;
            carol.join(&convo).await?;
            carol.send("back again").await?;
            for reader in [&mut alice, &mut bob, &mut dave, &mut erin] {
                equal("what carol said", reader.catch_up().await?, texts(&["back again"]))?;
            }
            equal("what carol reads of herself", carol.catch_up().await?, Vec::new())
        },
    )
    .await?;

    step(
        "bob rotates his keys",
        "a commit that changes no roster, and the same epoch authenticator for all",
        "submitCommit without addedDids and removedDids",
        async {
            bob.catch_up().await?;
            bob.rotate().await?;
            catch_up(&mut [&mut alice, &mut carol, &mut dave, &mut erin]).await?;
            agree(&[&alice, &bob, &carol, &dave, &erin]).await
        },
    )
    .await?;

    step(
        "dave leaves by a proposal; bob's next message takes him out",
        "a proposal in the log, then a commit that refers to it, and four members",
        "leaveConvo with proposal; any member may commit the removal of one that has left",
        async {
            dave.leave_by_proposal(&Proposal::Leave).await?;
            bob.catch_up().await?;
            bob.send("without dave").await?;
            catch_up(&mut [&mut alice, &mut carol, &mut erin]).await?;
            agree(&[&alice, &bob, &carol, &erin]).await
        },
    )
    .await?;

    let identity = format!("{}#phone", alice.did());
    let mut phone = alice.device(Box::new(MlsClient::new(identity)));
    step(
        "alice adds her phone; the phone joins, sends and is read",
        "a Welcome for a second device of a member, and no change of the roster",
        "registerDevice, and submitCommit with a key package of a member",
        async {
            let (_, packages) = phone.register_device("phone", 2).await?;
            let owner = alice.did().to_owned();
            alice.add_device(&owner, packages[0].clone()).await?;
            phone.join(&convo).await?;
            phone.send("from the phone").await?;
            for reader in [&mut alice, &mut bob, &mut carol, &mut erin] {
                equal("what the phone said", reader.catch_up().await?, texts(&["from the phone"]))?;
            }
            agree(&[&alice, &phone, &bob, &carol, &erin]).await
        },
    )
    .await?;

    step(
        "erin loses her state and comes back by herself",
        "a GroupInfo of the present epoch, and an external commit that replaces her leaf",
        "groupInfo with a commit, getGroupInfo and processExternalCommit",
        async {
            alice.shares_group_info = true;
            alice.rotate().await?;
            erin.lose_state()?;
            erin.enter(&convo).await?;
            catch_up(&mut [&mut alice, &mut phone, &mut bob, &mut carol]).await?;
            agree(&[&alice, &phone, &bob, &carol, &erin]).await
        },
    )
    .await?;

    step(
        "alice shares two encrypted files, one of them uploaded in parts; bob and carol fetch and decrypt them",
        "the same bytes, name and media type",
        "uploadBlob and its variant in parts, blobs in sendMessage, getBlob; the blob store (BLOB_STORE_URL) must answer",
        async {
            let file = |name: &str, bytes: usize| File {
                name: name.to_owned(),
                media_type: "image/png".to_owned(),
                bytes: unique().bytes().cycle().take(bytes).collect(),
            };
            let (small, large) = (file("small.png", 70_000), file("large.png", 700_000));
            alice.share(&small).await?;
            alice.share_in_parts(&large, 262_144).await?;
            for reader in [&mut bob, &mut carol] {
                let messages = reader.catch_up().await?;
                equal("messages", messages.len(), 2)?;
                for (message, file) in messages.iter().zip([&small, &large]) {
                    equal("the file", reader.fetch(message).await? == *file, true)?;
                }
            }
            Ok(())
        },
    )
    .await?;

    let epoch = step(
        "all clients and the server agree",
        "one epoch, one epoch authenticator, one list of members",
        "a fork shows here and nowhere else: compare getCommits with each client's commits",
        async {
            agree(&[&alice, &phone, &bob, &carol, &erin]).await?;
            Ok(alice.epoch()?)
        },
    )
    .await?;

    Ok(format!(
        "The server at {} works: 4 members with 5 devices, {epoch} epochs, {} entries, no fork.",
        server.url, alice.last_seq
    ))
}

/// Makes both commits in the same epoch; in any order exactly one of them must be refused.
async fn commit_at_once(
    alice: &mut Persona,
    bob: &mut Persona,
    dave: &Persona,
    erin: &Persona,
) -> Result<(), Box<dyn Error>> {
    let made_in = alice.epoch()?;
    equal("bob's epoch", bob.epoch()?, made_in)?;
    let (alice_calls, bob_calls) = (record(&mut alice.xrpc), record(&mut bob.xrpc));
    let (by_alice, by_bob) = (&[dave.did()], &[erin.did()]);
    let (by_alice, by_bob) = tokio::join!(alice.add(by_alice), bob.add(by_bob));
    (alice.xrpc.on_reply, bob.xrpc.on_reply) = (None, None);
    let (by_alice, by_bob): (Landed, Landed) = (by_alice?, by_bob?);

    let (winner, loser, loser_calls) =
        if by_alice.epoch < by_bob.epoch { (by_alice, by_bob, bob_calls) } else { (by_bob, by_alice, alice_calls) };
    equal("the winner's epoch and conflicts", (winner.epoch, winner.conflicts), (made_in + 1, 0))?;
    equal("the loser's epoch and conflicts", (loser.epoch, loser.conflicts), (made_in + 2, 1))?;
    equal("the loser's seq", loser.seq, winner.seq + 1)?;
    let mut calls = loser_calls.lock().expect("no thread panics while it holds this").clone();
    calls.retain(|(_, status)| !matches!(status, 429 | 503));
    let alone = [("getKeyPackages", 200), ("addMembers", 409), ("addMembers", 200)];
    equal(
        "the loser's calls",
        calls,
        alone.map(|(method, status)| (catbird_client::xrpc::nsid(method), status)).to_vec(),
    )
}

type Calls = Arc<Mutex<Vec<(String, u16)>>>;

/// Records the following calls and their replies.
fn record(xrpc: &mut Xrpc) -> Calls {
    let calls = Calls::default();
    let seen = calls.clone();
    xrpc.on_reply = Some(Arc::new(move |nsid, reply| {
        seen.lock().expect("no thread panics while it holds this").push((nsid.to_owned(), reply.status));
    }));
    calls
}

async fn catch_up(members: &mut [&mut Persona]) -> Result<(), Box<dyn Error>> {
    for member in members {
        member.catch_up().await?;
    }
    Ok(())
}

/// Checks that every member is in the server's epoch, with the same secret and roster.
async fn agree(members: &[&Persona]) -> Result<(), Box<dyn Error>> {
    let authenticator = members[0].epoch_authenticator()?;
    let roster = members[0].mls.members(&members[0].group_id)?;
    for member in members {
        let who = member.did();
        equal(&format!("epoch of {who} and of the server"), member.epoch()?, member.server_epoch().await?)?;
        equal(&format!("epoch authenticator of {who}"), hex(&member.epoch_authenticator()?), hex(&authenticator))?;
        equal(&format!("roster of {who}"), member.mls.members(&member.group_id)?, roster.clone())?;
    }
    equal("number of devices", roster.len(), members.len())
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

async fn find_server(url: Option<String>, config: &Config) -> Result<Server, Box<dyn Error>> {
    let url = url.unwrap_or_else(|| format!("http://127.0.0.1:{}", config.port));
    let url = url.trim_end_matches('/').to_owned();
    let secret = config.auth.jwt_secret.clone().ok_or("JWT_SECRET is not set")?;
    let service_did = match config.auth.service_did.to_string() {
        default if default == format!("did:web:localhost%3A{}", config.port) => ask_for_did(&url).await?,
        did => did,
    };
    Ok(Server { url, secret, service_did })
}

/// Reads the `id` of the server's own DID document.
async fn ask_for_did(url: &str) -> Result<String, Box<dyn Error>> {
    let address = format!("{url}/.well-known/did.json");
    let response = http()?.get(&address).send().await.map_err(|why| format!("no answer: {}", causes(&why)))?;
    let (status, text) = (response.status(), response.text().await?);
    let document: serde_json::Value =
        serde_json::from_str(&text).map_err(|why| format!("{address} answered {status} {text:?}: {why}"))?;
    document["id"].as_str().map(str::to_owned).ok_or_else(|| format!("{address} has no `id`: {document}").into())
}
