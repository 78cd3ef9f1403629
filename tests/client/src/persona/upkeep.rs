//! Upkeep: the stock of key packages, and another MLS group for a conversation that its members can no longer follow.

use serde_json::{Value, json};

use super::super::xrpc::base64_text;
use super::{Call, Landed, Persona, PersonaError, hex, sha256_hex, unique};

/// Difference between a client's key packages and the stock at the server. Each package is named by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockDifference {
    /// Packages that the server can issue, and whose keys the client does not have.
    pub orphaned: Vec<String>,
    /// Packages of the client that the server does not know.
    pub missing: Vec<String>,
    /// Number of packages that the server can issue.
    pub available: u64,
}

impl Persona {
    /// Compares the packages whose keys this client has with the stock, after the packages of `withdrawn` were taken out of it.
    pub async fn sync_key_packages(
        &self,
        own: &[String],
        withdrawn: &[String],
    ) -> Result<StockDifference, PersonaError> {
        let reply =
            self.procedure("syncKeyPackages", &json!({ "localHashes": own, "deleteHashes": withdrawn })).await?;
        let hashes = |field: &str| -> Result<Vec<String>, PersonaError> {
            let hashes = reply.list(field)?.iter().filter_map(Value::as_str).map(str::to_owned);
            Ok(hashes.collect())
        };
        let available = reply.number("remainingAvailable")?;
        Ok(StockDifference { orphaned: hashes("orphanedHashes")?, missing: hashes("missingHashes")?, available })
    }

    /// Replaces the conversation's MLS group by a new one with these members, of each of whom it claims key packages. Loses if another
    /// change comes first.
    pub async fn reset(&mut self, group_id: &[u8], dids: &[&str]) -> Result<Landed, PersonaError> {
        let present = self.query("getEpoch", &[("convoId", self.convo()?.to_owned())]).await?;
        let prior = json!({ "generation": present.number("generation")?, "epoch": present.number("currentEpoch")? });
        let served = self.claim(dids).await?;
        self.mls.create_group(group_id, self.handshake)?;
        let packages: Vec<_> = served.iter().map(|package| package.bytes.clone()).collect();
        let staged = self.mls.add(group_id, &packages)?;
        let epoch = self.mls.merge_pending(group_id)?;
        let named = served.iter().map(|package| json!({ "did": package.did, "hash": sha256_hex(&package.bytes) }));
        let body = json!({
            "convoId": self.convo()?,
            "prior": prior,
            "newGroupId": hex(group_id),
            "cipherSuite": self.mls.suite_name(),
            "commit": base64_text(&staged.commit),
            "welcomeMessage": base64_text(&staged.welcome),
            "keyPackageHashes": named.collect::<Vec<_>>(),
            "groupInfo": base64_text(&self.mls.group_info(group_id)?),
            "idempotencyKey": unique(),
        });
        let reply = self.patient(Call::Procedure("resetConvo", &body)).await?;
        if !reply.is_ok() {
            self.mls.forget(group_id)?;
            return Err(self.refused(reply));
        }
        self.group_id = group_id.to_vec();
        self.last_seq = reply.number("seq")?;
        self.led_by = Some((epoch, staged.commit));
        let landed = Landed { epoch: reply.number("epoch")?, seq: self.last_seq, conflicts: 0 };
        self.expect(landed.epoch == epoch, || format!("a reset into epoch {epoch} was answered with {reply}"))?;
        Ok(landed)
    }
}
