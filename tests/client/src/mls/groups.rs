//! Groups as a whole: creating, joining by Welcome, forgetting, and reading the state.

use openmls::prelude::{
    BasicCredential, Credential, GroupId, LeafNodeParameters, MIXED_CIPHERTEXT_WIRE_FORMAT_POLICY,
    MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider,
    SenderRatchetConfiguration, StagedWelcome, WireFormatPolicy, tls_codec::Deserialize,
};

use super::{Entry, Group, MlsClient, MlsError, Staged, capabilities};

/// Number of past epochs from which application messages are accepted. Losers of a race apply commits first and read
/// later.
const PAST_EPOCHS: usize = 64;
/// Number of messages of one sender that may be overtaken, and number that may be missing in between.
const OVERTAKEN: u32 = 100;
const MISSING: u32 = 10_000;

/// Framing of a client's commits. It accepts both, so members of one group may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Handshake {
    /// PublicMessage: the server can see the content of commits.
    Public,
    /// PrivateMessage: the server sees group, epoch and content type. Recommended by RFC 9420 (section 6).
    #[default]
    Private,
}

impl Handshake {
    fn policy(self) -> WireFormatPolicy {
        match self {
            Handshake::Public => MIXED_PLAINTEXT_WIRE_FORMAT_POLICY,
            Handshake::Private => MIXED_CIPHERTEXT_WIRE_FORMAT_POLICY,
        }
    }
}

impl MlsClient {
    /// Creates a group at epoch 0 with this client as its only member.
    pub fn create_group(&mut self, group_id: &[u8], handshake: Handshake) -> Result<(), MlsError> {
        let mls = MlsGroup::builder()
            .with_group_id(GroupId::from_slice(group_id))
            .ciphersuite(self.suite)
            .with_capabilities(capabilities())
            .with_wire_format_policy(handshake.policy())
            .use_ratchet_tree_extension(true)
            .sender_ratchet_configuration(SenderRatchetConfiguration::new(OVERTAKEN, MISSING))
            .max_past_epochs(PAST_EPOCHS)
            .padding_size(self.padding)
            .build(&self.provider, &self.signer, self.credential())
            .map_err(|why| MlsError::outside(&self.did, "create a group", why))?;
        self.groups.insert(group_id.to_vec(), Group::new(mls));
        Ok(())
    }

