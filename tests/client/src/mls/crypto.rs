//! Cryptography of openmls' own provider, with all suites that it has the parts for: it reports some as unsupported,
//! such as X-Wing with ChaCha20-Poly1305 and P-384, although nothing is missing.

use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::types::{
    AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeCiphertext, HpkeConfig, HpkeKeyPair, KemOutput,
    SignatureScheme,
};
use tls_codec::SecretVLBytes;

#[derive(Default)]
pub struct Crypto(pub RustCrypto);

type Made<T> = Result<T, CryptoError>;

macro_rules! theirs {
    ($($name:ident ($($argument:ident: $type:ty),*) -> $answer:ty;)+) => {$(
        fn $name(&self, $($argument: $type),*) -> Made<$answer> {
            self.0.$name($($argument),*)
        }
    )+};
}

impl OpenMlsCrypto for Crypto {
    fn supports(&self, _: Ciphersuite) -> Made<()> {
        Ok(())
    }

    fn supported_ciphersuites(&self) -> Vec<Ciphersuite> {
        self.0.supported_ciphersuites()
    }

    theirs! {
        hkdf_extract(hash: HashType, salt: &[u8], ikm: &[u8]) -> SecretVLBytes;
        hmac(hash: HashType, key: &[u8], message: &[u8]) -> SecretVLBytes;
        hkdf_expand(hash: HashType, prk: &[u8], info: &[u8], length: usize) -> SecretVLBytes;
        hash(hash: HashType, data: &[u8]) -> Vec<u8>;
        aead_encrypt(alg: AeadType, key: &[u8], data: &[u8], nonce: &[u8], aad: &[u8]) -> Vec<u8>;
        aead_decrypt(alg: AeadType, key: &[u8], data: &[u8], nonce: &[u8], aad: &[u8]) -> Vec<u8>;
        signature_key_gen(alg: SignatureScheme) -> (Vec<u8>, Vec<u8>);
        verify_signature(alg: SignatureScheme, data: &[u8], key: &[u8], signature: &[u8]) -> ();
        sign(alg: SignatureScheme, data: &[u8], key: &[u8]) -> Vec<u8>;
        hpke_seal(config: HpkeConfig, key: &[u8], info: &[u8], aad: &[u8], text: &[u8]) -> HpkeCiphertext;
        hpke_open(config: HpkeConfig, input: &HpkeCiphertext, key: &[u8], info: &[u8], aad: &[u8]) -> Vec<u8>;
        hpke_setup_sender_and_export(config: HpkeConfig, key: &[u8], info: &[u8], context: &[u8], length: usize)
            -> (KemOutput, ExporterSecret);
        hpke_setup_receiver_and_export(
            config: HpkeConfig, enc: &[u8], key: &[u8], info: &[u8], context: &[u8], length: usize) -> ExporterSecret;
        derive_hpke_keypair(config: HpkeConfig, ikm: &[u8]) -> HpkeKeyPair;
    }
}
