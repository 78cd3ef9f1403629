//! All members write in the same epoch: each another kind of commit, a reset, or a proposal, while others talk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catbird_client::mls::{Handshake, Mls, MlsClient, Processed, Proposal};
use catbird_client::persona::{Persona, hex, sha256_hex, unique};
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::fleet::Fleet;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::talkers::talk;

const RACERS: usize = 64;
const TALKERS: usize = 4;
/// One of so many racers makes a proposal.
const PROPOSERS: usize = 16;
/// Head start of resets and external commits, which take longer than other requests, when it is their turn to begin.
const HEAD_START: Duration = Duration::from_millis(40);
/// Epochs of a usual race. `ops/test --races` sets another number.
const EPOCHS: u64 = 6;

/// Kinds of requests, of which the racers take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// addMembers of a new person.
    Add,
    /// removeMember, or leaveConvo, of a person who has left.
    Clean,
    /// submitCommit without changes of the roster.
    Rotate,
    /// resetConvo by any member, because the conversation is wedged.
    Reset,
    /// processExternalCommit of a new client of the member, which has no state of the group.
    Enter,
    /// submitCommit that removes a person who has left and adds a new one.
    Replace,
    /// submitProposal, which ends no epoch.
    Propose,
}

const KINDS: [Kind; 6] = [Kind::Add, Kind::Clean, Kind::Rotate, Kind::Reset, Kind::Enter, Kind::Replace];

struct Racer {
    persona: Persona,
    kind: Kind,
    /// Person that it may add.
    candidate: MlsClient,
    /// Id of the group of its reset.
    next: Vec<u8>,
    /// Client of its external commit. It takes the place of the member's client once the commit is accepted.
    entrant: Option<MlsClient>,
}

/// Facts of an epoch that the racers share.
struct Shared {
    generation: u64,
    epoch: u64,
    group_info: Vec<u8>,
    /// A proposal that the server has accepted. The commits carry it out.
    proposal: Vec<u8>,
    /// A person who has left, and whose leaf is in the group.
    gone: Option<String>,
}

/// A racer's request.
struct Made {
    racer: Racer,
    method: &'static str,
    body: Value,
    commit: Vec<u8>,
}

struct Race {
    racers: Vec<Racer>,
    /// Key packages of each talker, one for each reset.
    talkers: Vec<(String, Vec<Vec<u8>>)>,
    generation: u64,
    /// People who have left, and whose leaves are in the group.
    gone: Vec<String>,
    /// The newest epoch that a commit of a racer has created, and the SHA-256 of that commit.
    newest: Option<(u64, String)>,
    won: Vec<Kind>,
}

/// In each epoch 64 members write at once, by all methods: exactly one commit or reset is accepted. The other members follow a commit from
/// their refusals alone, and join the group of a reset by the winner's Welcome. Others send messages meanwhile. In the end all clients share
/// one history.
pub async fn sixty_four_of_all_kinds(fleet: &Fleet) {
    let rounds = crate::epochs(EPOCHS) as usize;
    let mut members = fleet.conversation(RACERS + TALKERS).await;
    let talkers = members.split_off(RACERS);
    let packages = |talker: &Persona| (0..rounds).map(|_| talker.mls.key_package().unwrap()).collect();
    let mut race = Race {
        racers: members.into_iter().enumerate().map(|(n, persona)| racer(n, persona)).collect(),
        talkers: talkers.iter().map(|talker| (talker.did().to_owned(), packages(talker))).collect(),
        generation: 1,
        gone: Vec::new(),
        newest: None,
        won: Vec::new(),
    };
    let over = Arc::new(AtomicBool::new(false));
    let talking: Vec<_> = talkers.into_iter().map(|talker| tokio::spawn(talk(talker, over.clone()))).collect();
    for round in 0..rounds {
        race.run(round).await;
    }
    over.store(true, Ordering::SeqCst);
    let mut secrets = Vec::new();
    for talker in join_all(talking).await {
        secrets.push(talker.unwrap().epoch_authenticator().unwrap());
    }
    let racers = &race.racers;
    secrets.extend(racers.iter().map(|racer| racer.persona.epoch_authenticator().unwrap()));
    assert_eq!(secrets.len(), RACERS + TALKERS);
    assert!(secrets.iter().all(|secret| *secret == secrets[0]), "all clients share one history");
    assert_eq!(racers[0].persona.server_epoch().await.unwrap(), racers[0].persona.epoch().unwrap());
    println!("winners: {:?}", race.won);
}

