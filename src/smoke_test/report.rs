//! Output of the smoke test: one line per step, and all details of a failed step.

use std::error::Error;
use std::fmt;
use std::time::Instant;

use catbird_client::persona::PersonaError;
use catbird_client::xrpc::XrpcError;

/// A failed step.
pub struct Failure {
    step: String,
    expected: String,
    got: Box<dyn Error>,
    check: String,
}

impl Failure {
    pub fn new(step: &str, expected: &str, got: impl Into<Box<dyn Error>>, check: &str) -> Self {
        Self { step: step.to_owned(), expected: expected.to_owned(), got: got.into(), check: check.to_owned() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "FAILED    {}", self.step)?;
        writeln!(f, "expected  {}", self.expected)?;
        writeln!(f, "got       {}", self.got)?;
        write!(f, "check     {}", self.check)?;
        if let Some(hint) = hint(self.got.as_ref()) {
            write!(f, "\n          {hint}")?;
        }
        Ok(())
    }
}

/// Runs one step and prints its time.
pub async fn step<T>(
    what: &str,
    expected: &str,
    check: &str,
    work: impl Future<Output = Result<T, Box<dyn Error>>>,
) -> Result<T, Failure> {
    let start = Instant::now();
    let done = work.await.map_err(|got| Failure::new(what, expected, got, check))?;
    println!("ok {:>6} ms  {what}", start.elapsed().as_millis());
    Ok(done)
}

/// Fails the step if a value differs from the expected one.
pub fn equal<T: PartialEq + fmt::Debug>(what: &str, got: T, due: T) -> Result<(), Box<dyn Error>> {
    if got == due { Ok(()) } else { Err(format!("{what}: {got:?} instead of {due:?}").into()) }
}

/// Returns the usual cause of a failure.
fn hint(got: &(dyn Error + 'static)) -> Option<&'static str> {
    let persona = got.downcast_ref::<PersonaError>();
    if let Some(reply) = persona.and_then(PersonaError::reply) {
        return match reply.status {
            401 => Some("JWT_SECRET and SERVICE_DID have to be the server's; the clocks may differ by seconds only"),
            404 => Some("is this the server's address, without a path?"),
            429 | 503 => Some("the server is overloaded or not ready: see /health/ready and its log"),
            500..=599 => Some("the server's log has the reason, under the time of this run"),
            _ => None,
        };
    }
    let xrpc = match persona {
        Some(PersonaError::Xrpc(error)) => Some(error),
        _ => got.downcast_ref::<XrpcError>(),
    };
    match (persona, xrpc) {
        (_, Some(XrpcError::NoAnswer { .. })) => Some("is the server running there? see /health/live"),
        (_, Some(XrpcError::Malformed { .. })) => Some("server and smoke test have to be of one version"),
        (Some(PersonaError::Broken { .. }), _) => {
            Some("a promise is broken, not a setting: run the server's `check` subcommand on the database")
        }
        _ => None,
    }
}
