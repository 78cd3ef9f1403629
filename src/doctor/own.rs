//! Our own settings, without asking anybody.

use crate::config::{Config, UnsafeSetting};

use super::Diagnosis;

pub(super) fn examine(config: &Config) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    if let Err(refusal) = config.clone().to_serve() {
        found.push(Diagnosis::fatal(
            "configuration",
            "the server does not start with these settings",
            refusal.to_string().replace('\n', ""),
            "Correct the settings",
        ));
    }
    for UnsafeSetting { setting, consequence } in config.unsafe_settings() {
        let diagnosis = match config.is_for_development() {
            true => Diagnosis::weak,
            false => Diagnosis::fatal,
        };
        found.push(diagnosis(
            "unsafe_setting",
            setting,
            consequence,
            "Leave it out on a service that other machines reach",
        ));
    }
    if config.shows_operators_pages() {
        found.push(Diagnosis::weak(
            "operators_pages",
            "any client that reaches SERVER_HOST can read /metrics and /health",
            "P7: they show how much is written, and when",
            "Set ADMIN_PORT, which serves them at an address of their own",
        ));
    }
    if found.is_empty() {
        found.push(Diagnosis::ok("configuration", "the server's own settings are safe"));
    }
    found
}
