//! Devices of a person, GroupInfos, and the way back in for a device that has lost its state.

use serde_json::json;

use super::super::mls::{Mls, owner, person};
use super::super::xrpc::{XrpcError, base64_text, bytes_value};
use super::{Call, Landed, Persona, PersonaError, unique};

impl Persona {
    /// Creates another device of the same person, with keys of its own.
    pub fn device(&self, mls: Box<dyn Mls>) -> Self {
        let mut device = Self::with(self.xrpc.clone(), mls);
        device.handshake = self.handshake;
        device.shares_group_info = self.shares_group_info;
        device
    }

    /// Registers this device with `n` key packages, and returns the server's id of it and the packages. From then on it takes only its own
    /// Welcomes.
    pub async fn register_device(&mut self, name: &str, n: usize) -> Result<(String, Vec<Vec<u8>>), PersonaError> {
        let packages = (0..n).map(|_| self.mls.key_package()).collect::<Result<Vec<_>, _>>()?;
        let suite = self.mls.suite_name();
        let item = |package: &Vec<u8>| json!({ "keyPackage": base64_text(package), "cipherSuite": suite });
        let body = json!({
            "deviceName": name,
            "keyPackages": packages.iter().map(item).collect::<Vec<_>>(),
            "signaturePublicKey": bytes_value(self.mls.signature_key()),
            "idempotencyKey": unique(),
        });
        let reply = self.procedure("registerDevice", &body).await?;
        let id = reply.string("deviceId")?.to_owned();
        self.device_id = Some(id.clone());
        Ok((id, packages))
    }

    /// Deletes a device of this person.
    pub async fn delete_device(&self, id: &str) -> Result<(), PersonaError> {
        let body = json!({ "deviceId": id, "idempotencyKey": unique() });
        self.procedure("deleteDevice", &body).await.map(drop)
    }

    /// Returns the ids of the devices that the members of the conversation are asked to add.
    pub async fn pending_devices(&self) -> Result<Vec<String>, PersonaError> {
        let reply = self.query("getPendingDeviceAdditions", &[("convoIds", self.convo()?.to_owned())]).await?;
        let additions = reply.list("pendingAdditions")?.iter();
        Ok(additions
            .map(|addition| Ok(reply.string_in(addition, "id")?.to_owned()))
            .collect::<Result<_, XrpcError>>()?)
    }

    /// Adds a device that the members were asked to add: claims the addition, and commits with the key package that comes with it. `None`:
    /// another member adds it, or it is in the group.
    pub async fn add_pending_device(&mut self, addition: &str) -> Result<Option<Landed>, PersonaError> {
        let body = json!({ "pendingAdditionId": addition });
        let reply = self.procedure("claimPendingDeviceAddition", &body).await?;
        if reply.body["claimed"] != true {
            return Ok(None);
        }
        let package = &reply.body["keyPackage"];
        let (bytes, did) = (reply.bytes_in(package, "keyPackage")?, reply.string_in(package, "did")?);
        let is_theirs = owner(&bytes).is_some_and(|identity| person(&identity) == did);
        self.expect(is_theirs, || format!("a key package of {did} was served that names another person"))?;
        let landed = match self.add_device(did, bytes).await {
            Err(PersonaError::Overtaken { .. }) => return Ok(None),
            landed => landed?,
        };
        let reply = self.procedure("completePendingDeviceAddition", &body).await?;
        self.expect(reply.body["success"] == true, || {
            format!("the commit of {landed:?} has not completed it: {reply}")
        })?;
        Ok(Some(landed))
    }

    /// Gives the server the GroupInfo of the present epoch.
    pub async fn publish_group_info(&self) -> Result<(), PersonaError> {
        let info = self.mls.group_info(&self.group_id)?;
        let body = json!({ "convoId": self.convo()?, "groupInfo": base64_text(&info), "epoch": self.epoch()? });
        self.procedure("updateGroupInfo", &body).await.map(drop)
    }

    /// Loses the state of the group, as a broken device does. The signature key remains.
    pub fn lose_state(&mut self) -> Result<(), PersonaError> {
        self.convo_id = None;
        self.last_seq = 0;
        self.entries.clear();
        self.led_by = None;
        Ok(self.mls.forget(&self.group_id)?)
    }

    /// Joins the group by an external commit, made again on a newer GroupInfo as long as others commit first.
    pub async fn enter(&mut self, convo_id: &str) -> Result<Landed, PersonaError> {
        let mut conflicts = 0;
        loop {
            let info = self.query("getGroupInfo", &[("convoId", convo_id.to_owned())]).await?;
            let entry = self.mls.enter(&info.bytes("groupInfo")?, self.handshake)?;
            let body = json!({
                "convoId": convo_id,
                "externalCommit": base64_text(&entry.staged.commit),
                "groupInfo": base64_text(&entry.staged.group_info),
                "idempotencyKey": unique(),
            });
            let reply = self.patient(Call::Procedure("processExternalCommit", &body)).await?;
            self.group_id = entry.group_id;
            if reply.is_ok() {
                let merged = self.mls.merge_pending(&self.group_id)?;
                self.led_by = Some((merged, entry.staged.commit));
                self.convo_id = Some(convo_id.to_owned());
                self.last_seq = reply.number("seq")?;
                let landed = Landed { epoch: reply.number("epoch")?, seq: self.last_seq, conflicts };
                let made_in = entry.staged.made_in;
                self.expect(landed.epoch == merged, || {
                    format!("a commit of epoch {made_in} was answered with {reply}")
                })?;
                return Ok(landed);
            }
            self.mls.discard_pending(&self.group_id)?;
            conflicts += 1;
            if reply.error() != Some("EpochMismatch") || conflicts >= super::commits::MAX_ATTEMPTS {
                return Err(self.refused(reply));
            }
        }
    }
}
