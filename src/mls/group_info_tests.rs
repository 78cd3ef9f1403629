//! GroupInfos of a real library, and each of their defects.

use catbird_client::mls::{Handshake, MlsClient};
use openmls::prelude::Ciphersuite;
use proptest::prelude::*;

use super::super::wire::vector;
use super::super::{Commit, RosterChange};
use super::*;

const GROUP: &[u8] = b"group";
const GROUP_HEX: &str = "67726f7570";

/// A group of clients, in leaf order.
struct Group(Vec<MlsClient>);

impl Group {
    fn new(suite: Ciphersuite, members: usize) -> Self {
        let client = |n: usize| MlsClient::with_suite(did(n), suite).unwrap();
        let mut creator = client(0);
        creator.create_group(GROUP, Handshake::Public).unwrap();
        let mut group = Self(vec![creator]);
        if members > 1 {
            group.add(0, (1..members).map(client).collect());
        }
        group
    }

    fn add(&mut self, adder: usize, joiners: Vec<MlsClient>) {
        let packages: Vec<_> = joiners.iter().map(|joiner| joiner.key_package().unwrap()).collect();
        let staged = self.0[adder].add(GROUP, &packages).unwrap();
        self.settle(adder, &staged.commit);
        for mut joiner in joiners {
            joiner.join(&staged.welcome, Handshake::Public).unwrap();
            self.0.push(joiner);
        }
    }

    fn remove(&mut self, remover: usize, of: &str) {
        let staged = self.0[remover].remove(GROUP, &[of]).unwrap();
        let removed = self.0.iter().position(|client| client.did() == of).unwrap();
        self.0.remove(removed);
        let remover = if removed < remover { remover - 1 } else { remover };
        self.settle(remover, &staged.commit);
    }

    fn update(&mut self, updater: usize) {
        let staged = self.0[updater].self_update(GROUP).unwrap();
        self.settle(updater, &staged.commit);
    }

    fn settle(&mut self, committer: usize, commit: &[u8]) {
        for (n, client) in self.0.iter_mut().enumerate() {
            if n == committer {
                client.merge_pending(GROUP).unwrap();
            } else {
                client.apply(GROUP, commit).unwrap();
            }
        }
    }

    fn info(&self, signer: usize) -> Vec<u8> {
        self.0[signer].group_info(GROUP).unwrap()
    }
}

fn did(n: usize) -> String {
    format!("did:plc:member{n}")
}

fn named(text: &str) -> Did {
    text.parse().unwrap()
}

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

fn ours(suite: Ciphersuite) -> Suite {
    Suite::numbered(suite.into()).unwrap()
}

/// Fields of a GroupInfo, from which another one is made.
#[derive(Clone)]
struct Fields {
    version: u16,
    suite: u16,
    group_id: Vec<u8>,
    epoch: u64,
    tree_hash: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
    signer: u32,
    after: Vec<u8>,
}

impl Fields {
    fn of(bytes: &[u8]) -> Self {
        let parts = Parts::read_whole(bytes).unwrap();
        let present = [(RATCHET_TREE, parts.ratchet_tree), (EXTERNAL_PUB, parts.external_pub)];
        let extensions = present.into_iter().map(|(kind, content)| (kind, content.unwrap().to_vec())).collect();
        Self {
            version: 1,
            suite: parts.suite,
            group_id: parts.group_id.to_vec(),
            epoch: parts.epoch,
            tree_hash: parts.tree_hash.to_vec(),
            extensions,
            signer: parts.signer,
            after: Vec::new(),
        }
    }

    /// The fields with a valid signature by `signer`.
    fn signed(&self, signer: &MlsClient) -> Vec<u8> {
        let extensions =
            self.extensions.iter().flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &vector(content)].concat());
        let signed = [
            &self.version.to_be_bytes()[..],
            &self.suite.to_be_bytes(),
            &vector(&self.group_id),
            &self.epoch.to_be_bytes(),
            &vector(&self.tree_hash),
            &vector(b"transcript"),
            &vector(b""),
            &vector(&extensions.collect::<Vec<u8>>()),
            &vector(b"confirmation"),
            &self.signer.to_be_bytes(),
        ]
        .concat();
        let labelled = [vector(b"MLS 1.0 GroupInfoTBS"), vector(&signed)].concat();
        [&FRAMED[..], &signed, &vector(&signer.sign(&labelled).unwrap()), &self.after].concat()
    }

    fn with_tree(mut self, tree: Vec<u8>) -> Self {
        self.extensions[0].1 = tree;
        self
    }
}

