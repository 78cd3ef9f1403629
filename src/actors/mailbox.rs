//! What an actor is asked to do: any command, with a way to answer, and a time after which nobody waits any more.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Instrument;

use crate::error::Error;
use crate::serializer::sharing::{Sending, waited_too_long};
use crate::store::Command;
use crate::timing::Timings;

use super::conversation::Conversation;

/// How long a message may wait in a mailbox before it is answered with `Overloaded` and never begun.
pub const LONGEST_WAIT: Duration = Duration::from_secs(6);

/// What lies in a mailbox.
pub(super) enum Letter {
    /// An application message, which shares a transaction with those behind it.
    Send(Sending),
    /// Anything else.
    Message(Box<dyn Message>),
}

/// One message. Running it consumes it, so it is answered once.
pub(super) trait Message: Send {
    /// The label in the metrics.
    fn name(&self) -> &'static str;
    fn run<'a>(self: Box<Self>, actor: &'a mut Conversation) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

/// A command on its way to its conversation's actor.
pub(super) struct Run<C: Command> {
    command: Arc<C>,
    reply: oneshot::Sender<Result<C::Output, Error>>,
    sent: Instant,
    span: tracing::Span,
    timings: Timings,
}

impl<C: Command> Run<C> {
    pub(super) fn new(command: C) -> (Self, oneshot::Receiver<Result<C::Output, Error>>) {
        let (reply, answer) = oneshot::channel();
        let (span, timings) = (tracing::Span::current(), Timings::current());
        (Self { command: Arc::new(command), reply, sent: Instant::now(), span, timings }, answer)
    }
}

impl<C: Command> Message for Run<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn run<'a>(self: Box<Self>, actor: &'a mut Conversation) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        let (span, timings) = (self.span.clone(), self.timings.clone());
        let work = async move {
            let result = match self.sent.elapsed() > LONGEST_WAIT {
                true => Err(waited_too_long()),
                false => actor.execute(self.command).await,
            };
            // The client may be gone; what was done stays done.
            let _ = self.reply.send(result);
        };
        Box::pin(timings.scope(work).instrument(span))
    }
}
