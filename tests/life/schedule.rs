//! Steps of a schedule. They name people by numbers that are taken modulo those who can do the step at that time, so a
//! schedule stays valid when steps before are left out.

use proptest::prelude::*;

/// One step, with a fault while its request is served.
#[derive(Debug, Clone)]
pub struct Step {
    pub action: Action,
    pub fault: Fault,
    /// Replica that the request goes to first.
    pub replica: usize,
}

/// Choice of a person, or of an earlier request.
pub type Pick = usize;

#[derive(Debug, Clone)]
pub enum Action {
    /// A member sends a message.
    Send(Pick),
    /// A member commits the addition of one or two people, with a Welcome.
    Add(Pick, Pick, bool),
    /// A member names a person on the roster alone.
    Name(Pick, Pick),
    /// A member leaves, perhaps with the proposal that it be removed.
    Leave(Pick, bool),
    /// A member proposes an addition, which the next commit makes.
    Propose(Pick, Pick),
    /// A member strikes another from the roster alone. Only the admin may.
    Strike(Pick, Pick),
    /// A member commits the removal of another, or of a person who has left. Only the admin may remove a member.
    Remove(Pick, Pick, Pick),
    /// A member rotates its keys.
    Rotate(Pick),
    /// A member commits an addition and a removal at once, perhaps of the same person, or brings in one that was named.
    Change(Pick, Pick, Pick),
    /// A member stores the GroupInfo of its epoch.
    Publish(Pick),
    /// A member joins with its Welcome, and confirms it.
    Join(Pick),
    /// A member reports that its Welcome cannot be opened.
    FailToJoin(Pick),
    /// A client of a member has no state of the group, or loses it, and comes in by an external commit, if there is a GroupInfo.
    Return(Pick),
    /// A person registers its second client as a device, perhaps again.
    Register(Pick),
    /// A member commits the addition of a registered device, or of another client that is not in the group, of a member.
    AddDevice(Pick, Pick),
    /// A member resets the group, with Welcomes for some of the others. Only the admin may, or any while the conversation is wedged.
    Reset(Pick, Pick),
    /// A member reports that it could, or could not, apply the commit of a recent epoch.
    Report(Pick, Pick),
    /// A client of the group before a reset commits in it, or sends a message.
    Late(Pick, bool),
    /// A member asks the others to add it again.
    Ask(Pick),
    /// A member reads the log.
    CatchUp(Pick),
    /// Two members commit at once.
    Race(Pick, Pick, Pick),
    /// A member that has not read the log commits.
    Stale(Pick),
    /// A person who is not a member tries to send, to add or to leave.
    Intrude(Pick, Pick),
    /// A person sends an earlier request again.
    Repeat(Pick),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The request goes to both replicas at once.
    Twice,
    /// The client hangs up after these milliseconds and repeats the request at the other replica.
    LoseReply(u64),
    /// The replica is killed after these milliseconds, and the client repeats the request at the other one.
    Kill(u64),
    /// The connections of a replica to PostgreSQL are cut after these milliseconds.
    CutDatabase(u64),
}

pub fn steps() -> impl Strategy<Value = Step> {
    let pick = || 0..1_000_usize;
    let two = || (pick(), pick());
    let action = prop_oneof![
        5 => pick().prop_map(Action::Send),
        6 => (pick(), pick(), any::<bool>()).prop_map(|(who, whom, both)| Action::Add(who, whom, both)),
        2 => two().prop_map(|(who, whom)| Action::Name(who, whom)),
        2 => (pick(), any::<bool>()).prop_map(|(who, proposes)| Action::Leave(who, proposes)),
        3 => two().prop_map(|(who, whom)| Action::Propose(who, whom)),
        1 => two().prop_map(|(who, whom)| Action::Strike(who, whom)),
        3 => (pick(), pick(), pick()).prop_map(|(who, whom, how)| Action::Remove(who, whom, how)),
        2 => pick().prop_map(Action::Rotate),
        4 => (pick(), pick(), pick()).prop_map(|(who, added, removed)| Action::Change(who, added, removed)),
        3 => pick().prop_map(Action::Publish),
        6 => pick().prop_map(Action::Join),
        1 => pick().prop_map(Action::FailToJoin),
        4 => pick().prop_map(Action::Return),
        2 => pick().prop_map(Action::Register),
        3 => two().prop_map(|(who, whom)| Action::AddDevice(who, whom)),
        2 => two().prop_map(|(who, whom)| Action::Reset(who, whom)),
        3 => two().prop_map(|(who, how)| Action::Report(who, how)),
        2 => (pick(), any::<bool>()).prop_map(|(who, commits)| Action::Late(who, commits)),
        1 => pick().prop_map(Action::Ask),
        2 => pick().prop_map(Action::CatchUp),
        2 => (pick(), pick(), pick()).prop_map(|(one, other, whom)| Action::Race(one, other, whom)),
        2 => pick().prop_map(Action::Stale),
        1 => two().prop_map(|(who, how)| Action::Intrude(who, how)),
        2 => pick().prop_map(Action::Repeat),
    ];
    let fault = prop_oneof![
        10 => Just(Fault::None),
        3 => Just(Fault::Twice),
        3 => (0..12_u64).prop_map(Fault::LoseReply),
        1 => (0..12_u64).prop_map(Fault::Kill),
        2 => (0..12_u64).prop_map(Fault::CutDatabase),
    ];
    (action, fault, 0..2_usize).prop_map(|(action, fault, replica)| Step { action, fault, replica })
}
