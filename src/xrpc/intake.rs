//! State of a request between the verification of its token and its decoded input: the use of the token, and the
//! charges for what arrives.

use std::future::Future;

use crate::app::App;
use crate::auth::Verified;
use crate::error::{Code, Error};
use crate::limits::{Admission, OpenTransfer, Transfer};
use crate::timing::{Stage, measure};

/// A request whose input is still arriving.
pub(super) struct Intake<'a> {
    app: &'a App,
    verified: &'a Verified,
    admission: Admission,
    /// True if the token was used, or its use was tried.
    spent: bool,
}

impl<'a> Intake<'a> {
    pub(super) fn new(app: &'a App, verified: &'a Verified, admission: Admission) -> Self {
        Self { app, verified, admission, spent: false }
    }

    /// Uses the token, unless this request has used it already. If it turns out to be used by another request, the
    /// caller is not charged, because the sender of this one may be a thief.
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

    /// Admits a large body: it uses the token, then waits for a slot of the caller.
    pub(super) async fn large(&mut self) -> Result<(), Error> {
        self.consume().await?;
        self.admission.large_body().await
    }

    /// Admits an upload: it uses the token, because the upload occupies a place of its caller while it arrives, then takes that place.
    /// Returns the place, and the admission that paces the bytes.
    pub(super) async fn upload(mut self) -> Result<(OpenTransfer, Admission), Error> {
        self.consume().await?;
        let open = self.app.limits.begin(Transfer::Upload, &self.verified.did)?;
        self.admission.upload();
        Ok((open, self.admission))
    }

    /// Charges the bytes that have arrived so far. Returns when more may be read, which a large body may have to wait
    /// for.
    pub(super) async fn received(&mut self, bytes: usize) {
        self.admission.received(bytes).await;
    }

    /// Ends a request that was refused before its token had to be used. The caller is charged, unless the token turns
    /// out to be used already, so another may have sent it. The answer to that is not awaited by the request.
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
