// temporary, replaced by the real one
use crate::{
    clock::Clock,
    config::AuthConfig,
    error::{Code, Error},
    ids::Did,
    metrics::Metrics,
    store::Store,
};
pub struct Authenticator {
    config: AuthConfig,
    replay: Replay,
}
pub struct Verified {
    pub did: Did,
    jti: String,
}
pub struct Replay(Store);
#[derive(Debug, thiserror::Error)]
#[error("auth")]
pub struct AuthError;
impl Replay {
    pub async fn new(_r: Option<&str>, s: Store) -> Result<Self, AuthError> {
        Ok(Self(s))
    }
}
impl Authenticator {
    pub fn new(config: AuthConfig, _c: Clock, replay: Replay, _m: Metrics) -> Result<Self, AuthError> {
        Ok(Self { config, replay })
    }
    pub async fn verify(&self, a: Option<&str>, _nsid: &str) -> Result<Verified, Error> {
        let t = a.and_then(|a| a.strip_prefix("Bearer ")).ok_or_else(|| Code::AuthenticationRequired.because("x"))?;
        let mut v = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
        v.validate_aud = false;
        let c = jsonwebtoken::decode::<serde_json::Value>(
            t,
            &jsonwebtoken::DecodingKey::from_secret(self.config.jwt_secret.as_deref().unwrap_or("").as_bytes()),
            &v,
        )
        .map_err(|e| Code::InvalidToken.because(e.to_string()))?
        .claims;
        Ok(Verified {
            did: c["iss"].as_str().unwrap().parse().unwrap(),
            jti: c["jti"].as_str().unwrap_or("").to_owned(),
        })
    }
    pub async fn spend(&self, v: &Verified) -> Result<(), Error> {
        let now = chrono::Utc::now();
        match self.replay.0.spend_nonce(&v.did, &v.jti, now + chrono::TimeDelta::minutes(5), now).await? {
            true => Ok(()),
            false => Err(Code::TokenReplayed.because("x")),
        }
    }
}
pub fn service_document(c: &AuthConfig) -> serde_json::Value {
    serde_json::json!({"id": c.service_did})
}
pub fn mint(
    c: &AuthConfig,
    clock: &Clock,
    did: &Did,
    lxm: Option<&str>,
    t: std::time::Duration,
) -> Result<String, AuthError> {
    let now = clock.now().timestamp();
    Ok(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &serde_json::json!({"iss": did, "aud": c.service_did, "lxm": lxm, "iat": now, "exp": now + t.as_secs() as i64, "jti": ulid::Ulid::new().to_string()}), &jsonwebtoken::EncodingKey::from_secret(c.jwt_secret.as_deref().unwrap().as_bytes())).unwrap())
}
