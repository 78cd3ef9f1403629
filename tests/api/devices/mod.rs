//! Devices of a person, with real keys.

use catbird_client::mls::MlsClient;
use catbird_client::persona::Persona;
use catbird_client::xrpc::{Reply, base64_text, bytes_value};
use serde_json::{Value, json};

use crate::harness::*;

mod additions;
mod claims;
mod delete_device;
mod list_devices;
mod register_device;
mod sixth_device;
mod validate_device_state;
mod welcomes;

/// A device of a persona: keys of its own, and the id that the server gave it.
pub struct Device {
    pub mls: MlsClient,
    pub id: String,
}

impl Device {
    /// Creates a device with fresh keys, which is not registered yet. Its credential names it by `name`.
    pub fn new(owner: &Persona, name: &str) -> Self {
        Self { mls: MlsClient::new(format!("{}#{name}", owner.did())), id: String::new() }
    }

    /// Creates and registers a device with some key packages.
    pub async fn registered(owner: &Persona, name: &str, packages: usize) -> Self {
        let mut device = Self::new(owner, name);
        let body = device.registration(name, packages);
        device.id = ok(ask(owner, "registerDevice", &body).await).string("deviceId").unwrap().to_owned();
        device
    }

    /// Returns the body of a registration with new key packages.
    pub fn registration(&self, name: &str, packages: usize) -> Value {
        let packages: Vec<_> = (0..packages).map(|_| self.mls.key_package().unwrap()).collect();
        self.registration_with(name, &packages)
    }

    pub fn registration_with(&self, name: &str, packages: &[Vec<u8>]) -> Value {
        let item =
            |package: &Vec<u8>| json!({ "keyPackage": base64_text(package), "cipherSuite": self.mls.suite_name() });
        json!({
            "deviceName": name,
            "keyPackages": packages.iter().map(item).collect::<Vec<_>>(),
            "signaturePublicKey": bytes_value(self.mls.signature_key()),
        })
    }
}

/// Returns the devices of a person as listDevices shows them.
pub async fn devices(owner: &Persona) -> Vec<Value> {
    let reply: Reply = ok(get(owner, "listDevices", &[]).await);
    reply.list("devices").unwrap().to_vec()
}