#[test]
fn a_group_info_of_every_suite_is_verified_framed_and_bare() {
    for suite in [
        SUITE,
        Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
        Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
        Ciphersuite::MLS_256_DHKEMP384_AES256GCM_SHA384_P384,
        Ciphersuite::MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519,
    ] {
        let group = Group::new(suite, 3);
        for signer in 0..3 {
            let framed = group.info(signer);
            for bytes in [framed.clone(), framed[FRAMED.len()..].to_vec()] {
                let info = GroupInfo::verify(bytes).unwrap();
                assert_eq!((info.frame.epoch, info.frame.belongs_to(GROUP_HEX)), (1, true));
                info.check(ours(suite), 1, &named(&did(signer))).unwrap();
                let leaves = GroupInfo::state(&info.bytes, &info.frame).unwrap().leaves;
                let dids: Vec<_> = (0..4).map(|leaf| leaves.did(leaf).map(Did::to_string)).collect();
                assert_eq!(dids, [Some(did(0)), Some(did(1)), Some(did(2)), None]);
                let other = Frame::of(b"another group", 1).unwrap();
                assert!(GroupInfo::state(&info.bytes, &other).is_none());
            }
        }
    }
}

#[test]
fn p15_a_commit_is_of_a_leaf_of_its_caller_and_an_external_one_removes_only_such() {
    let mut group = Group::new(SUITE, 3);
    let caller = named(&did(1));
    let ours = GroupInfo::state(&group.info(0), &Frame::of(GROUP, 1).unwrap()).unwrap().leaves;
    let others = Leaves([0, 2, 1].map(|leaf: usize| ours.0[leaf].clone()).to_vec());
    let change = RosterChange { added: &[], removed: &[], owners: Vec::new() };
    let refusal = |commit: &Commit, leaves: &Leaves| commit.check_leaves(&caller, &change, leaves).err();
    let commit = Commit::parse(group.0[1].self_update(GROUP).unwrap().commit).unwrap();
    assert!(refusal(&commit, &ours).is_none());
    assert!(refusal(&commit, &others).unwrap().message.contains("its sender's leaf does not belong to the caller"));
    // It comes back, and its new leaf takes the place of the old one.
    let info = group.info(0);
    group.0[1].forget(GROUP).unwrap();
    let entry = group.0[1].enter(&info, Handshake::Public).unwrap();
    let commit = Commit::parse(entry.staged.commit).unwrap();
    assert!(refusal(&commit, &ours).is_none());
    assert!(refusal(&commit, &others).unwrap().message.contains("removes a leaf of another DID"));
}

#[test]
fn the_group_info_of_a_commit_is_of_the_epoch_that_the_commit_creates() {
    let mut group = Group::new(SUITE, 2);
    let staged = group.0[1].self_update(GROUP).unwrap();
    let info = GroupInfo::verify(staged.group_info).unwrap();
    assert_eq!(info.frame.epoch, staged.made_in as i64 + 1);
    info.check(ours(SUITE), 2, &named(&did(1))).unwrap();
    assert!(info.check(ours(SUITE), 1, &named(&did(1))).unwrap_err().message.contains("of epoch 2, not of epoch 1"));
}

