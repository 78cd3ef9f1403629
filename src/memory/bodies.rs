//! Memory of request bodies, from their first byte until the request is answered.

use crate::error::{Code, Error};
use crate::ids::Did;

use super::metrics::{Kind, MemoryMetrics};
use super::{Capacity, Full, MemoryBudget, Reservation};

/// Most bytes of all bodies together that are arriving or being processed.
pub(super) const BODIES: Capacity = Capacity { small: 64 * 1024 * 1024, large: 448 * 1024 * 1024 };
/// Most bodies of one caller that arrive at once.
pub const MAX_ARRIVING: usize = 256;

/// Memory that bodies share. Cheap to clone.
#[derive(Clone)]
pub struct BodyMemory {
    budget: MemoryBudget,
    metrics: MemoryMetrics,
}

impl BodyMemory {
    pub fn new(metrics: MemoryMetrics) -> Self {
        Self { budget: MemoryBudget::new(BODIES), metrics }
    }

    /// Returns an empty reservation for a body that is about to arrive.
    ///
    /// Errors: `RateLimitExceeded` if [`MAX_ARRIVING`] bodies of the caller are arriving.
    pub(crate) fn arriving(&self, caller: &Did) -> Result<Reservation, Error> {
        self.budget.arriving(caller, MAX_ARRIVING).map_err(|full| {
            self.metrics.full(Kind::Bodies, full);
            Code::RateLimitExceeded
                .because(format!("you are already sending {MAX_ARRIVING} request bodies; nothing was changed"))
        })
    }

    /// Grows the reservation of a body to `bytes`.
    ///
    /// Errors: `RateLimitExceeded` if the caller has its share, `Overloaded` if the budget is used up.
    pub(crate) fn grow(&self, reservation: &mut Reservation, bytes: usize) -> Result<(), Error> {
        reservation.grow_to(bytes).map_err(|full| {
            self.metrics.full(Kind::Bodies, full);
            match full {
                Full::Caller => Code::RateLimitExceeded
                    .because("your requests in progress are too large in total; nothing was changed"),
                Full::All => Code::Overloaded.because("too many large requests are in progress; nothing was changed"),
            }
        })
    }
}