/// Half of the racers use public handshake messages in the groups that they join from now on.
fn racer(n: usize, mut persona: Persona) -> Racer {
    persona.handshake = if n.is_multiple_of(2) { Handshake::Private } else { Handshake::Public };
    Racer { persona, kind: Kind::Add, candidate: MlsClient::new(random_did()), next: Vec::new(), entrant: None }
}

impl Race {
    /// Lets all racers write once in the present epoch.
    async fn run(&mut self, round: usize) {
        let is_wedged = self.wedge().await;
        for (n, racer) in self.racers.iter_mut().enumerate() {
            racer.kind = match KINDS[(n + round) % KINDS.len()] {
                _ if n % PROPOSERS == PROPOSERS - 1 => Kind::Propose,
                Kind::Clean | Kind::Replace if self.gone.is_empty() => Kind::Rotate,
                Kind::Reset if !is_wedged => Kind::Rotate,
                kind => kind,
            };
        }
        let shared = Arc::new(self.share(round).await);
        let making = std::mem::take(&mut self.racers).into_iter().map(|racer| {
            let shared = shared.clone();
            tokio::task::spawn_blocking(move || make(racer, &shared))
        });
        let mut made: Vec<_> = join_all(making).await.into_iter().map(Result::unwrap).collect();
        // The first ones are the likeliest to win, so each kind has its turn to begin. Proposals come before.
        let place =
            |kind: Kind| (kind != Kind::Propose, (kind as usize + KINDS.len() - round % KINDS.len()) % KINDS.len());
        made.sort_by_key(|made| place(made.racer.kind));
        let first = KINDS[round % KINDS.len()];
        let replies = join_all(made.iter().map(async |Made { racer, method, body, .. }| {
            if matches!(first, Kind::Reset | Kind::Enter) && ![first, Kind::Propose].contains(&racer.kind) {
                tokio::time::sleep(HEAD_START).await;
            }
            racer.persona.xrpc.procedure(method, body).await.unwrap()
        }))
        .await;

        let epoch = shared.epoch;
        let has_won = |n: &usize| made[*n].racer.kind != Kind::Propose && replies[*n].status == 200;
        let winners: Vec<usize> = (0..RACERS).filter(has_won).collect();
        assert_eq!(winners.len(), 1, "one winner for epoch {epoch} of generation {}", shared.generation);
        let (winner, reply) = (winners[0], replies[winners[0]].clone());
        for (made, proposed) in made.iter().zip(&replies) {
            if made.racer.kind == Kind::Propose && proposed.status == 200 {
                assert_eq!(proposed.number("epoch").unwrap(), epoch, "{proposed}");
                assert!(proposed.number("seq").unwrap() < reply.number("seq").unwrap(), "before the epoch ended");
            }
        }
        self.won.push(made[winner].racer.kind);
        match made[winner].racer.kind {
            Kind::Reset => self.begin_again(made, &replies, winner).await,
            _ => self.go_on(made, replies, winner, epoch).await,
        }
    }

    /// Lets two members report that they cannot apply the newest commit. Returns true if the conversation is wedged by that.
    async fn wedge(&self) -> bool {
        let Some((epoch, hash)) = &self.newest else { return false };
        for racer in &self.racers[..2] {
            let convo = racer.persona.convo().unwrap();
            let body = json!({ "convoId": convo, "epoch": epoch, "commitHash": hash, "applied": false });
            let reply = racer.persona.xrpc.procedure("reportCommit", &body).await.unwrap();
            assert_eq!(reply.status, 200, "{reply}");
        }
        true
    }

    /// Lets one racer submit a proposal, and collects what all of them need.
    async fn share(&mut self, round: usize) -> Shared {
        let Racer { persona, .. } = &mut self.racers[round % RACERS];
        let group_info = persona.mls.group_info(&persona.group_id).unwrap();
        let proposal = persona.mls.propose(&persona.group_id, &Proposal::Update).unwrap();
        let body = json!({ "convoId": persona.convo().unwrap(), "proposal": base64_text(&proposal) });
        let reply = persona.xrpc.procedure("submitProposal", &body).await.unwrap();
        assert_eq!(reply.status, 200, "{reply}");
        let (epoch, gone) = (persona.epoch().unwrap(), self.gone.first().cloned());
        Shared { generation: self.generation, epoch, group_info, proposal, gone }
    }

