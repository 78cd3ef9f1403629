//! Files: encrypted by the client, stored by the server as blobs, described by an MLS message.
//!
//! Each file has a key of its own, which only the message contains. The server has the ciphertext and learns its size, and nothing else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Call, Persona, PersonaError, Sent, sha256_hex};

/// A file as its sender has it and its readers get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub name: String,
    pub media_type: String,
    pub bytes: Vec<u8>,
}

/// Content of the MLS message that shares a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedFile {
    pub blob_id: String,
    /// SHA-256 of the ciphertext in hexadecimal.
    pub sha256: String,
    /// Key of AES-256-GCM in base64. It has encrypted this file alone, so the nonce is always zero.
    pub key: String,
    pub name: String,
    pub media_type: String,
}

impl Persona {
    /// Encrypts and uploads a file, then sends the message that shares it.
    pub async fn share(&mut self, file: &File) -> Result<Sent, PersonaError> {
        let (key, ciphertext) = seal(&file.bytes);
        let blob_id = self.upload(&ciphertext).await?;
        self.share_blob(file, blob_id, &key, &ciphertext).await
    }

    /// Like [`Persona::share`], with an upload in parts of this many bytes.
    pub async fn share_in_parts(&mut self, file: &File, part_bytes: usize) -> Result<Sent, PersonaError> {
        let (key, ciphertext) = seal(&file.bytes);
        let blob_id = self.upload_in_parts(&ciphertext, part_bytes).await?;
        self.share_blob(file, blob_id, &key, &ciphertext).await
    }

    async fn share_blob(
        &mut self,
        file: &File,
        blob_id: String,
        key: &[u8; 32],
        ciphertext: &[u8],
    ) -> Result<Sent, PersonaError> {
        let shared = SharedFile {
            blob_id: blob_id.clone(),
            sha256: sha256_hex(ciphertext),
            key: STANDARD.encode(key),
            name: file.name.clone(),
            media_type: file.media_type.clone(),
        };
        let text = serde_json::to_string(&shared).map_err(|why| self.broken(why.to_string()))?;
        self.send_referring(&text, &[blob_id]).await
    }

    /// Uploads bytes as a blob of the conversation, and returns its id.
    pub async fn upload(&self, bytes: &[u8]) -> Result<String, PersonaError> {
        let parameters = [("convoId", self.convo()?.to_owned()), ("sha256", sha256_hex(bytes))];
        let reply = self.accepted(self.patient(Call::Upload("uploadBlob", &parameters, bytes)).await?)?;
        Ok(reply.string("blobId")?.to_owned())
    }

    /// Uploads bytes in parts as a blob of the conversation, and returns its id.
    pub async fn upload_in_parts(&self, bytes: &[u8], part_bytes: usize) -> Result<String, PersonaError> {
        let begin = json!({ "convoId": self.convo()?, "size": bytes.len(), "partSize": part_bytes });
        let blob_id = self.procedure("createBlobUpload", &begin).await?.string("blobId")?.to_owned();
        for (part, bytes) in (1..).zip(bytes.chunks(part_bytes)) {
            let part: u32 = part;
            let parameters = [("blobId", blob_id.clone()), ("part", part.to_string()), ("sha256", sha256_hex(bytes))];
            self.accepted(self.patient(Call::Upload("uploadBlobPart", &parameters, bytes)).await?)?;
        }
        self.procedure("completeBlobUpload", &json!({ "blobId": blob_id, "sha256": sha256_hex(bytes) })).await?;
        Ok(blob_id)
    }

    /// Downloads and decrypts the file that a message shares.
    pub async fn fetch(&self, message: &str) -> Result<File, PersonaError> {
        let shared: SharedFile = serde_json::from_str(message).map_err(|why| self.broken(why.to_string()))?;
        let parameters = [("blobId", shared.blob_id.clone())];
        let download = self.xrpc.download("getBlob", &parameters, &[]).await?.map_err(|reply| self.refused(reply))?;
        let ciphertext = download.bytes().await?;
        // Before anything is decrypted: whoever keeps the bytes may have changed them.
        self.expect(sha256_hex(&ciphertext) == shared.sha256, || {
            "a blob has other bytes than its message says".to_owned()
        })?;
        let bytes = STANDARD.decode(&shared.key).ok().and_then(|key| open(&key, ciphertext));
        let bytes =
            bytes.ok_or_else(|| self.broken("a blob cannot be decrypted with the key of its message".to_owned()))?;
        Ok(File { name: shared.name, media_type: shared.media_type, bytes })
    }
}

/// Encrypts a file with a new key.
fn seal(bytes: &[u8]) -> ([u8; 32], Vec<u8>) {
    let mut key = [0; 32];
    SystemRandom::new().fill(&mut key).expect("the operating system has random bits");
    let mut sealed = Vec::with_capacity(bytes.len() + MAX_TAG_LEN);
    sealed.extend_from_slice(bytes);
    let sealing = cipher(&key).expect("the key has the right length");
    sealing.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).expect("a file is not too long");
    (key, sealed)
}

/// Decrypts a file. `None`: it is not what was encrypted with this key.
fn open(key: &[u8], mut sealed: Vec<u8>) -> Option<Vec<u8>> {
    let length = cipher(key)?.open_in_place(nonce(), Aad::empty(), &mut sealed).ok()?.len();
    sealed.truncate(length);
    Some(sealed)
}

fn cipher(key: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}
