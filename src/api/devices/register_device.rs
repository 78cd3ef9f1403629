//! registerDevice: the caller registers one of its devices, with key packages for others to claim.

use serde::{Deserialize, Serialize};

use crate::api::fields::{self, Key};
use crate::api::key_package::Offered;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{self, Fingerprint, Idempotency, MAX_AVAILABLE};
use crate::error::{Code, Error};
use crate::mls::is_signature_key;
use crate::quotas::Charge;
use crate::store::device_announcements::Announced;
use crate::store::devices::NewDevice;
use crate::xrpc::{Caller, Endpoint, Kind};

/// Maximum number of key packages in one request: as many as one device may have.
const MAX_KEY_PACKAGES: usize = MAX_AVAILABLE as usize;
/// Maximum length of a name, in bytes.
const MAX_NAME_BYTES: usize = 100;
/// Maximum length of a device UUID, in bytes.
const MAX_UUID_BYTES: usize = 64;

pub struct RegisterDevice;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "device_name")]
    device_name: String,
    #[serde(rename = "deviceUUID", alias = "device_uuid")]
    device_uuid: Option<String>,
    #[serde(alias = "key_packages", deserialize_with = "fields::list::<_, _, MAX_KEY_PACKAGES>")]
    key_packages: Vec<Offered>,
    #[serde(alias = "signature_public_key")]
    signature_public_key: LexBytes,
    #[serde(alias = "idempotency_key")]
    idempotency_key: Option<Key>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    device_id: String,
    mls_did: String,
    /// Always empty: only a commit brings a device into a group.
    auto_joined_convos: [String; 0],
}

impl Endpoint for RegisterDevice {
    const LEXICON: &'static str = include_str!("register_device.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[
        Code::InvalidKeyPackage,
        Code::InvalidCipherSuite,
        Code::ExpirationTooFar,
        Code::TooManyDevices,
        Code::DeviceAlreadyRegistered,
        Code::IdempotencyConflict,
    ];

    type Input = Input;
    type Output = Output;

    fn requests(input: &Input) -> usize {
        input.key_packages.len()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let name = required(input.device_name.trim(), MAX_NAME_BYTES, "deviceName")?;
        let uuid = input.device_uuid.map(|uuid| required(&uuid, MAX_UUID_BYTES, "deviceUUID")).transpose()?;
        let LexBytes(signature_key) = input.signature_public_key;
        if !is_signature_key(&signature_key) {
            return Err(Code::InvalidRequest.because("signaturePublicKey must have the length of a suite's key"));
        }
        if !(1..=MAX_KEY_PACKAGES).contains(&input.key_packages.len()) {
            let message = format!("keyPackages must have 1 to {MAX_KEY_PACKAGES} elements");
            return Err(Code::InvalidRequest.because(message));
        }
        let (owner, items) = (caller.did.clone(), input.key_packages);
        let fingerprint = Fingerprint::default().text(Some(&name)).text(uuid.as_deref()).field(Some(&signature_key));
        let fingerprint =
            items.iter().fold(fingerprint.number(Some(items.len() as i64)), |print, item| item.add_to(print));
        let bytes = items.iter().map(|item| item.key_package.0.len()).sum::<usize>() + signature_key.len() + name.len();
        let rows = 1 + items.len();
        let check = {
            let (app, owner, signature_key) = (app.clone(), owner.clone(), signature_key.clone());
            move || {
                let check = |(index, item): (usize, Offered)| {
                    let package =
                        item.check(&app, &owner).and_then(|package| match package.signature_key == signature_key {
                            true => Ok(package),
                            false => Err(Code::InvalidKeyPackage.because("it is not signed by signaturePublicKey")),
                        });
                    package.map_err(|refusal| commands::refuse_package(index, refusal))
                };
                items.into_iter().enumerate().map(check).collect::<Result<Vec<_>, _>>()
            }
        };
        let packages = app.large_work.run(check).await?;
        let key = input.idempotency_key.map(|key| key.0);
        // Without a key, no earlier request can replace the refusal.
        if key.is_none()
            && let Err(refusal) = packages
        {
            return Err(refusal);
        }
        let idempotency = Idempotency::new(owner.clone(), RegisterDevice::METHOD, key, fingerprint);
        let held = app.quotas.reserve(vec![Charge::stored(&owner, bytes, rows)]);
        let device = NewDevice { owner, id: app.new_id(), uuid, name, signature_key };
        let command = commands::RegisterDevice {
            device,
            packages,
            max_devices: app.config.max_devices,
            now: app.clock.now(),
            idempotency,
        };
        let registered =
            app.quotas.run_reserved(held, command, async |command| app.store.transact(command).await).await?;
        announce(app, caller, registered.device_id.clone()).await;
        let mls_did = format!("{}#{}", caller.did, registered.device_id);
        Ok(Output { device_id: registered.device_id, mls_did, auto_joined_convos: [] })
    }
}

/// Tells the members of the owner's conversations of a device that was registered or deleted. A job continues what fails here.
pub(super) async fn announce(app: &App, owner: &Caller, device_id: String) {
    let device = Announced { owner: owner.did.to_string(), device_id };
    if let Err(error) = app.store.announce_device(device, || app.new_id()).await {
        tracing::warn!(%error, "members are told of a device later");
    }
}

/// Checks a text that must not be empty.
fn required(text: &str, most: usize, what: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Err(Code::InvalidRequest.because(format!("{what} must not be empty")));
    }
    fields::text(Some(text.to_owned()), most, Code::InvalidRequest, what).map(Option::unwrap_or_default)
}
