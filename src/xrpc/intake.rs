//! A request between its token's check and its input: when the token is spent, and what is charged for what comes.

use std::future::Future;

use crate::app::App;
use crate::auth::Verified;
use crate::error::{Code, Error};
use crate::limits::Admission;
use crate::timing::{Stage, measure};

/// See the module.
pub(super) struct Intake<'a> {
    app: &'a App,
    verified: &'a Verified,
    admission: Admission,
    /// Whether it was tried to spend the token.
    spent: bool,
}

impl<'a> Intake<'a> {
    pub(super) fn new(app: &'a App, verified: &'a Verified, admission: Admission) -> Self {
        Self { app, verified, admission, spent: false }
    }

    /// Spends the token, if it is not spent yet. Somebody may repeat a token that its owner has used, and then the owner is not charged.
    pub(super) async fn consume(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.spent, true) {
            return Ok(());
        }
        let spent = measure(Stage::Spend, self.app.authenticator.consume(self.verified)).await;
        if spent.as_ref().is_err_and(|error| error.code == Code::TokenReplayed) {
            self.admission.refund();
        }
        spent
    }

    /// The body turns out to be large. It needs one of its caller's turns, and for that its token is spent.
    pub(super) async fn large(&mut self) -> Result<(), Error> {
        self.consume().await?;
        self.admission.upload().await
    }

    /// So many bytes of the body have come. Returns when more of it may, which a large one may have to wait for.
    pub(super) async fn received(&mut self, bytes: usize) {
        self.admission.received(bytes);
        self.admission.pace().await;
    }

    /// It ends before the token had to be spent. The caller is charged, unless somebody else has sent it with a used token; nothing waits
    /// for the answer to that.
    pub(super) fn refused(self) -> impl Future<Output = ()> + use<> {
        let asking = (!self.spent).then(|| self.app.authenticator.is_used(self.verified));
        let mut admission = self.admission;
        async move {
            if let Some(asking) = asking
                && asking.await
            {
                admission.refund();
            }
        }
    }
}
