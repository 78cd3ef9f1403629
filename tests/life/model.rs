//! Model of a conversation: its position, roster, log and Welcomes, and the rules by which requests change them. It knows no
//! cryptography and no database. People are numbers.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    pub epoch: u64,
    pub seq: u64,
}

/// Name of an error.
pub type Refusal = &'static str;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    None,
    Waits { epoch: u64 },
    Confirmed,
}

/// A current member.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    pub joined: At,
    pub welcome: Welcome,
    /// Number of the request that made it a member.
    pub since: u64,
}

/// An entry of the log.
#[derive(Debug, Clone)]
pub struct Entry {
    pub seq: u64,
    pub epoch: u64,
    pub kind: &'static str,
    pub sender: usize,
    pub bytes: Vec<u8>,
}

/// A proposal of the present epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposal {
    /// To add a person, with the SHA-256 of this key package.
    Add(usize, String),
    Remove(usize),
}

/// A commit, as its sender declares it.
pub struct Commit {
    pub sender: usize,
    pub made_in: u64,
    pub added: Vec<usize>,
    pub removed: Vec<usize>,
    pub bytes: Vec<u8>,
    pub welcome: bool,
    /// GroupInfo of the epoch that it creates.
    pub group_info: Option<Vec<u8>>,
    /// True for an external commit, which includes no proposals of others.
    pub external: bool,
}

pub struct Model {
    pub at: At,
    pub creator: usize,
    pub members: BTreeMap<usize, Member>,
    /// Everybody who is or was a member.
    pub ever: BTreeSet<usize>,
    /// People with a leaf in the group.
    pub tree: BTreeSet<usize>,
    pub log: Vec<Entry>,
    /// Proposals of the present epoch.
    pub proposals: Vec<Proposal>,
    /// GroupInfo of the present epoch.
    pub group_info: Option<Vec<u8>>,
    requests: u64,
}

impl Model {
    /// A conversation as it is created: at this epoch, with a Welcome for the others or for none.
    pub fn new(creator: usize, epoch: u64, others: &[usize]) -> Self {
        let mut model = Self {
            at: At { epoch, seq: 0 },
            creator,
            members: BTreeMap::new(),
            ever: BTreeSet::new(),
            tree: BTreeSet::from([creator]),
            log: Vec::new(),
            proposals: Vec::new(),
            group_info: None,
            requests: 0,
        };
        model.join(&[creator], Welcome::None);
        model.join(others, if epoch > 0 { Welcome::Waits { epoch } } else { Welcome::None });
        if epoch > 0 {
            model.tree.extend(others);
        }
        model
    }

    fn join(&mut self, people: &[usize], welcome: Welcome) {
        for who in people {
            self.members.insert(*who, Member { joined: self.at, welcome, since: self.requests });
            self.ever.insert(*who);
        }
    }

    /// The caller's membership.
    pub fn membership(&self, who: usize) -> Result<Member, Refusal> {
        match self.members.get(&who) {
            Some(member) => Ok(*member),
            None if self.ever.contains(&who) => Err("NotMember"),
            None => Err("ConvoNotFound"),
        }
    }

    /// The members in order of joining, each with the order among those who joined at once.
    pub fn roster(&self, dids: &[String]) -> Vec<usize> {
        let mut roster: Vec<usize> = self.members.keys().copied().collect();
        roster.sort_by_key(|who| (self.members[who].joined.seq, self.members[who].since, &dids[*who]));
        roster
    }

    /// The member that may remove others.
    pub fn admin(&self, dids: &[String]) -> Option<usize> {
        match self.members.contains_key(&self.creator) {
            true => Some(self.creator),
            false => self.roster(dids).first().copied(),
        }
    }

    /// The commits after an epoch that a member may see.
    pub fn commits(&self, who: usize, after: u64) -> Vec<&Entry> {
        let joined = self.members[&who].joined;
        let seen = |entry: &&Entry| entry.seq > joined.seq && entry.epoch > after && entry.kind == "commit";
        self.log.iter().filter(seen).collect()
    }

    /// The proposals of an epoch that a member may see.
    pub fn proposals_of(&self, who: usize, epoch: u64) -> Vec<&Entry> {
        let joined = self.members[&who].joined;
        let seen = |entry: &&Entry| entry.seq > joined.seq && entry.epoch == epoch && entry.kind == "proposal";
        self.log.iter().filter(seen).collect()
    }