    /// Brings all racers into the epoch that a commit has created.
    async fn go_on(&mut self, made: Vec<Made>, replies: Vec<Reply>, winner: usize, epoch: u64) {
        assert_eq!(replies[winner].number("epoch").unwrap(), epoch + 1);
        let Made { racer, commit, .. } = &made[winner];
        self.newest = Some((epoch + 1, sha256_hex(commit)));
        if matches!(racer.kind, Kind::Clean | Kind::Replace) {
            self.gone.remove(0);
        }
        if matches!(racer.kind, Kind::Add | Kind::Replace) {
            self.leave(racer).await;
        }
        let commit = Arc::new(commit.clone());
        let following = made.into_iter().zip(replies).map(|(made, reply)| {
            let commit = commit.clone();
            tokio::task::spawn_blocking(move || follow(made.racer, &reply, epoch, &commit))
        });
        self.racers = join_all(following).await.into_iter().map(Result::unwrap).collect();
    }

    /// The person that a racer has added leaves again, so that others can clean up after it.
    async fn leave(&mut self, racer: &Racer) {
        let newcomer = racer.persona.xrpc.signed_in_as(racer.candidate.did());
        let left =
            newcomer.procedure("leaveConvo", &json!({ "convoId": racer.persona.convo().unwrap() })).await.unwrap();
        assert_eq!(left.status, 200, "{left}");
        self.gone.push(racer.candidate.did().to_owned());
    }

    /// Brings all racers into the group that a reset has begun.
    async fn begin_again(&mut self, made: Vec<Made>, replies: &[Reply], winner: usize) {
        let mut others: Vec<Racer> = made.into_iter().map(|made| made.racer).collect();
        let mut first = others.remove(winner);
        let group = std::mem::take(&mut first.next);
        self.generation += 1;
        for (n, reply) in replies.iter().enumerate() {
            match (n == winner, reply.status) {
                (true, _) => assert_eq!(reply.number("generation").unwrap(), self.generation),
                // A proposal, from before.
                (_, 200) => {}
                _ => {
                    assert_eq!((reply.status, reply.error()), (409, Some("StaleGeneration")), "{reply}");
                    assert_eq!(reply.body["groupId"], json!(hex(&group)), "{reply}");
                }
            }
        }
        let Racer { persona, candidate, .. } = &mut first;
        persona.mls.forget(&persona.group_id).unwrap();
        (persona.group_id, persona.last_seq) = (group, replies[winner].number("seq").unwrap());
        let package = |mls: &dyn Mls| mls.key_package().unwrap();
        let racers = others.iter().map(|racer| (racer.persona.did().to_owned(), package(&*racer.persona.mls)));
        let talkers = self.talkers.iter_mut().map(|(did, packages)| (did.clone(), packages.pop().unwrap()));
        let newcomer = [(candidate.did().to_owned(), package(&*candidate))];
        let (dids, packages): (Vec<_>, Vec<_>) = racers.chain(talkers).chain(newcomer).unzip();
        let staged = persona.mls.add(&persona.group_id, &packages).unwrap();
        let body = json!({
            "convoId": persona.convo().unwrap(), "didList": dids, "commit": base64_text(&staged.commit),
            "welcomeMessage": base64_text(&staged.welcome), "groupInfo": base64_text(&staged.group_info),
        });
        let reply = persona.xrpc.procedure("addMembers", &body).await.unwrap();
        assert_eq!(reply.status, 200, "{reply}");
        persona.mls.merge_pending(&persona.group_id).unwrap();
        self.gone.clear();
        self.leave(&first).await;
        first.candidate = MlsClient::new(random_did());
        // The reports were about the group before.
        self.newest = None;
        let joining = others.into_iter().map(|racer| tokio::spawn(join(racer)));
        self.racers = join_all(joining).await.into_iter().map(Result::unwrap).collect();
        self.racers.push(first);
    }
}

/// Joins the present group by the Welcome that waits.
async fn join(mut racer: Racer) -> Racer {
    let Racer { persona, next, .. } = &mut racer;
    let (convo, past) = (persona.convo().unwrap().to_owned(), persona.group_id.clone());
    for group in [past, std::mem::take(next)].iter().filter(|group| !group.is_empty()) {
        persona.mls.forget(group).unwrap();
    }
    persona.join(&convo).await.unwrap();
    persona.catch_up().await.unwrap();
    racer
}

