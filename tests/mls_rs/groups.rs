//! Groups as a whole: creating, joining, entering by an external commit, and processing messages.

use catbird_client::mls::{Entry, Handshake, MlsError, Processed, Staged};
use mls_rs::error::MlsError as Refusal;
use mls_rs::extension::built_in::RatchetTreeExt;
use mls_rs::group::{CommitEffect, ContentType, ReceivedMessage};
use mls_rs::{ExtensionList, MlsMessageDescription};

use super::{Config, Group, MlsRsClient, identity};

impl Group {
    fn new(mls: mls_rs::Group<Config>) -> Self {
        Self { mls, pending: None, proposed: Vec::new() }
    }
}

impl MlsRsClient {
    pub(super) fn create(&mut self, group_id: &[u8], handshake: Handshake) -> Result<(), MlsError> {
        let (context, leaf) = (ExtensionList::new(), ExtensionList::new());
        let mls = self
            .client(handshake)
            .create_group_with_id(group_id.to_vec(), context, leaf, None)
            .map_err(|why| self.outside("create a group", why))?;
        self.groups.insert(group_id.to_vec(), Group::new(mls));
        Ok(())
    }

    pub(super) fn join_by_welcome(&mut self, welcome: &[u8], handshake: Handshake) -> Result<Vec<u8>, MlsError> {
        let welcome = self.read("a Welcome", welcome)?;
        let (mut mls, _) = self
            .client(handshake)
            .join_group(None, &welcome, None)
            .map_err(|why| self.outside("join by Welcome", why))?;
        // Writing the group deletes the one-time key package.
        mls.write_to_storage().map_err(|why| self.outside("store a group", why))?;
        let id = mls.group_id().to_vec();
        self.entering.remove(&id);
        self.groups.insert(id.clone(), Group::new(mls));
        Ok(id)
    }

    pub(super) fn enter_by_commit(&mut self, group_info: &[u8], handshake: Handshake) -> Result<Entry, MlsError> {
        const WHAT: &str = "enter by an external commit";
        let message = self.read("a GroupInfo", group_info)?;
        let info = message.as_group_info().ok_or_else(|| self.outside(WHAT, "another kind of MLS message"))?;
        let made_in = info.group_context().epoch();
        let tree = info.extensions().get_as::<RatchetTreeExt>().map_err(|why| self.outside(WHAT, why))?;
        let before = tree.and_then(|tree| {
            let own = |member: &mls_rs::group::Member| identity(&member.signing_identity) == self.identity;
            tree.tree_data.roster().members_iter().find(own).map(|member| member.index)
        });
        let client = self.client(handshake);
        let mut builder = client.external_commit_builder().map_err(|why| self.outside(WHAT, why))?;
        if let Some(leaf) = before {
            builder = builder.with_removal(leaf);
        }
        let (mls, commit) = builder.build(message).map_err(|why| self.outside(WHAT, why))?;
        let commit = commit.to_bytes().map_err(|why| self.outside(WHAT, why))?;
        let group_info = self.exported(&mls)?;
        let group_id = mls.group_id().to_vec();
        let group = Group { pending: Some(commit.clone()), ..Group::new(mls) };
        self.entering.insert(group_id.clone(), group);
        Ok(Entry { group_id, staged: Staged { commit, group_info, made_in, ..Staged::default() } })
    }

    pub(super) fn exported(&self, mls: &mls_rs::Group<Config>) -> Result<Vec<u8>, MlsError> {
        mls.group_info_message_allowing_ext_commit(true)
            .and_then(|message| message.to_bytes())
            .map_err(|why| self.refused("export a GroupInfo", mls.current_epoch(), why))
    }

    pub(super) fn take(&mut self, group_id: &[u8], message: &[u8]) -> Result<Processed, MlsError> {
        let message = self.read("a PublicMessage or PrivateMessage", message)?;
        let is_commit = matches!(
            message.description(),
            MlsMessageDescription::PrivateProtocolMessage { content_type: ContentType::Commit, .. }
                | MlsMessageDescription::PublicProtocolMessage { content_type: ContentType::Commit, .. }
        );
        let Some(group) = self.groups.get_mut(group_id) else { return Err(self.unknown(group_id)) };
        let epoch = group.mls.current_epoch();
        let received = match group.mls.process_incoming_message(message) {
            Ok(received) => received,
            Err(Refusal::CantProcessMessageFromSelf) if is_commit => {
                return Err(MlsError::Discarded { did: self.identity.clone(), epoch: epoch + 1 });
            }
            Err(Refusal::CantProcessMessageFromSelf) => return Ok(Processed::OwnMessage),
            Err(why) => return Err(self.refused("process a message", epoch, why)),
        };
        match received {
            ReceivedMessage::ApplicationMessage(application) => {
                let sender = group.mls.roster().member_with_index(application.sender_index);
                let sender = sender.map(|member| identity(&member.signing_identity));
                let plaintext = application.data().to_vec();
                let sender = sender.map_err(|why| self.refused("name a sender", epoch, why))?;
                Ok(Processed::Application { sender, plaintext })
            }
            ReceivedMessage::Commit(commit) => {
                group.pending = None;
                group.proposed.clear();
                let removed_me = matches!(commit.effect, CommitEffect::Removed { .. });
                Ok(Processed::Commit { epoch: group.mls.current_epoch(), removed_me })
            }
            ReceivedMessage::Proposal(_) => Ok(Processed::Proposal),
            other => Err(self.refused("process a message", epoch, format!("it is of another kind: {other:?}"))),
        }
    }
}
