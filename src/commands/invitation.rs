//! What comes along when members are added: the Welcome that lets them in, and the key packages that it was made for.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::error::{Code, Error};
use crate::ids::Did;
use crate::store::key_packages::{self, Hash};
use crate::store::welcomes::{self, NewWelcome, Recipient};
use crate::store::{Abort, Exclusive};

/// Most key packages that one request uses up for one person, who may join with several devices.
const MAX_KEY_PACKAGES: usize = 10;

/// A Welcome with its recipients, and the key packages to use up. Checked before any transaction begins.
#[derive(Debug, Clone)]
pub struct Invitation {
    pub welcome: Option<NewWelcome>,
    pub key_packages: Vec<(Did, Hash)>,
    pub now: DateTime<Utc>,
}

impl Invitation {
    /// Puts together what a request named. `new_id` makes ULIDs. A hash for somebody who is not added is refused, and so are
    /// more than [`MAX_KEY_PACKAGES`] for one person.
    pub fn new(
        added: &[Did],
        welcome: Option<Vec<u8>>,
        mut key_packages: Vec<(Did, Hash)>,
        new_id: impl Fn() -> String,
        now: DateTime<Utc>,
    ) -> Result<Self, Error> {
        key_packages.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        key_packages.dedup();
        let mut named: HashMap<&Did, Vec<Hash>> = added.iter().map(|did| (did, Vec::new())).collect();
        for (did, hash) in &key_packages {
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
        // A Welcome that nobody is added by has no recipient, and bytes without one would stay for ever.
        let welcome = welcome.filter(|_| !added.is_empty()).map(|bytes| {
            let mut recipients = Vec::new();
            for did in added {
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

    /// How many bytes it stores for these people, who are added.
    pub fn bytes(&self, added: &[Did]) -> usize {
        // Each name is in the roster and in its event.
        let names: usize = added.iter().map(|did| 2 * did.as_str().len()).sum();
        names + self.welcome.as_ref().map_or(0, |welcome| welcome.bytes.len())
    }

    /// How many rows it is, one for each of so many people included.
    pub fn rows(&self, added: usize) -> usize {
        added + self.welcome.as_ref().map_or(0, |welcome| 1 + welcome.recipients.len())
    }

    /// Uses up the key packages and hands out the Welcome, to members who are on the roster by now and start in `epoch`.
    pub(super) async fn deliver(&self, x: &mut Exclusive<'_>, inviter: &Did, epoch: i64) -> Result<(), Abort> {
        let convo = x.convo().clone();
        key_packages::consume(x.tx(), &self.key_packages, inviter, &convo, self.now).await?;
        if let Some(welcome) = &self.welcome {
            welcomes::insert(x, welcome, epoch).await?;
        }
        Ok(())
    }
}
