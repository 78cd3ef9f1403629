//! Invitations: the Welcome that lets new members in, and the key packages that it was made for.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::error::{Code, Error};
use crate::ids::Did;
use crate::store::key_packages::{self, Hash};
use crate::store::welcomes::{self, NewWelcome, Recipient};
use crate::store::{Abort, Exclusive};

/// Most key packages of one person in a request. A person may join with several devices.
pub(super) const MAX_KEY_PACKAGES: usize = 10;

/// A Welcome with its recipients, and the key packages to use. It is checked before any transaction begins.
#[derive(Debug, Clone)]
pub struct Invitation {
    pub welcome: Option<NewWelcome>,
    pub key_packages: Vec<(Did, Hash)>,
    pub now: DateTime<Utc>,
}

impl Invitation {
    /// Creates the invitation of a request. `new_id` makes ULIDs. Errors: a hash for a person who is neither added nor `may_have_devices`,
    /// or more than [`MAX_KEY_PACKAGES`] for one person.
    pub fn new(
        added: &[Did],
        may_have_devices: impl Fn(&Did) -> bool,
        welcome: Option<Vec<u8>>,
        mut key_packages: Vec<(Did, Hash)>,
        new_id: impl Fn() -> String,
        now: DateTime<Utc>,
    ) -> Result<Self, Error> {
        key_packages.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        key_packages.dedup();
        let mut named: HashMap<&Did, Vec<Hash>> = added.iter().map(|did| (did, Vec::new())).collect();
        // Members whose other devices are invited.
        let mut others = Vec::new();
        for (did, hash) in &key_packages {
            if !named.contains_key(did) && may_have_devices(did) {
                others.push(did);
                named.insert(did, Vec::new());
            }
            let Some(hashes) = named.get_mut(did) else {
                let message = format!("keyPackageHashes names {did}, who is not being added");
                return Err(Code::InvalidRequest.because(message));
            };
            if hashes.len() == MAX_KEY_PACKAGES {
                let message = format!("keyPackageHashes must have at most {MAX_KEY_PACKAGES} entries for {did}");
                return Err(Code::InvalidRequest.because(message));
            }
            hashes.push(*hash);
        }
        // The bytes of a Welcome without a recipient would never be deleted.
        let welcome = welcome.filter(|_| !named.is_empty()).map(|bytes| {
            let mut recipients = Vec::new();
            for did in added.iter().chain(others) {
                let mut line =
                    |key_package_hash| recipients.push(Recipient { id: new_id(), did: did.clone(), key_package_hash });
                match named[did].as_slice() {
                    [] => line(None),
                    hashes => hashes.iter().for_each(|hash| line(Some(hash.to_vec()))),
                }
            }
            NewWelcome { id: new_id(), bytes, recipients }
        });
        Ok(Self { welcome, key_packages, now })
    }

    /// Bytes that it stores for these new members.
    pub fn bytes(&self, added: &[Did]) -> usize {
        // Each DID is stored in the roster and in the event.
        let names: usize = added.iter().map(|did| 2 * did.as_str().len()).sum();
        names + self.welcome.as_ref().map_or(0, |welcome| welcome.bytes.len())
    }

    /// Rows that it stores, including one for each new member.
    pub fn rows(&self, added: usize) -> usize {
        added + self.welcome.as_ref().map_or(0, |welcome| 1 + welcome.recipients.len())
    }

    /// Uses the key packages and stores the Welcome for its recipients, who are on the roster by now and start in `epoch` of a generation.
    pub(super) async fn deliver(
        &self,
        x: &mut Exclusive<'_>,
        inviter: &Did,
        generation: i64,
        epoch: i64,
    ) -> Result<(), Abort> {
        let convo = x.convo().clone();
        key_packages::consume(x.tx(), &self.key_packages, inviter, &convo, self.now).await?;
        if let Some(welcome) = &self.welcome {
            welcomes::insert(x, welcome, generation, epoch).await?;
        }
        Ok(())
    }
}
