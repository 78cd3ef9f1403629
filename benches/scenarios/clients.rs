//! Clients that more than one scenario uses.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use catbird_bench_report::results::Who;
use serde_json::json;

use crate::support::Result;
use crate::support::bench::Bench;
use crate::support::generator::{Client, Reply, Verdict};
use crate::support::http::Request;
use crate::support::mix::Dice;
use crate::support::mls::{self, Content};
use crate::support::seed::{Convo, Convos};
use crate::support::tokens::{Minter, Signing};

/// Number of connections that introduce senders.
const INTRODUCING: u32 = 32;

/// Sends messages to random conversations of its own, from random members of those that send.
pub struct Sender {
    convos: Convos,
    /// Maximum number of members of a conversation that send.
    senders: usize,
    /// A message for each conversation. It is sent repeatedly, with new tokens.
    requests: Arc<[Request]>,
    minter: Minter,
    dice: Dice,
}

impl Sender {
    /// Returns this many senders on the same conversations, which are at epoch 0. One member of each conversation sends.
    pub fn several(count: u32, convos: &Convos) -> Vec<Box<dyn Client>> {
        Self::of_some(count, convos, 1)
    }

    /// Lets the server of a mode answer each of these senders for the first time, which takes lookups of its key and of its
    /// membership. The callers of a running replica are known to it.
    pub async fn introduce(bench: &mut Bench, who: Who, convos: &Convos) -> Result<()> {
        bench.load(who, Self::several(INTRODUCING, convos)).await.map(drop)
    }

    /// The same as [`Sender::several`], from this many members of each conversation.
    pub fn of_some(count: u32, convos: &Convos, senders: usize) -> Vec<Box<dyn Client>> {
        let requests: Arc<[Request]> = convos.iter().map(message).collect();
        let sender = |_| -> Box<dyn Client> {
            let (convos, requests) = (convos.clone(), requests.clone());
            Box::new(Self { convos, senders, requests, minter: Minter::new(), dice: Dice::new() })
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
        let sender = &members[self.dice.throw(members.len().min(self.senders))];
        self.requests[convo].render(&mut self.minter, sender, request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        reply.must_be_ok()
    }
}

/// Repeats the same request, each time as one of its callers.
#[derive(Clone)]
pub struct Reader {
    request: Request,
    callers: Arc<[String]>,
    /// Minimum size of a reply. A smaller one is not the requested data.
    least_bytes: usize,
    minter: Minter,
    dice: Dice,
}

impl Reader {
    pub fn new(request: Request, callers: &[String], least_bytes: usize) -> Self {
        Self { request, callers: callers.into(), least_bytes, minter: Minter::new(), dice: Dice::new() }
    }

    /// With other tokens than those of a PDS.
    pub fn signing(self, signing: Signing) -> Self {
        Self { minter: Minter::with(signing), ..self }
    }

    /// Returns this many clients with the same request.
    pub fn several(&self, count: u32) -> Vec<Box<dyn Client>> {
        (0..count).map(|_| -> Box<dyn Client> { Box::new(Self { dice: Dice::new(), ..self.clone() }) }).collect()
    }
}

impl Client for Reader {
    fn ask(&mut self, request: &mut Vec<u8>) {
        let caller = &self.callers[self.dice.throw(self.callers.len())];
        self.request.render(&mut self.minter, caller, request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        if reply.body.len() < self.least_bytes { Verdict::Failed } else { reply.must_be_ok() }
    }
}