/// Section 7.8: blank nodes and unmerged leaves are part of the hash.
#[test]
fn trees_with_blank_nodes_and_unmerged_leaves_have_the_hash_of_their_context() {
    let mut group = Group::new(SUITE, 8);
    let (mut blanks, mut unmerged) = (0, 0);
    let mut look = |group: &Group| {
        let info = group.info(0);
        let info = GroupInfo::verify(info).unwrap_or_else(|error| panic!("{error}"));
        let parts = Parts::read_whole(&info.bytes).unwrap();
        let tree = Tree::read(parts.ratchet_tree.unwrap()).unwrap();
        blanks += tree.leaves().filter(Option::is_none).count();
        unmerged += tree.unmerged();
        let dids: Vec<Did> = tree.leaves().flatten().map(|leaf| named(leaf.did().unwrap())).collect();
        let mut expected: Vec<Did> = group.0.iter().map(|client| named(client.did())).collect();
        expected.sort();
        let mut sorted = dids.clone();
        sorted.sort();
        assert_eq!(sorted, expected);
    };
    look(&group);
    for updater in [4, 6, 2, 7] {
        group.update(updater);
        look(&group);
    }
    group.remove(0, &did(5));
    look(&group);
    // The member beside the blank leaf fills the parents above both; the next one is added below them.
    group.update(5);
    look(&group);
    group.add(0, vec![MlsClient::with_suite(did(8), SUITE).unwrap()]);
    look(&group);
    for gone in [1, 3, 6] {
        group.remove(0, &did(gone));
        look(&group);
    }
    group.update(3);
    group.add(0, (9..16).map(|n| MlsClient::with_suite(did(n), SUITE).unwrap()).collect());
    look(&group);
    group.remove(0, &did(15));
    look(&group);
    assert!(blanks > 0 && unmerged > 0, "{blanks} blank leaves, {unmerged} unmerged ones");
}

#[test]
fn each_defect_is_refused_for_its_own_reason() {
    let group = Group::new(SUITE, 3);
    let (signer, other) = (&group.0[1], &group.0[2]);
    let good = Fields::of(&group.info(1));
    let me = named(&did(1));
    let check = |bytes: Vec<u8>| GroupInfo::verify(bytes).and_then(|info| info.check(ours(SUITE), 1, &me));
    check(good.signed(signer)).unwrap();

    let tree = good.extensions[0].1.clone();
    let nodes = {
        let mut reader = Reader::new(&tree);
        reader.vector().unwrap().to_vec()
    };
    let changed = |change: &dyn Fn(&mut Fields)| {
        let mut fields = good.clone();
        change(&mut fields);
        fields
    };
    let elsewhere = Fields::of(&Group::new(SUITE, 3).info(1));
    let too_many = vector(&vec![0; 2 * super::super::MAX_LEAVES]);
    let mut no_did = MlsClient::with_suite("alice", SUITE).unwrap();
    no_did.create_group(GROUP, Handshake::Public).unwrap();
    let mut of_another = MlsClient::with_suite("did:plc:mallory", SUITE).unwrap();
    of_another.create_group(GROUP, Handshake::Public).unwrap();
    for (bytes, why) in [
        (changed(&|fields| fields.after = vec![0]).signed(signer), "does not parse"),
        (changed(&|fields| fields.version = 2).signed(signer), "does not parse"),
        (changed(&|fields| fields.extensions.push((7, vec![]))).signed(other), "not signed by its signer's key"),
        (changed(&|fields| fields.extensions.push(fields.extensions[0].clone())).signed(signer), "does not parse"),
        (changed(&|fields| fields.epoch = 1 << 53).signed(signer), "larger than a conversation can reach"),
        (changed(&|fields| fields.suite = 4).signed(signer), "cipher suite is unknown"),
        (changed(&|fields| fields.suite = 3).signed(signer), "cipher suite is not the group's"),
        (changed(&|fields| drop(fields.extensions.remove(0))).signed(signer), "no ratchet tree"),
        (changed(&|fields| drop(fields.extensions.remove(1))).signed(signer), "no external_pub"),
        (changed(&|fields| fields.extensions[1].1 = vec![0]).signed(signer), "external_pub does not parse"),
        (changed(&|fields| fields.extensions[1].1.push(0)).signed(signer), "external_pub does not parse"),
        (changed(&|fields| fields.signer = 3).signed(signer), "signer is not a leaf"),
        (changed(&|fields| fields.signer = u32::MAX).signed(signer), "signer is not a leaf"),
        (changed(&|fields| fields.signer = 2).signed(signer), "not signed by its signer's key"),
        (changed(&|fields| fields.signer = 2).signed(other), "signer's leaf names another DID"),
        (changed(&|fields| fields.tree_hash[0] ^= 1).signed(signer), "another hash"),
        (good.clone().with_tree(elsewhere.extensions[0].1.clone()).signed(signer), "not signed by its signer's key"),
        (changed(&|fields| fields.tree_hash.clone_from(&elsewhere.tree_hash)).signed(signer), "another hash"),
        (good.clone().with_tree(vec![]).signed(signer), "tree does not parse"),
        (good.clone().with_tree(vector(&[])).signed(signer), "ends with a blank node"),
        (good.clone().with_tree(vector(&[&nodes[..], &[0]].concat())).signed(signer), "ends with a blank node"),
        (good.clone().with_tree(vector(&[&nodes[..], &[2]].concat())).signed(signer), "tree does not parse"),
        (good.clone().with_tree(vector(&[&[0][..], &nodes].concat())).signed(signer), "tree does not parse"),
        (good.clone().with_tree([&tree[..], &[0]].concat()).signed(signer), "tree does not parse"),
        (good.clone().with_tree(too_many).signed(signer), "more leaves"),
        (no_did.group_info(GROUP).unwrap(), "not basic, or is not a DID"),
        (of_another.group_info(GROUP).unwrap(), "of epoch 0, not of epoch 1"),
        (signer.key_package().unwrap(), "another kind of message"),
        (b"lll".to_vec(), "does not parse as an MLSMessage or a GroupInfo"),
        (vec![0; MAX_MLS_BYTES + 1], "more than 7 MiB"),
    ] {
        let refused = check(bytes).expect_err(why);
        assert_eq!(refused.code, Code::InvalidGroupInfo);
        assert!(refused.message.contains(why), "{why}: {refused}");
    }
    // Framing mode parses, and no more.
    let forged = changed(&|fields| fields.tree_hash[0] ^= 1).signed(other);
    let parsed = GroupInfo::parser(MlsValidation::Framing)(forged.clone()).unwrap();
    parsed.check(ours(SUITE), 1, &named("did:plc:mallory")).unwrap();
    assert!(GroupInfo::parser(MlsValidation::Strict)(forged.clone()).is_err());
    assert!(GroupInfo::parse(forged[..forged.len() - 1].to_vec()).is_err());
}

