//! Groups as a whole: creating, joining by Welcome, forgetting, and reading the state.

use openmls::prelude::{
    BasicCredential, Credential, GroupId, MIXED_CIPHERTEXT_WIRE_FORMAT_POLICY, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY,
    MlsGroup, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, SenderRatchetConfiguration, StagedWelcome,
    WireFormatPolicy, tls_codec::Deserialize,
};

use super::{Group, MlsClient, MlsError, capabilities};

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
            .build(&self.provider, &self.signer, self.credential())
            .map_err(|why| MlsError::outside(&self.did, "create a group", why))?;
        self.groups.insert(group_id.to_vec(), Group { mls, pending: None });
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
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(handshake.policy())
            .use_ratchet_tree_extension(true)
            .sender_ratchet_configuration(SenderRatchetConfiguration::new(OVERTAKEN, MISSING))
            .max_past_epochs(PAST_EPOCHS)
            .build();
        let mls = StagedWelcome::build_from_welcome(&self.provider, &config, welcome)
            .and_then(|join| join.replace_old_group().build())
            .and_then(|staged| staged.into_group(&self.provider))
            .map_err(|why| MlsError::outside(&self.did, "join by Welcome", why))?;
        let id = mls.group_id().to_vec();
        self.groups.insert(id.clone(), Group { mls, pending: None });
        Ok(id)
    }

    /// Drops all state of the group, as a client does after leaving.
    pub fn forget(&mut self, group_id: &[u8]) -> Result<(), MlsError> {
        let mut group = self.groups.remove(group_id).ok_or_else(|| MlsError::unknown(&self.did, group_id))?;
        let epoch = group.mls.epoch().as_u64();
        group
            .mls
            .delete(openmls::prelude::OpenMlsProvider::storage(&self.provider))
            .map_err(|why| MlsError::refused(&self.did, "forget the group", epoch, why))
    }

    /// Returns the GroupInfo of the client's epoch, as a serialised MLSMessage.
    pub fn group_info(&self, group_id: &[u8]) -> Result<Vec<u8>, MlsError> {
        const WHAT: &str = "export the group";
        let crypto = openmls::prelude::OpenMlsProvider::crypto(&self.provider);
        let group_info = self.group(group_id)?.mls.export_group_info(crypto, &self.signer, true);
        let group_info = group_info.map_err(|why| MlsError::outside(&self.did, WHAT, why))?;
        group_info.to_bytes().map_err(|why| MlsError::outside(&self.did, WHAT, why))
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

    /// Returns the DIDs in the ratchet tree, in leaf order.
    pub fn members(&self, group_id: &[u8]) -> Result<Vec<String>, MlsError> {
        self.group(group_id)?.mls.members().map(|member| self.identity(&member.credential)).collect()
    }

    /// Returns the DID in a basic credential.
    pub(super) fn identity(&self, credential: &Credential) -> Result<String, MlsError> {
        const WHAT: &str = "read a credential";
        let basic =
            BasicCredential::try_from(credential.clone()).map_err(|why| MlsError::outside(&self.did, WHAT, why))?;
        String::from_utf8(basic.identity().to_vec()).map_err(|why| MlsError::outside(&self.did, WHAT, why))
    }
}
