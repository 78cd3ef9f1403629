//! Members that send messages while others race, and join the group of a reset by the Welcome for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catbird_client::persona::{Persona, PersonaError};

/// Pause of a talker after each message.
const PAUSE: Duration = Duration::from_millis(20);

/// Sends messages until the race is over, and reads the log to its end then.
pub async fn talk(mut talker: Persona, over: Arc<AtomicBool>) -> Persona {
    loop {
        let is_last = over.load(Ordering::SeqCst);
        say(&mut talker).await;
        if is_last {
            talker.catch_up().await.unwrap();
            return talker;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sends a message. If the conversation has another group by now, the talker joins that by its Welcome, which comes a little later.
async fn say(talker: &mut Persona) {
    let convo = talker.convo().unwrap().to_owned();
    loop {
        match talker.send("hello").await {
            Ok(_) => return,
            Err(PersonaError::Refused { reply, .. }) if reply.error() == Some("StaleGeneration") => {}
            Err(other) => panic!("{other}"),
        }
        tokio::time::sleep(PAUSE).await;
        match talker.join(&convo).await {
            Ok(()) => {}
            Err(PersonaError::Refused { reply, .. })
                if matches!(reply.error(), Some("WelcomeNotFound" | "WelcomeConsumed")) => {}
            Err(other) => panic!("{other}"),
        }
    }
}
