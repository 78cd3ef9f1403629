//! Clients that more than one scenario uses.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::json;

use crate::support::generator::{Client, Reply, Verdict};
use crate::support::http::Request;
use crate::support::mix::Dice;
use crate::support::mls::{self, Content};
use crate::support::seed::{Convo, Convos};
use crate::support::tokens::Minter;

/// Sends messages to random conversations of its own, from random members.
pub struct Sender {
    convos: Convos,
    /// A message for each conversation. It is sent repeatedly, with new tokens.
    requests: Arc<[Request]>,
    minter: Minter,
    dice: Dice,
}

impl Sender {
    /// Returns this many senders on the same conversations, which are at epoch 0.
    pub fn several(count: u32, convos: &Convos) -> Vec<Box<dyn Client>> {
        let requests: Arc<[Request]> = convos.iter().map(message).collect();
        let sender = |_| -> Box<dyn Client> {
            let (convos, requests) = (convos.clone(), requests.clone());
            Box::new(Self { convos, requests, minter: Minter::new(), dice: Dice::new() })
        };
        (0..count).map(sender).collect()
    }
}

fn message(convo: &Convo) -> Request {
    let ciphertext = mls::private_message(&convo.group_id, 0, Content::Application);
    Request::procedure(
        "sendMessage",
        &json!({"convoId": convo.id, "ciphertext": {"$bytes": STANDARD_NO_PAD.encode(ciphertext)}, "epoch": 0}),
    )
}

impl Client for Sender {
    fn ask(&mut self, request: &mut Vec<u8>) {
        let convo = self.dice.throw(self.convos.len());
        let members = &self.convos[convo].members;
        let sender = &members[self.dice.throw(members.len())];
        self.requests[convo].render(&mut self.minter, sender, request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        reply.must_be_ok()
    }
}