#[test]
fn unmerged_leaves_must_be_below_their_parent_in_order() {
    let group = Group::new(SUITE, 4);
    let fields = Fields::of(&group.info(0));
    let mut reader = Reader::new(&fields.extensions[0].1);
    let mut leaves = Vec::new();
    reader
        .list(|node| {
            let (content, bytes) = node.span(|node| match node.u8()? {
                0 => Some(None),
                _ => match node.u8()? {
                    1 => super::super::leaf::Leaf::read(node).map(Some),
                    _ => {
                        node.vector()?;
                        node.vector()?;
                        node.vector().map(|_| None)
                    }
                },
            })?;
            if content.is_some() {
                leaves.push(bytes.to_vec());
            }
            Some(())
        })
        .unwrap();
    // Leaves 0, 1 and 3; a parent above 0 and 1, and the root.
    let parent = |unmerged: &[u32]| {
        let unmerged: Vec<u8> = unmerged.iter().flat_map(|leaf| leaf.to_be_bytes()).collect();
        [&[1, 2][..], &vector(b"key"), &vector(b"hash"), &vector(&unmerged)].concat()
    };
    let tree = |low: &[u32], root: &[u32]| {
        vector(
            &[leaves[0].clone(), parent(low), leaves[1].clone(), parent(root), vec![0], vec![0], leaves[3].clone()]
                .concat(),
        )
    };
    for (low, root, is_tree) in [
        (&[][..], &[][..], true),
        (&[0, 1], &[0, 1, 3], true),
        (&[1, 0], &[], false),
        (&[1, 1], &[], false),
        (&[3], &[], false),
        (&[], &[2], false),
        (&[], &[4], false),
    ] {
        let read = Tree::read(&tree(low, root)).map(drop);
        assert_eq!(read.is_ok(), is_tree, "{low:?} {root:?}: {read:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_flipped_bit_passes(at in any::<prop::sample::Index>(), bit in 0..8) {
        static GOOD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| Group::new(SUITE, 3).info(1));
        let mut bytes = GOOD.clone();
        bytes[at.index(GOOD.len())] ^= 1_u8 << bit;
        let passed = GroupInfo::verify(bytes).and_then(|info| info.check(ours(SUITE), 1, &named(&did(1))));
        prop_assert!(passed.is_err());
    }
}
