//! Model of a conversation: its position, roster, log and Welcomes, and the rules by which requests change them. It knows no
//! cryptography and no database. People are numbers, and so are their clients: the first client of a person has the person's number.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    pub epoch: u64,
    pub seq: u64,
}

/// Name of an error.
pub type Refusal = &'static str;

/// A Welcome for a client, with the SHA-256 of the key package that opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Welcome {
    /// Its recipient joins in this epoch, and reads the entries after this seq.
    Waits {
        at: At,
        hash: String,
    },
    Confirmed {
        hash: String,
    },
}

/// A current member.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    pub joined: At,
    /// False for a member that no commit has brought into the present group.
    pub in_group: bool,
    /// Number of the request that made it a member.
    pub since: u64,
}

/// An entry of the log.
#[derive(Debug, Clone)]
pub struct Entry {
    pub seq: u64,
    pub generation: u64,
    pub epoch: u64,
    pub kind: &'static str,
    pub sender: usize,
    pub bytes: Vec<u8>,
}

/// A proposal of the present epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proposal {
    /// To add a person's first client, with the SHA-256 of this key package.
    Add(usize, String),
    /// To remove a client.
    Remove(usize),
}

/// A commit, as its sender declares it.
pub struct Commit {
    /// The client that made it, and its person.
    pub client: usize,
    pub sender: usize,
    pub made_in: u64,
    pub added: Vec<usize>,
    pub removed: Vec<usize>,
    /// Clients that get a Welcome, each with the hash of its key package.
    pub invited: Vec<(usize, String)>,
    pub bytes: Vec<u8>,
    /// GroupInfo of the epoch that it creates.
    pub group_info: Option<Vec<u8>>,
    /// True for an external commit, which includes no proposals of others.
    pub external: bool,
}

/// A reset, as its sender declares it.
pub struct Reset {
    pub client: usize,
    pub sender: usize,
    /// Clients that get a Welcome, each with its person and the hash of its key package.
    pub invited: Vec<(usize, usize, String)>,
    pub group_info: Option<Vec<u8>>,
}

/// State of a conversation after a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub unable: usize,
    pub quorum: usize,
}

/// Percentage of the members in the group, and smallest number of them, that make a conversation wedged.
const QUORUM_PERCENT: usize = 33;
const MIN_QUORUM: usize = 2;

/// Number of people of a conversation, each with two clients.
pub const PEOPLE: usize = 6;
pub const CLIENTS: usize = 2 * PEOPLE;

/// Returns the person of a client.
pub fn person(client: usize) -> usize {
    client % PEOPLE
}

pub struct Model {
    pub at: At,
    /// Number of the group, its first epoch, and the seq of the entry that began it.
    pub generation: u64,
    pub group: At,
    pub creator: usize,
    pub members: BTreeMap<usize, Member>,
    /// Everybody who is or was a member.
    pub ever: BTreeSet<usize>,
    /// Clients with a leaf in the group.
    pub tree: BTreeSet<usize>,
    /// Welcomes by client.
    pub welcomes: BTreeMap<usize, Welcome>,
    pub log: Vec<Entry>,
    /// Proposals of the present epoch.
    pub proposals: Vec<Proposal>,
    /// GroupInfo of the present epoch.
    pub group_info: Option<Vec<u8>>,
    pub is_wedged: bool,
    /// Newest report of each person about the present group: the epoch, and whether its commit could be applied.
    reports: BTreeMap<usize, (u64, bool)>,
    requests: u64,
}

impl Model {
    /// A conversation as it is created: at this epoch, with a Welcome for the others.
    pub fn new(creator: usize, epoch: u64, others: &[(usize, String)]) -> Self {
        let at = At { epoch, seq: 0 };
        let mut model = Self {
            at,
            generation: 1,
            group: at,
            creator,
            members: BTreeMap::new(),
            ever: BTreeSet::new(),
            tree: BTreeSet::from([creator]),
            welcomes: BTreeMap::new(),
            log: Vec::new(),
            proposals: Vec::new(),
            group_info: None,
            is_wedged: false,
            reports: BTreeMap::new(),
            requests: 0,
        };
        model.join(creator, true);
        for (who, hash) in others {
            model.join(*who, true);
            model.invite(*who, hash);
        }
        model
    }

    fn join(&mut self, who: usize, in_group: bool) {
        self.members.insert(who, Member { joined: self.at, in_group, since: self.requests });
        self.ever.insert(who);
        self.withdraw(who);
    }

    /// Gives a client a leaf and a Welcome.
    fn invite(&mut self, client: usize, hash: &str) {
        self.tree.insert(client);
        self.welcomes.insert(client, Welcome::Waits { at: self.at, hash: hash.to_owned() });
    }

    /// Ends a membership.
    fn part(&mut self, who: usize) {
        self.members.remove(&who);
        self.withdraw(who);
    }

    /// Withdraws the Welcomes of a person.
    fn withdraw(&mut self, who: usize) {
        self.welcomes.retain(|client, _| person(*client) != who);
    }

