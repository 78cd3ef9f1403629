//! The subcommands of `catbird-server admin`, and what they print.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::export::Destination;
use super::{Admin, AdminError};
use crate::config::Config;
use crate::ids::{ConvoId, Did};
use crate::store::erasure::Tally;
use crate::suspensions::POLL_INTERVAL;

/// Maximum length of a reason in bytes, as the tables have it.
const MAX_REASON: usize = 1_000;

/// A command of an operator.
#[derive(Debug, clap::Subcommand)]
pub enum AdminCommand {
    /// Print what is stored of a conversation: members, positions, numbers and sizes, without content
    Convo {
        /// Id of the conversation, or its present or an earlier group id
        id: ConvoId,
        #[command(flatten)]
        why: Why,
    },
    /// Print what is stored of a person: devices, key packages, conversations and numbers, without content
    Person {
        did: Did,
        #[command(flatten)]
        why: Why,
    },
    /// Write the log of a conversation as lines of JSON, each an entry as getMessages returns it; messages stay encrypted
    Export {
        /// Id of the conversation, or its present or an earlier group id
        id: ConvoId,
        /// File to create, readable for its owner only; without it, standard output
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        why: Why,
    },
    /// Suspend DIDs: they can only read, and their streams end; every replica enforces it within two seconds
    Suspend {
        #[arg(value_name = "DID", required = true)]
        dids: Vec<Did>,
        #[command(flatten)]
        change: Change,
    },
    /// Lift the suspension of DIDs
    Release {
        #[arg(value_name = "DID", required = true)]
        dids: Vec<Did>,
        #[command(flatten)]
        change: Change,
    },
    /// List the suspended DIDs, since when and why
    Suspensions,
    /// Remove a person from all conversations and delete what is stored of it, except its entries in the logs of others
    Erase {
        did: Did,
        #[command(flatten)]
        change: Change,
    },
    /// End a conversation, tell its members, and delete its content
    Delete {
        /// Id of the conversation, or its present or an earlier group id
        id: ConvoId,
        #[command(flatten)]
        change: Change,
    },
    /// Print the names of DIDs in the log
    Name {
        #[arg(value_name = "DID", required = true)]
        dids: Vec<Did>,
    },
    /// Print the DID with this name in the log
    Who {
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// List what operators did and read with these commands, the latest first
    Audit {
        /// Only runs about this DID or conversation id
        #[arg(long)]
        target: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub struct Why {
    /// Reason, for the record (admin audit)
    #[arg(long, value_parser = reason)]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub struct Change {
    #[command(flatten)]
    why: Why,
    /// Print the numbers of what would be changed; change and record nothing
    #[arg(long)]
    dry_run: bool,
}

fn reason(text: &str) -> Result<String, String> {
    match text.len() {
        1..=MAX_REASON => Ok(text.to_owned()),
        _ => Err(format!("a reason has 1 to {MAX_REASON} bytes")),
    }
}

impl AdminCommand {
    /// Runs the command and prints its result.
    pub async fn run(self, config: &Config, database: &tokio_postgres::Config) -> Result<(), AdminError> {
        let admin = Admin::connect(config, database).await?;
        match self {
            Self::Convo { id, why } => {
                let convo = admin.convo(&id).await?;
                let mut view = Value::Null;
                let look = async || admin.look_up_convo(&convo, &mut view).await;
                admin.recorded("convo", convo.as_str(), &why.reason, look).await?;
                println!("{view:#}");
            }
            Self::Person { did, why } => {
                let mut view = Value::Null;
                let look = async || admin.look_up_person(&did, &mut view).await;
                admin.recorded("person", did.as_str(), &why.reason, look).await?;
                println!("{view:#}");
            }
            Self::Export { id, file, why } => {
                let convo = admin.convo(&id).await?;
                let to = Destination::open(file.as_deref())?;
                let export = async || admin.export(&convo, to).await;
                let counts = admin.recorded("export", convo.as_str(), &why.reason, export).await?;
                eprintln!("exported {}", json!(counts));
            }
            Self::Suspend { dids, change: Change { why, dry_run } } => {
                for did in &dids {
                    let suspend = async || admin.suspend(did, &why.reason).await;
                    let counts = match dry_run {
                        true => Admin::count_suspension(),
                        false => admin.recorded("suspend", did.as_str(), &why.reason, suspend).await?,
                    };
                    print_counts(did.as_str(), &counts);
                }
                print_poll(dry_run);
            }
            Self::Release { dids, change: Change { why, dry_run } } => {
                for did in &dids {
                    let counts = match dry_run {
                        true => admin.count_release(did).await?,
                        false => {
                            let release = async || admin.release(did).await;
                            admin.recorded("release", did.as_str(), &why.reason, release).await?
                        }
                    };
                    print_counts(did.as_str(), &counts);
                }
                print_poll(dry_run);
            }
            Self::Erase { did, change: Change { why, dry_run } } => {
                let counts = match dry_run {
                    true => admin.count_erasure(&did).await?,
                    false => {
                        let erase = async || admin.erase(&did).await;
                        admin.recorded("erase", did.as_str(), &why.reason, erase).await?
                    }
                };
                print_counts(did.as_str(), &counts);
            }
            Self::Delete { id, change: Change { why, dry_run } } => {
                let convo = admin.convo(&id).await?;
                let counts = match dry_run {
                    true => admin.count_deletion(&convo).await?,
                    false => {
                        let delete = async || admin.delete(&convo).await;
                        admin.recorded("delete", convo.as_str(), &why.reason, delete).await?
                    }
                };
                print_counts(convo.as_str(), &counts);
            }
            Self::Who { name, why } => {
                let mut found = Vec::new();
                let search = async || admin.who(&name, &mut found).await;
                admin.recorded("who", &name, &why.reason, search).await?;
                print_lines(&found);
                println!("found {} among the callers of the last 30 days", found.len());
            }
            Self::Name { dids } => print_lines(&admin.names(&dids).await?),
            Self::Suspensions => print_lines(&admin.suspensions().await?),
            Self::Audit { target } => print_lines(&admin.audit(target.as_deref()).await?),
        }
        Ok(())
    }
}

/// Prints what was changed, or what would be: a run and a dry run print the same.
fn print_counts(target: &str, counts: &Tally) {
    println!("{target} {}", json!(counts));
}

fn print_poll(dry_run: bool) {
    if !dry_run {
        eprintln!("every replica follows within {} s", POLL_INTERVAL.as_secs());
    }
}

fn print_lines(lines: &[String]) {
    lines.iter().for_each(|line| println!("{line}"));
}
