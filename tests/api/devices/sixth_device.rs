//! A person with five devices registers a sixth, which gets into all of its groups: into one half by its own external commits, into the other
//! by Welcomes of another device. Prints the number of requests and the seconds.
//!
//! `DEVICE_CONVOS` is the number of conversations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use catbird_client::mls::MlsClient;
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_testkit::app::TestApp;

use super::additions::pending;
use crate::harness::*;

any_serializer! {
    a_sixth_device_gets_into_all_groups_of_its_owner;
}

/// Conversations of a usual run.
const CONVOS: usize = 8;
const DEVICES: usize = 5;

#[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the server")]
fn convos() -> usize {
    std::env::var("DEVICE_CONVOS").map_or(CONVOS, |text| text.parse().expect("DEVICE_CONVOS is a whole number"))
}

/// A device's part in one conversation.
#[derive(Clone)]
struct Place {
    convo: String,
    group: Vec<u8>,
    last_seq: u64,
}

impl Place {
    fn of(device: &Persona) -> Self {
        Self { convo: convo(device), group: device.group_id.clone(), last_seq: device.last_seq }
    }

    fn take(&self, device: &mut Persona) {
        device.convo_id = Some(self.convo.clone());
        device.group_id.clone_from(&self.group);
        device.last_seq = self.last_seq;
    }
}

/// Requests by method.
#[derive(Clone, Default)]
struct Requests(Arc<Mutex<BTreeMap<String, usize>>>);

impl Requests {
    fn count(&self, device: &mut Persona) {
        let (counts, validate) = (self.0.clone(), device.xrpc.on_reply.clone());
        device.xrpc.on_reply = Some(Arc::new(move |nsid, reply| {
            *counts.lock().unwrap().entry(nsid.rsplit('.').next().unwrap_or_default().to_owned()).or_default() += 1;
            if let Some(validate) = &validate {
                validate(nsid, reply);
            }
        }));
    }
}

async fn new_device(owner: &Persona, n: usize, packages: usize) -> Persona {
    let mut device = owner.device(Box::new(MlsClient::new(format!("{}#{n}", owner.did()))));
    device.shares_group_info = true;
    device.register_device(&format!("device {n}"), packages).await.unwrap();
    device
}

async fn a_sixth_device_gets_into_all_groups_of_its_owner(app: &TestApp) {
    let (count, owner, friend) = (convos(), app.persona(), app.persona());
    friend.publish_last_resort().await.unwrap();
    let mut devices = Vec::new();
    for n in 0..DEVICES {
        devices.push(new_device(&owner, n, count).await);
    }
    let (mut places, (first, others)) = (Vec::new(), devices.split_first_mut().unwrap());
    for n in 0..count {
        first.create(random_did().as_bytes(), &format!("conversation {n}")).await.unwrap();
        first.replace(&[], &[owner.did(), friend.did()]).await.unwrap();
        for other in &mut *others {
            other.join(&convo(first)).await.unwrap();
            assert_eq!(other.epoch_authenticator().unwrap(), first.epoch_authenticator().unwrap());
        }
        places.push(Place::of(first));
    }

    let requests = Requests::default();
    let mut sixth = owner.device(Box::new(MlsClient::new(format!("{}#sixth", owner.did()))));
    sixth.shares_group_info = true;
    requests.count(&mut sixth);
    requests.count(first);
    let (alone, with_help) = places.split_at(count / 2);
    let start = Instant::now();
    let (id, _) = sixth.register_device("sixth", with_help.len()).await.unwrap();
    let registered = start.elapsed();
    for place in alone {
        sixth.enter(&place.convo).await.unwrap();
    }
    let entered = start.elapsed();
    let additions = pending(first).await;
    assert_eq!(additions.len(), with_help.len().min(50), "those that it has entered by itself are completed");
    for place in with_help {
        place.take(first);
        for addition in first.pending_devices().await.unwrap() {
            first.add_pending_device(&addition).await.unwrap().unwrap();
        }
        sixth.join(&place.convo).await.unwrap();
        assert_eq!(sixth.epoch_authenticator().unwrap(), first.epoch_authenticator().unwrap());
    }
    let joined = start.elapsed();
    let asked = requests.0.lock().unwrap().clone();
    println!(
        "A sixth device in {count} conversations: registered in {:.2} s, {} groups entered by external commit in {:.2} s, \
         {} by another device's Welcome in {:.2} s. {} requests:",
        registered.as_secs_f64(),
        alone.len(),
        (entered - registered).as_secs_f64(),
        with_help.len(),
        (joined - entered).as_secs_f64(),
        asked.values().sum::<usize>(),
    );
    asked.iter().for_each(|(method, count)| println!("{count:6} {method}"));
    assert!(asked.values().sum::<usize>() <= 2 + 2 * alone.len() + 6 * with_help.len(), "{asked:?}");

    let state = ok(get(&owner, "validateDeviceState", &[("deviceId", &*id)]).await);
    assert_eq!(state.number("expectedConvos").unwrap(), count as u64);
    assert_eq!(state.number("actualConvos").unwrap(), count as u64);
    let groups = ok(get(&owner, "getExpectedConversations", &[("deviceId", &*id), ("limit", "100")]).await);
    let groups = groups.list("conversations").unwrap().to_vec();
    assert!(groups.len() == count.min(100) && groups.iter().all(|one| one["deviceInGroup"] == true), "{groups:?}");
    // The groups that it has entered alone go on.
    for place in alone {
        place.take(first);
        first.catch_up().await.unwrap();
        first.send("welcome").await.unwrap();
        place.take(&mut sixth);
        assert_eq!(sixth.catch_up().await.unwrap(), ["welcome"]);
    }
}
