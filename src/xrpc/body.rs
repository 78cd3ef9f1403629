//! Reading of a request's body, at the pace and in the memory that its caller may have.

use std::time::Duration;

use actix_web::web::Payload;
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::error::{Code, Error};
use crate::ids::Did;
use crate::memory::{BodyMemory, LARGE, Reservation, SMALL_BYTES};
use crate::timing::{MIN_RATE, time_for, wait_for_client};

use super::intake::Intake;

/// Most bytes of a body: a commit and a Welcome of 7 MiB each in base64, and the JSON around them.
pub const MAX_BODY_BYTES: usize = 20 * 1024 * 1024;
/// Time that a body may take beyond what it needs at [`MIN_RATE`].
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// A body with its reservation of memory.
pub(super) struct Body {
    /// Blocks of [`LARGE`] bytes, and a rest. Joining them touches as much new memory, which takes the kernel milliseconds. So the
    /// decoder does it, which runs as large work.
    blocks: Vec<Vec<u8>>,
    reservation: Reservation,
}

impl Body {
    pub(super) fn is_large(&self) -> bool {
        self.blocks.len() > 1
    }

    /// Returns the body in one piece, and its reservation.
    pub(super) fn into_parts(mut self) -> (Vec<u8>, Reservation) {
        if !self.is_large() {
            return (self.blocks.pop().unwrap_or_default(), self.reservation);
        }
        let mut bytes = Vec::with_capacity(self.blocks.iter().map(Vec::len).sum());
        self.blocks.into_iter().for_each(|block| bytes.extend_from_slice(&block));
        (bytes, self.reservation)
    }
}

/// Reads the body of a caller's request and reserves memory for it as it arrives. A body of more than [`LARGE`] bytes waits for a slot of
/// its caller: when it exceeds that size, or before its first byte if it is announced to.
///
/// Errors: `PayloadTooLarge`; `InvalidRequest` for a body that is too slow, incomplete or longer than announced; and those of
/// [`BodyMemory`] and [`Intake::large`].
pub(super) async fn read(
    memory: &BodyMemory,
    caller: &Did,
    announced: Option<usize>,
    mut payload: Payload,
    intake: &mut Intake<'_>,
) -> Result<Body, Error> {
    let too_large = || Code::PayloadTooLarge.because(format!("the body has more than {MAX_BODY_BYTES} bytes"));
    let most = announced.unwrap_or(MAX_BODY_BYTES);
    if most > MAX_BODY_BYTES {
        return Err(too_large());
    }
    let mut is_large = announced.is_some_and(|bytes| bytes > LARGE);
    if is_large {
        intake.large().await?;
    }
    let mut reservation = memory.arriving(caller)?;
    let (mut blocks, mut arrived, mut reserved) = (vec![Vec::new()], 0, 0);
    let mut begun = Instant::now();
    loop {
        let deadline = begun + GRACE + time_for(arrived as u64);
        let chunk = wait_for_client(tokio::time::timeout_at(deadline, payload.next())).await.map_err(|_| too_slow())?;
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(incomplete)?;
        let length = arrived + chunk.len();
        if length > MAX_BODY_BYTES {
            return Err(too_large());
        }
        if length > most {
            return Err(Code::InvalidRequest.because("the body is longer than its Content-Length"));
        }
        let waiting = Instant::now();
        if length > LARGE && !is_large {
            is_large = true;
            intake.large().await?;
        }
        // The client is still sending, so this is its time, not the server's.
        wait_for_client(intake.received(length)).await;
        // The client's deadline moves by the time that the server made it wait.
        begun += waiting.elapsed();
        if length > reserved {
            // An announced length may never arrive, so it reserves nothing beyond the first bytes.
            reserved = length.next_power_of_two().max(SMALL_BYTES).min(most);
            memory.grow(&mut reservation, reserved)?;
        }
        append(&mut blocks, &chunk);
        arrived = length;
    }
    reservation.arrived();
    Ok(Body { blocks, reservation })
}

pub(super) fn too_slow() -> Error {
    Code::InvalidRequest.because(format!("the body arrived more slowly than {} KiB per second", MIN_RATE / 1024))
}

pub(super) fn incomplete(why: impl std::fmt::Display) -> Error {
    Code::InvalidRequest.because(format!("the body is incomplete: {why}"))
}

/// Appends bytes to blocks, of which all but the last one are full.
fn append(blocks: &mut Vec<Vec<u8>>, mut bytes: &[u8]) {
    while let Some(block) = blocks.last_mut().filter(|_| !bytes.is_empty()) {
        let (part, rest) = bytes.split_at(bytes.len().min(LARGE - block.len()));
        block.extend_from_slice(part);
        bytes = rest;
        if !rest.is_empty() {
            blocks.push(Vec::with_capacity(LARGE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryMetrics;
    use crate::metrics::Registry;

    #[test]
    fn a_body_is_complete_however_it_is_split() {
        let bytes: Vec<u8> = (0..2 * LARGE + 5).map(|n| (n % 251) as u8).collect();
        let memory = BodyMemory::new(MemoryMetrics::register(&mut Registry::default()));
        for (length, large) in [(0, false), (1, false), (LARGE, false), (LARGE + 1, true), (2 * LARGE + 5, true)] {
            for size in [1_000, LARGE - 1, LARGE, 3 * LARGE] {
                let mut blocks = vec![Vec::new()];
                bytes[..length].chunks(size).for_each(|chunk| append(&mut blocks, chunk));
                let reservation = memory.arriving(&"did:plc:a".parse().unwrap()).unwrap();
                let body = Body { blocks, reservation };
                assert_eq!(body.is_large(), large, "{length} bytes in pieces of {size}");
                assert!(body.into_parts().0 == bytes[..length], "{length} bytes in pieces of {size}");
            }
        }
    }

    #[test]
    fn ten_megabytes_at_half_a_megabit_per_second_are_in_time() {
        let bytes = 14 * 1024 * 1024;
        let taken = Duration::from_secs_f64(bytes as f64 * 8.0 / 500_000.0);
        assert!(taken < GRACE + time_for(bytes as u64), "{taken:?}");
    }
}
