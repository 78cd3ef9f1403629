//! Events that each member had to see according to the database, and the comparison with its records.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;
use tokio_postgres::Client;

use crate::delivery::checker::Seen;

/// Maximum number of findings that are printed for one member.
const MAX_SHOWN: usize = 5;

/// Entries of one conversation that one member had to see: for each membership, those from its start to its end.
#[derive(Debug, Default)]
struct Due {
    entries: BTreeSet<u64>,
    /// Start of each membership, and each end with `false`.
    memberships: BTreeSet<(u64, bool)>,
    /// Start of the present membership.
    since: Option<u64>,
}

/// Events that all members had to see.
pub struct Verdict {
    /// By member and conversation.
    due: HashMap<String, BTreeMap<String, Due>>,
    /// Ids of all entries that still exist.
    ids: HashMap<String, BTreeMap<u64, String>>,
    pub entries: u64,
    pub begun: u64,
    pub ended: u64,
}

impl Verdict {
    /// Reads the database after the last write.
    pub async fn read(db: &Client) -> Self {
        let mut verdict = Self { due: HashMap::new(), ids: HashMap::new(), entries: 0, begun: 0, ended: 0 };
        let changes = "select convo_id, recipient_did, event_type, payload::text from event_stream
                        where event_type in ('joined', 'removed') order by id";
        for row in db.query(changes, &[]).await.unwrap() {
            let (convo, payload): (&str, &str) = (row.get(0), row.get(3));
            let payload: Value = serde_json::from_str(payload).unwrap();
            let seq = payload["seq"].as_u64().unwrap();
            match row.get(2) {
                "joined" => {
                    for did in payload["dids"].as_array().unwrap() {
                        let due = verdict.due(did.as_str().unwrap(), convo);
                        assert!(due.since.replace(seq).is_none(), "{did} joined twice");
                        due.memberships.insert((seq, true));
                        verdict.begun += 1;
                    }
                }
                _ => {
                    let due = verdict.due(row.get(1), convo);
                    let since = due.since.take().expect("only members are removed");
                    due.entries.extend(since + 1..=seq);
                    due.memberships.insert((seq, false));
                    verdict.ended += 1;
                }
            }
        }
        for row in db.query("select id, last_seq from conversations", &[]).await.unwrap() {
            let (convo, last): (&str, i64) = (row.get(0), row.get(1));
            verdict.entries += last.cast_unsigned();
            for due in verdict.due.values_mut().filter_map(|convos| convos.get_mut(convo)) {
                due.entries.extend(due.since.iter().flat_map(|since| since + 1..=last.cast_unsigned()));
            }
        }
        for row in db.query("select convo_id, seq, id from messages", &[]).await.unwrap() {
            let (convo, seq, id): (String, i64, String) = (row.get(0), row.get(1), row.get(2));
            verdict.ids.entry(convo).or_default().insert(seq.cast_unsigned(), id);
        }
        verdict.compare_with_roster(db).await;
        verdict
    }

    fn due(&mut self, did: &str, convo: &str) -> &mut Due {
        self.due.entry(did.to_owned()).or_default().entry(convo.to_owned()).or_default()
    }