    /// The epoch of the present group after which a member sees its commits.
    pub fn visible_after(&self, who: usize) -> u64 {
        let joined = self.members[&who].joined;
        if joined.seq < self.group.seq { self.group.epoch } else { joined.epoch }
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

    /// The commits of a generation after an epoch that a member may see.
    pub fn commits(&self, who: usize, generation: u64, after: u64) -> Vec<&Entry> {
        let joined = self.members[&who].joined;
        let seen = |entry: &&Entry| {
            entry.seq > joined.seq && entry.generation == generation && entry.epoch > after && entry.kind == "commit"
        };
        self.log.iter().filter(seen).collect()
    }

    /// The proposals of an epoch of a generation that a member may see.
    pub fn proposals_of(&self, who: usize, generation: u64, epoch: u64) -> Vec<&Entry> {
        let joined = self.members[&who].joined;
        let seen = |entry: &&Entry| {
            entry.seq > joined.seq && entry.generation == generation && entry.epoch == epoch && entry.kind == "proposal"
        };
        self.log.iter().filter(seen).collect()
    }

    fn append(&mut self, kind: &'static str, epoch: u64, sender: usize, bytes: &[u8]) {
        self.at.seq += 1;
        let (seq, generation, bytes) = (self.at.seq, self.generation, bytes.to_vec());
        self.log.push(Entry { seq, generation, epoch, kind, sender, bytes });
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
        let is_inside = |who: &usize| self.members.get(who).is_some_and(|member| member.in_group);
        if commit.added.iter().any(|who| is_inside(who) && !commit.removed.contains(who)) {
            return Err("AlreadyMember");
        }
        self.requests += 1;
        self.at.epoch += 1;
        self.group_info = commit.group_info.clone();
        self.append("commit", self.at.epoch, commit.sender, &commit.bytes);
        for proposal in std::mem::take(&mut self.proposals) {
            if let (Proposal::Remove(client), false) = (proposal, commit.external) {
                self.tree.remove(&client);
            }
        }
        for who in &commit.removed {
            self.part(*who);
            self.tree.retain(|client| person(*client) != *who);
        }
        for who in &commit.added {
            self.join(*who, true);
        }
        for (client, hash) in &commit.invited {
            self.invite(*client, hash);
        }
        if commit.external {
            self.tree.insert(commit.client);
            self.members.entry(commit.sender).and_modify(|member| member.in_group = true);
        }
        Ok(self.at)
    }

    /// The replacement of the group by another one.
    pub fn reset(&mut self, reset: &Reset, admin: Option<usize>) -> Result<At, Refusal> {
        self.membership(reset.sender)?;
        if admin != Some(reset.sender) && !self.is_wedged {
            return Err("NotAuthorized");
        }
        self.requests += 1;
        let epoch = u64::from(!reset.invited.is_empty());
        self.generation += 1;
        self.at.epoch = epoch;
        self.append("reset", epoch, reset.sender, &[]);
        self.group = self.at;
        (self.group_info, self.is_wedged) = (reset.group_info.clone(), false);
        self.proposals.clear();
        self.reports.clear();
        self.welcomes.clear();
        self.tree = BTreeSet::from([reset.client]);
        for (client, _, hash) in &reset.invited {
            self.invite(*client, hash);
        }
        for (who, member) in &mut self.members {
            member.in_group = *who == reset.sender || reset.invited.iter().any(|(_, invited, _)| invited == who);
        }
        Ok(self.at)
    }

    /// A report about the commit of an epoch.
    pub fn report(&mut self, who: usize, epoch: u64, applied: bool) -> Result<Tally, Refusal> {
        self.membership(who)?;
        if epoch > self.at.epoch {
            return Err("EpochAhead");
        }
        if epoch <= self.visible_after(who) {
            return Err("InvalidRequest");
        }
        self.requests += 1;
        let newest = self.reports.entry(who).or_insert((epoch, applied));
        if epoch >= newest.0 {
            *newest = (epoch, applied);
        }
        let has_committed = |who: usize, after: u64| {
            let mut newer = self.log.iter().filter(|entry| entry.generation == self.generation && entry.epoch > after);
            newer.any(|entry| entry.kind == "commit" && entry.sender == who)
        };
        let is_unable = |who: usize| match self.reports.get(&who) {
            Some((epoch, false)) => *epoch > self.visible_after(who) && !has_committed(who, *epoch),
            _ => false,
        };
        // Those who are only named cannot apply commits.
        let inside: Vec<usize> =
            self.members.iter().filter(|(_, member)| member.in_group).map(|(who, _)| *who).collect();
        let unable = inside.iter().filter(|who| is_unable(**who)).count();
        let quorum = (inside.len() * QUORUM_PERCENT).div_ceil(100).max(MIN_QUORUM);
        self.is_wedged = unable >= quorum;
        Ok(Tally { unable, quorum })
    }

    /// An addition on the roster alone.
    pub fn name(&mut self, sender: usize, added: &[usize]) -> Result<At, Refusal> {
        self.membership(sender)?;
        if added.iter().any(|who| self.members.contains_key(who)) {
            return Err("AlreadyMember");
        }
        self.requests += 1;
        for who in added {
            self.join(*who, false);
        }
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
    pub fn leave(&mut self, who: usize, client: usize, epoch: u64, bytes: &[u8]) -> Result<At, Refusal> {
        if self.membership(who).is_ok() && self.members.len() == 1 {
            return Err("LastMember");
        }
        let at = self.propose(who, epoch, bytes, Proposal::Remove(client))?;
        self.part(who);
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
        self.part(target);
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

    pub fn confirm(&mut self, client: usize) {
        if let Some(Welcome::Waits { hash, .. }) = self.welcomes.remove(&client) {
            self.welcomes.insert(client, Welcome::Confirmed { hash });
        }
    }
}