    fn append(&mut self, kind: &'static str, epoch: u64, sender: usize, bytes: &[u8]) {
        self.at.seq += 1;
        self.log.push(Entry { seq: self.at.seq, epoch, kind, sender, bytes: bytes.to_vec() });
    }

    pub fn send(&mut self, sender: usize, epoch: u64, bytes: &[u8]) -> Result<At, Refusal> {
        self.membership(sender)?;
        if epoch != self.at.epoch {
            return Err("EpochMismatch");
        }
        self.requests += 1;
        self.append("app", epoch, sender, bytes);
        Ok(self.at)
    }

    pub fn commit(&mut self, commit: &Commit, admin: Option<usize>) -> Result<At, Refusal> {
        self.membership(commit.sender)?;
        if commit.made_in != self.at.epoch {
            return Err("EpochMismatch");
        }
        let is_member = |who: &&usize| self.members.contains_key(who);
        if commit.removed.iter().any(|who| is_member(&who)) && admin != Some(commit.sender) {
            return Err("NotAuthorized");
        }
        if commit.removed.iter().any(|who| !self.ever.contains(who)) {
            return Err("TargetNotMember");
        }
        let stays = |who: &&usize| !commit.removed.contains(who) && self.tree.contains(who);
        if commit.added.iter().any(|who| is_member(&who) && stays(&who)) {
            return Err("AlreadyMember");
        }
        self.requests += 1;
        self.at.epoch += 1;
        self.group_info = commit.group_info.clone();
        self.append("commit", self.at.epoch, commit.sender, &commit.bytes);
        for proposal in std::mem::take(&mut self.proposals) {
            if let (Proposal::Remove(who), false) = (proposal, commit.external) {
                self.tree.remove(&who);
            }
        }
        for who in &commit.removed {
            self.members.remove(who);
            self.tree.remove(who);
        }
        let welcome = if commit.welcome { Welcome::Waits { epoch: self.at.epoch } } else { Welcome::None };
        self.join(&commit.added, welcome);
        self.tree.extend(&commit.added);
        Ok(self.at)
    }

    /// An addition on the roster alone.
    pub fn name(&mut self, sender: usize, added: &[usize]) -> Result<At, Refusal> {
        self.membership(sender)?;
        if added.iter().any(|who| self.members.contains_key(who)) {
            return Err("AlreadyMember");
        }
        self.requests += 1;
        self.join(added, Welcome::None);
        Ok(self.at)
    }

    pub fn propose(&mut self, sender: usize, epoch: u64, bytes: &[u8], proposal: Proposal) -> Result<At, Refusal> {
        self.membership(sender)?;
        if epoch != self.at.epoch {
            return Err("EpochMismatch");
        }
        self.requests += 1;
        self.append("proposal", epoch, sender, bytes);
        self.proposals.push(proposal);
        Ok(self.at)
    }

    /// A departure with the proposal that the person be removed.
    pub fn leave(&mut self, who: usize, epoch: u64, bytes: &[u8]) -> Result<At, Refusal> {
        if self.membership(who).is_ok() && self.members.len() == 1 {
            return Err("LastMember");
        }
        let at = self.propose(who, epoch, bytes, Proposal::Remove(who))?;
        self.members.remove(&who);
        Ok(at)
    }

    /// A departure, or a removal from the roster alone.
    pub fn strike(&mut self, sender: usize, target: usize, admin: Option<usize>) -> Result<At, Refusal> {
        self.membership(sender)?;
        if target == sender && self.members.len() == 1 {
            return Err("LastMember");
        }
        if !self.members.contains_key(&target) {
            return Err("TargetNotMember");
        }
        if target != sender && admin != Some(sender) {
            return Err("NotAuthorized");
        }
        self.requests += 1;
        self.members.remove(&target);
        Ok(self.at)
    }

    pub fn publish(&mut self, sender: usize, epoch: u64, group_info: &[u8]) -> Result<At, Refusal> {
        self.membership(sender)?;
        if epoch != self.at.epoch {
            return Err("EpochMismatch");
        }
        self.group_info = Some(group_info.to_vec());
        Ok(self.at)
    }

    pub fn confirm(&mut self, who: usize) {
        self.members.get_mut(&who).unwrap().welcome = Welcome::Confirmed;
    }
}