    /// The roster must agree with the membership events.
    async fn compare_with_roster(&self, db: &Client) {
        let roster = "select member_did, convo_id, joined_seq from members where left_at is null";
        let roster: BTreeSet<(String, String, u64)> = db
            .query(roster, &[])
            .await
            .unwrap()
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get::<_, i64>(2).cast_unsigned()))
            .collect();
        let present = |(did, convos): (&String, &BTreeMap<String, Due>)| -> Vec<(String, String, u64)> {
            convos.iter().filter_map(|(convo, due)| Some((did.clone(), convo.clone(), due.since?))).collect()
        };
        let told: BTreeSet<(String, String, u64)> = self.due.iter().flat_map(present).collect();
        assert_eq!(told, roster, "what was told of members is not the roster");
    }

    /// Returns true if a member has seen everything that it had to. [`Verdict::judge`] checks the rest.
    pub fn is_complete(&self, did: &str, seen: &Seen) -> bool {
        if !seen.anew.is_empty() {
            return seen.live && self.compare(did, seen).is_empty();
        }
        self.due.get(did).into_iter().flatten().all(|(convo, due)| {
            seen.distinct.get(convo).map_or(0, BTreeSet::len) >= due.entries.len()
                && seen.memberships.get(convo).map_or(0, BTreeSet::len) >= due.memberships.len()
        })
    }

    /// Returns the differences between a member's records and the database, as sentences.
    fn compare(&self, did: &str, seen: &Seen) -> Vec<String> {
        let mut findings = Vec::new();
        let (nothing, no_ids) = (BTreeMap::new(), BTreeMap::new());
        let due = self.due.get(did).unwrap_or(&nothing);
        for (convo, own) in &seen.ids {
            let ids = self.ids.get(convo).unwrap_or(&no_ids);
            let other = own.iter().find(|(seq, id)| ids.get(seq) != Some(id));
            findings.extend(other.map(|(seq, id)| format!("entry {seq} of {convo} is {id}, not {:?}", ids.get(seq))));
        }
        for (convo, is_member) in &seen.is_member {
            if due.get(convo).is_some_and(|due| due.since.is_some()) != *is_member {
                findings.push(format!("it was told last of {convo} that it is a member: {is_member}"));
            }
        }
        for (convo, since) in due.iter().filter_map(|(convo, due)| Some((convo, due.since?))) {
            let (ids, own) = (self.ids.get(convo).unwrap_or(&no_ids), seen.ids.get(convo).unwrap_or(&no_ids));
            let lacks: Vec<_> = ids.range(since + 1..).filter(|(seq, _)| !own.contains_key(seq)).collect();
            if !seen.is_member.contains_key(convo) || !lacks.is_empty() {
                findings.push(format!("it lacks {lacks:?} of {convo}"));
            }
        }
        findings
    }

    /// Returns a member's wrong events, as sentences. A member that was told to start over must have what the database
    /// has.
    pub fn judge(&self, did: &str, seen: &Seen) -> Vec<String> {
        let mut findings = [seen.broken.clone(), self.compare(did, seen)].concat();
        if !seen.anew.is_empty() {
            return findings.into_iter().map(|finding| format!("{did}, anew {:?}: {finding}", seen.anew)).collect();
        }
        let (nothing, no_entries, no_memberships) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let due = self.due.get(did).unwrap_or(&nothing);
        for convo in seen.distinct.keys().chain(seen.memberships.keys()) {
            if !due.contains_key(convo) {
                findings.push(format!("{convo} is none of its business"));
            }
        }
        for (convo, due) in due {
            let entries = seen.distinct.get(convo).unwrap_or(&no_entries);
            let mut differ = |what: &str, seqs: Vec<&u64>| {
                if let (Some(first), Some(last)) = (seqs.first(), seqs.last()) {
                    let memberships = &due.memberships;
                    findings
                        .push(format!("{} entries of {convo} {what}, {first} to {last}; {memberships:?}", seqs.len()));
                }
            };
            differ("never came", due.entries.difference(entries).collect());
            differ("were not for it", entries.difference(&due.entries).collect());
            let memberships = seen.memberships.get(convo).unwrap_or(&no_memberships);
            if *memberships != due.memberships {
                findings.push(format!("told of {memberships:?} in {convo}, not of {:?}", due.memberships));
            }
            let mut first_times = BTreeSet::new();
            for seq in seen.entries.get(convo).into_iter().flatten() {
                let newest = first_times.last().copied().unwrap_or_default();
                if first_times.insert(*seq) && *seq < newest {
                    findings.push(format!("entry {seq} of {convo} came first after {newest}"));
                }
            }
        }
        findings.truncate(MAX_SHOWN);
        findings.into_iter().map(|finding| format!("{did}: {finding}")).collect()
    }
}