    /// Joins with a Welcome for one of this client's key packages and returns the group id. State of an earlier
    /// membership in the same group is replaced.
    pub fn join(&mut self, welcome: &[u8], handshake: Handshake) -> Result<Vec<u8>, MlsError> {
        let unreadable = |why: String| MlsError::Unreadable {
            did: self.did.clone(),
            expected: "a Welcome",
            bytes: welcome.len(),
            why,
        };
        let message = MlsMessageIn::tls_deserialize_exact(welcome).map_err(|why| unreadable(why.to_string()))?;
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
            return Err(unreadable("another kind of MLS message".to_owned()));
        };
        let mls = StagedWelcome::build_from_welcome(&self.provider, &self.join_config(handshake), welcome)
            .and_then(|join| join.replace_old_group().build())
            .and_then(|staged| staged.into_group(&self.provider))
            .map_err(|why| MlsError::outside(&self.did, "join by Welcome", why))?;
        let id = mls.group_id().to_vec();
        self.entering.remove(&id);
        self.groups.insert(id.clone(), Group::new(mls));
        Ok(id)
    }

    /// Makes an external commit, which removes the leaf with this client's signature key. The group takes the place of
    /// earlier state once the commit is merged.
    pub fn enter(&mut self, group_info: &[u8], handshake: Handshake) -> Result<Entry, MlsError> {
        const WHAT: &str = "enter by an external commit";
        let outside = |why: Box<dyn std::error::Error + Send + Sync>| MlsError::Outside {
            did: self.did.clone(),
            what: WHAT,
            why,
        };
        let unreadable = |why: String| MlsError::Unreadable {
            did: self.did.clone(),
            expected: "a GroupInfo",
            bytes: group_info.len(),
            why,
        };
        let message = MlsMessageIn::tls_deserialize_exact(group_info).map_err(|why| unreadable(why.to_string()))?;
        let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
            return Err(unreadable("another kind of MLS message".to_owned()));
        };
        let made_in = info.epoch().as_u64();
        let (mls, bundle) = MlsGroup::external_commit_builder()
            .with_config(self.join_config(handshake))
            .build_group(&self.provider, info, self.credential())
            .map_err(|why| outside(why.into()))?
            .leaf_node_parameters(LeafNodeParameters::builder().with_capabilities(capabilities()).build())
            .load_psks(self.provider.storage())
            .map_err(|why| outside(why.into()))?
            .create_group_info(true)
            .use_ratchet_tree_extension(true)
            .build(self.provider.rand(), self.provider.crypto(), &self.signer, |_| true)
            .map_err(|why| outside(why.into()))?
            .finalize(&self.provider)
            .map_err(|why| outside(why.into()))?;
        let (commit, _, group_info) = bundle.into_messages();
        let commit = commit.to_bytes().map_err(|why| outside(why.into()))?;
        let group_info = group_info.map(|info| info.to_bytes()).transpose().map_err(|why| outside(why.into()))?;
        let group_id = mls.group_id().to_vec();
        self.entering.insert(group_id.clone(), (mls, commit.clone()));
        let staged = Staged { commit, group_info: group_info.unwrap_or_default(), made_in, ..Staged::default() };
        Ok(Entry { group_id, staged })
    }

    fn join_config(&self, handshake: Handshake) -> MlsGroupJoinConfig {
        MlsGroupJoinConfig::builder()
            .wire_format_policy(handshake.policy())
            .use_ratchet_tree_extension(true)
            .sender_ratchet_configuration(SenderRatchetConfiguration::new(OVERTAKEN, MISSING))
            .max_past_epochs(PAST_EPOCHS)
            .padding_size(self.padding)
            .build()
    }

    /// Returns a GroupInfo of the present epoch with the ratchet tree and the key for external commits.
    pub fn group_info(&self, group_id: &[u8]) -> Result<Vec<u8>, MlsError> {
        const WHAT: &str = "export a GroupInfo";
        let mls = &self.group(group_id)?.mls;
        let epoch = mls.epoch().as_u64();
        mls.export_group_info(self.provider.crypto(), &self.signer, true)
            .map_err(|why| MlsError::refused(&self.did, WHAT, epoch, why))?
            .to_bytes()
            .map_err(|why| MlsError::refused(&self.did, WHAT, epoch, why))
    }

    /// Drops all state of the group, as a client does after leaving.
    pub fn forget(&mut self, group_id: &[u8]) -> Result<(), MlsError> {
        let mut group = self.groups.remove(group_id).ok_or_else(|| MlsError::unknown(&self.did, group_id))?;
        let epoch = group.mls.epoch().as_u64();
        group
            .mls
            .delete(self.provider.storage())
            .map_err(|why| MlsError::refused(&self.did, "forget the group", epoch, why))
    }

    /// Signs any bytes with the client's signature key, for tests that forge messages.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, MlsError> {
        use openmls_traits::signatures::Signer;
        let signature = self.signer.sign(bytes);
        signature.map_err(|why| MlsError::outside(&self.did, "sign", std::io::Error::other(format!("{why:?}"))))
    }

    /// Returns the client's epoch.
    pub fn epoch(&self, group_id: &[u8]) -> Result<u64, MlsError> {
        Ok(self.group(group_id)?.mls.epoch().as_u64())
    }

    /// Returns a secret that two clients share exactly if they agree on the group's whole history (RFC 9420, section
    /// 8.7).
    pub fn epoch_authenticator(&self, group_id: &[u8]) -> Result<Vec<u8>, MlsError> {
        Ok(self.group(group_id)?.mls.epoch_authenticator().as_slice().to_vec())
    }

    /// Returns the identities in the ratchet tree, in leaf order.
    pub fn members(&self, group_id: &[u8]) -> Result<Vec<String>, MlsError> {
        self.group(group_id)?.mls.members().map(|member| self.identity(&member.credential)).collect()
    }

    /// Returns the identity in a basic credential.
    pub(super) fn identity(&self, credential: &Credential) -> Result<String, MlsError> {
        const WHAT: &str = "read a credential";
        let basic =
            BasicCredential::try_from(credential.clone()).map_err(|why| MlsError::outside(&self.did, WHAT, why))?;
        String::from_utf8(basic.identity().to_vec()).map_err(|why| MlsError::outside(&self.did, WHAT, why))
    }
}
