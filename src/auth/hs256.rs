//! HMAC with SHA-256 for `jsonwebtoken`, which leaves the cryptography to its users: RFC 7518 section 3.2, and nothing
//! else.
//!
//! The provider that comes with that library brings RSA along, whose only pure implementation leaks its key by timing
//! (RUSTSEC-2023-0071) and which is not used here. Call [`install`] before signing or verifying with `jsonwebtoken`.

use std::sync::Once;

use hmac::{Hmac, Mac};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error as SignatureError, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use sha2::Sha256;

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

/// Installs this provider as the process's cryptography for `jsonwebtoken`. Further calls have no effect, and a
/// provider that was installed earlier stays.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        if PROVIDER.install_default().is_err() {
            tracing::debug!("another provider of signatures was installed before; it stays");
        }
    });
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => Ok(Box::new(Keyed::by(key.as_bytes()))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => Ok(Box::new(Keyed::by(key.try_get_as_bytes()?))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

/// HMAC state initialised with a secret.
struct Keyed(Hmac<Sha256>);

impl Keyed {
    fn by(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes keys of any length"))
    }
}

impl Signer<Vec<u8>> for Keyed {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, SignatureError> {
        Ok(self.0.clone().chain_update(message).finalize().into_bytes().to_vec())
    }
}

impl JwtSigner for Keyed {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Keyed {
    /// Compares in constant time.
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), SignatureError> {
        self.0.clone().chain_update(message).verify_slice(signature).map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for Keyed {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::crypto::{sign, verify};

    use super::*;

    /// The example of RFC 7515, appendix A.1.
    const SIGNED: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    const SIGNATURE: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const SECRET: &str = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";

    fn secret() -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(SECRET).unwrap()
    }

    #[test]
    fn it_signs_as_the_standard_says() {
        install();
        let key = EncodingKey::from_secret(&secret());
        assert_eq!(sign(SIGNED.as_bytes(), &key, Algorithm::HS256).unwrap(), SIGNATURE);
    }

    #[test]
    fn it_verifies_what_was_signed_and_nothing_else() {
        install();
        let key = DecodingKey::from_secret(&secret());
        let verifies =
            |message: &str, signature: &str, key| verify(signature, message.as_bytes(), key, Algorithm::HS256);
        assert!(verifies(SIGNED, SIGNATURE, &key).unwrap());
        let other = DecodingKey::from_secret(b"another");
        for (message, signature, key) in [
            (&SIGNED[1..], SIGNATURE, &key),
            (SIGNED, &SIGNATURE[..40], &key),
            (SIGNED, "", &key),
            (SIGNED, SIGNATURE, &other),
        ] {
            assert!(!verifies(message, signature, key).unwrap());
        }
        for algorithm in [Algorithm::HS384, Algorithm::RS256, Algorithm::ES256] {
            assert!(verify(SIGNATURE, SIGNED.as_bytes(), &key, algorithm).is_err(), "{algorithm:?}");
        }
    }
}