/// Makes a request of the racer's kind.
fn make(mut racer: Racer, shared: &Shared) -> Made {
    let Racer { persona, kind, candidate, next, entrant } = &mut racer;
    let group = persona.group_id.clone();
    let known = persona.mls.apply(&group, &shared.proposal).unwrap();
    assert!(matches!(known, Processed::Proposal | Processed::OwnMessage), "{known:?}");
    let package = candidate.key_package().unwrap();
    let mut body = json!({ "convoId": persona.convo().unwrap(), "idempotencyKey": unique() });
    let gone = shared.gone.as_deref().unwrap_or_default();
    let (staged, method) = match kind {
        Kind::Add => {
            body["didList"] = json!([candidate.did()]);
            (persona.mls.add(&group, &[package]), "addMembers")
        }
        Kind::Clean => {
            body["targetDid"] = json!(gone);
            let method = if package.last() > Some(&127) { "removeMember" } else { "leaveConvo" };
            (persona.mls.remove(&group, &[gone]), method)
        }
        Kind::Rotate => (persona.mls.self_update(&group), "submitCommit"),
        Kind::Replace => {
            body["addedDids"] = json!([candidate.did()]);
            body["removedDids"] = json!([gone]);
            (persona.mls.change(&group, &[package], &[gone]), "submitCommit")
        }
        Kind::Enter => {
            let entrant = entrant.insert(MlsClient::new(persona.did()));
            let entry = entrant.enter(&shared.group_info, persona.handshake).unwrap();
            body["externalCommit"] = json!(base64_text(&entry.staged.commit));
            (Ok(entry.staged), "processExternalCommit")
        }
        Kind::Reset => {
            *next = random_did().into_bytes();
            persona.mls.create_group(next, persona.handshake).unwrap();
            body["prior"] = json!({ "generation": shared.generation, "epoch": shared.epoch });
            body["newGroupId"] = json!(hex(next));
            body["groupInfo"] = json!(base64_text(&persona.mls.group_info(next).unwrap()));
            return Made { racer, method: "resetConvo", body, commit: Vec::new() };
        }
        Kind::Propose => {
            body["proposal"] = json!(base64_text(&persona.mls.propose_add(&group, &package).unwrap()));
            return Made { racer, method: "submitProposal", body, commit: Vec::new() };
        }
    };
    let staged = staged.unwrap();
    if *kind != Kind::Enter {
        body["commit"] = json!(base64_text(&staged.commit));
    }
    if !staged.welcome.is_empty() {
        body["welcomeMessage"] = json!(base64_text(&staged.welcome));
    }
    Made { racer, method, body, commit: staged.commit }
}

/// Advances to the next epoch: the winner with its own commit, a loser with the refusal's commits, and a member that has made a proposal
/// with the winner's commit.
fn follow(mut racer: Racer, reply: &Reply, epoch: u64, commit: &[u8]) -> Racer {
    let Racer { persona, kind, candidate, next, entrant } = &mut racer;
    let (group, entrant) = (persona.group_id.clone(), entrant.take());
    match (reply.status, *kind) {
        (200, Kind::Propose) => drop(persona.mls.process(&group, commit).unwrap()),
        (200, Kind::Enter) => {
            persona.mls = Box::new(entrant.unwrap());
            persona.mls.merge_pending(&group).unwrap();
        }
        (200, _) => {
            persona.mls.merge_pending(&group).unwrap();
            *candidate = MlsClient::new(random_did());
        }
        _ => {
            assert_eq!((reply.status, reply.error()), (409, Some("EpochMismatch")), "{}", reply.body);
            assert_eq!(reply.number("serverEpoch").unwrap(), epoch + 1);
            persona.mls.discard_pending(&group).unwrap();
            if !next.is_empty() {
                persona.mls.forget(&std::mem::take(next)).unwrap();
            }
            for commit in reply.list("missing").unwrap() {
                persona.mls.process(&group, &reply.bytes_in(commit, "commitData").unwrap()).unwrap();
            }
        }
    }
    assert_eq!(persona.epoch().unwrap(), epoch + 1, "the refusal was enough to follow");
    racer
}
