//! Command line: `serve`, `health`, `migrate`, `check`, `doctor`, `envelopes`, `admin`, `token`, `lexicons`, `smoke-test`.

mod liveness;
mod smoke_test;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use catbird_server::admin::AdminCommand;
use catbird_server::api::ROUTES;
use catbird_server::app::App;
use catbird_server::background::tasks;
use catbird_server::clock::Clock;
use catbird_server::config::{Config, UnsafeSetting, table};
use catbird_server::delivery::dead;
use catbird_server::embedded::{self, EmbeddedError, EmbeddedPostgres, Settings};
use catbird_server::ids::Did;
use catbird_server::metrics::Registry;
use catbird_server::objects::{ObjectMetrics, Objects};
use catbird_server::{auth, check, doctor, lexicons, nsid, server, store, telemetry};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// An MLS delivery service on AT Protocol identity: PostgreSQL decides which commit wins an epoch.
///
/// All settings are environment variables, read from the environment and from .env; --help and docs/operations.md list them. Without
/// DATABASE_URL the server runs its own PostgreSQL under DATA_DIR.
#[derive(Parser)]
#[command(name = "catbird-server", version, after_long_help = table::help())]
struct Cli {
    #[command(subcommand)]
    command: Option<Subcommand>,
}

#[derive(clap::Subcommand)]
enum Subcommand {
    /// Serve requests until SIGTERM or Ctrl-C (the default)
    Serve,
    /// Ask the server at SERVER_HOST and SERVER_PORT whether it is alive; exit code 1 if not
    Health,
    /// Bring the database's schema up to date and exit
    Migrate,
    /// Check the invariants on the live database; exit code 1 if one is violated, 2 if it could not check
    Check,
    /// Find settings and states of PostgreSQL, a pooler, Redis, this machine and the server under which a promise does not hold; exit
    /// code 1 if there is one, 2 if a part could not be examined. Run it as the server runs: same settings, same machine
    Doctor {
        /// Print the diagnoses as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the envelopes that could not be delivered to their mailboxes, or requeue them
    Envelopes {
        /// Requeue these envelopes
        #[arg(long, value_name = "ID", num_args = 1.., conflicts_with = "all")]
        requeue: Vec<String>,
        /// Requeue all dead envelopes
        #[arg(long)]
        all: bool,
    },
    /// Look up, suspend, erase, delete and export people and conversations; each use is recorded
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Write each lexicon document into a folder, as the record that publishes it (com.atproto.lexicon.schema)
    Lexicons {
        /// Folder, created if it is missing; the files are named <NSID>.json
        folder: PathBuf,
    },
    /// Run a whole conversation with real keys against a server (needs its JWT_SECRET); exit code 1 if a step fails
    SmokeTest {
        /// URL of the server [default: http://127.0.0.1 at SERVER_PORT]
        url: Option<String>,
    },
    /// Mint a development token (HS256, needs JWT_SECRET)
    Token {
        /// DID of the caller, such as did:plc:alice
        did: Did,
        /// Method that the token is for, such as sendMessage
        method: String,
        /// Seconds until it expires
        #[arg(long, default_value_t = 300)]
        ttl: u64,
    },
}

/// Exit code of a command that failed. 1 is for a `check` that found a violation, and the like.
const EXIT_FAILED: u8 = 2;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // actix decodes and answers requests on its own threads, one per core. These threads drive the connections to
    // PostgreSQL. The fewer there are, the fewer have to wake between two messages of one transaction.
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1);
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(cli.command.unwrap_or(Subcommand::Serve))));
    result.unwrap_or_else(|failure| {
        eprintln!("catbird-server: {}", with_causes(&*failure));
        ExitCode::from(EXIT_FAILED)
    })
}

/// Formats a failure with its causes, down to PostgreSQL's own message.
fn with_causes(failure: &(dyn std::error::Error + 'static)) -> String {
    let mut text = store::words_of(failure);
    let mut below = failure.source();
    while let Some(cause) = below {
        let cause_text = store::words_of(cause);
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        below = cause.source();
    }
    text
}

fn write_lexicons(folder: &Path) -> Result<ExitCode, Failure> {
    std::fs::create_dir_all(folder)?;
    for (nsid, text) in lexicons::documents() {
        let record = serde_json::to_string_pretty(&lexicons::record(text))?;
        std::fs::write(folder.join(format!("{nsid}.json")), record + "\n")?;
    }
    println!("{} records in {}", lexicons::documents().len(), folder.display());
    Ok(ExitCode::SUCCESS)
}

async fn run(command: Subcommand) -> Result<ExitCode, Failure> {
    if let Subcommand::Lexicons { folder } = &command {
        return write_lexicons(folder);
    }
    let config = Config::from_env()?;
    match command {
        Subcommand::Lexicons { .. } => unreachable!("it is handled before the settings are read"),
        Subcommand::Serve => serve(config.to_serve()?).await,
        Subcommand::Health => Ok(liveness::run(&config).await),
        Subcommand::SmokeTest { url } => Ok(smoke_test::run(url, &config).await),
        Subcommand::Migrate => {
            with_database(&config, async |database| {
                let applied = store::migrate(database).await?;
                println!("{applied} migrations applied; the schema is up to date");
                Ok(ExitCode::SUCCESS)
            })
            .await
        }
        Subcommand::Check => {
            with_tables(&config, async |database| {
                let objects = Objects::open(&config.blob_store, ObjectMetrics::register(&mut Registry::default()))?;
                let report = check::with_objects(database, &objects).await?;
                print!("{report}");
                Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            })
            .await
        }
        Subcommand::Doctor { json } => {
            must_exist(&config)?;
            with_database(&config, async |database| {
                let report = doctor::run(&config, database, &Clock::system()).await;
                match json {
                    true => println!("{}", serde_json::to_string_pretty(&report)?),
                    false => print!("{report}"),
                }
                Ok(ExitCode::from(report.exit_code()))
            })
            .await
        }
        Subcommand::Envelopes { requeue, all } => {
            with_tables(&config, async |database| {
                if all || !requeue.is_empty() {
                    let back = dead::requeue(database, (!all).then_some(&requeue[..])).await?;
                    println!("requeued {} envelopes", back.len());
                    let unknown: Vec<&str> =
                        requeue.iter().map(String::as_str).filter(|id| !back.iter().any(|back| back == id)).collect();
                    if !unknown.is_empty() {
                        eprintln!("no dead envelope has the id {}", unknown.join(", "));
                        return Ok(ExitCode::FAILURE);
                    }
                } else {
                    print!("{}", dead::list(database).await?);
                }
                Ok(ExitCode::SUCCESS)
            })
            .await
        }
        Subcommand::Admin(command) => {
            with_tables(&config, async |database| {
                command.run(&config, database).await?;
                Ok(ExitCode::SUCCESS)
            })
            .await
        }
        Subcommand::Token { did, method, ttl } => {
            let nsid = match method.contains('.') {
                true => method,
                false => format!("{}{method}", nsid::NAMESPACE),
            };
            if !ROUTES.iter().any(|route| route.nsid == nsid) {
                return Err(format!("this server has no method {nsid}; /lexicons lists its methods").into());
            }
            let token = auth::mint(&config.auth, &Clock::system(), &did, Some(&nsid), Duration::from_secs(ttl))?;
            println!("{token}");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Like [`with_database`], for work that needs the server's tables. Creates neither a database nor tables.
async fn with_tables(
    config: &Config,
    work: impl AsyncFnOnce(&tokio_postgres::Config) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    must_exist(config)?;
    with_database(config, async |database| match store::is_migrated(database).await? {
        true => work(database).await,
        false => Err("the database does not have this server's tables; run `catbird-server migrate`".into()),
    })
    .await
}

/// Fails if there is no database, so that a command that only reads creates none.
fn must_exist(config: &Config) -> Result<(), Failure> {
    if config.database_url.is_none() && !embedded::exists(&config.data_dir) {
        let nothing = "there is no database: DATABASE_URL is not set and DATA_DIR has none yet; `serve` and `migrate` create one there";
        return Err(nothing.into());
    }
    Ok(())
}

/// Runs work on the configured database, or on the embedded one, which is started if no server runs it.
async fn with_database(
    config: &Config,
    work: impl AsyncFnOnce(&tokio_postgres::Config) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    let (database, embedded) = match database(config).await {
        // A running server has started it, so the work is for that live database.
        Err(failure) => match failure.downcast_ref() {
            Some(EmbeddedError::InUse { dir, .. }) => (embedded::config_of(dir).ok_or(failure)?, None),
            _ => return Err(failure),
        },
        Ok(found) => found,
    };
    let result = work(&database).await;
    if let Some(embedded) = embedded {
        embedded.stop().await?;
    }
    result
}

async fn database(config: &Config) -> Result<(tokio_postgres::Config, Option<EmbeddedPostgres>), Failure> {
    if let Some(url) = &config.database_url {
        return Ok((url.parse()?, None));
    }
    let mut settings = Settings::durable(&config.data_dir);
    settings.bin_dir.clone_from(&config.pg_bin_dir);
    // The connections of the pool, and some for migrations, checks and psql.
    let needed = u32::try_from(config.database_max_connections + 20).unwrap_or(u32::MAX);
    settings.max_connections = settings.max_connections.max(needed);
    let embedded = EmbeddedPostgres::start(&settings).await?;
    Ok((embedded.config(), Some(embedded)))
}

/// Waits until the embedded PostgreSQL ends by itself; for ever if there is none.
async fn ended(embedded: Option<&EmbeddedPostgres>) -> Option<i32> {
    match embedded {
        Some(embedded) => embedded.ended().await,
        None => std::future::pending().await,
    }
}

/// Runs an HTTP server and logs its failure.
async fn report(server: impl Future<Output = std::io::Result<()>>) {
    if let Err(cause) = server.await {
        tracing::error!(%cause, "an HTTP server failed");
    }
}

async fn serve(config: Config) -> Result<ExitCode, Failure> {
    telemetry::start(&config.log)?;
    let outcome = serve_until_stopped(config).await;
    if let Err(failure) = &outcome {
        tracing::error!(cause = with_causes(&**failure), "the server cannot continue");
        // The terminal shows it already.
        if std::io::stdout().is_terminal() {
            return Ok(ExitCode::from(EXIT_FAILED));
        }
    }
    outcome
}

async fn serve_until_stopped(config: Config) -> Result<ExitCode, Failure> {
    let settings: Vec<String> = config.in_effect().iter().map(|(name, value)| format!("{name}={value}")).collect();
    tracing::info!(settings = settings.join(" "), "starting");
    for UnsafeSetting { setting, consequence } in config.unsafe_settings() {
        tracing::warn!(setting, consequence, "this setting is for development and tests");
    }
    if nix::unistd::Uid::effective().is_root() {
        tracing::warn!("the server runs as root, which it does not need; run it as its own user");
    }
    if config.shows_operators_pages() {
        tracing::warn!(
            "any client that reaches SERVER_HOST can read /metrics and /health; set ADMIN_PORT to serve them on a port of their own"
        );
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    server::allow_many_connections();
    // First, since this fails most often and costs least.
    let (listener, for_operators) = (server::bind(&config)?, server::bind_for_operators(&config)?);

    let (database, embedded) = database(&config).await?;
    if embedded.is_some() {
        tracing::info!(data_dir = %config.data_dir.display(), "started the embedded PostgreSQL; set DATABASE_URL to use another one");
    }
    let app = App::new(config, database.clone(), Clock::system()).await?;
    let (address, http) = server::build(app.clone(), listener)?;
    tracing::info!(%address, "listening");
    let handle = http.handle();
    app.background.start(&tasks::HTTP_SERVER, report(http));
    let mut operators = None;
    if let Some(listener) = for_operators {
        let (address, pages) = server::build_for_operators(app.clone(), listener)?;
        tracing::info!(%address, "listening for operators");
        operators = Some(pages.handle());
        app.background.start(&tasks::OPERATOR_PAGES, report(pages));
    }

    let opening = server::open(&app, &database);
    tokio::pin!(opening);
    let mut open = false;
    let outcome = loop {
        tokio::select! {
            opened = &mut opening, if !open => match opened {
                Ok(()) => open = true,
                Err(failed) => break Err(failed.into()),
            },
            code = ended(embedded.as_ref()) => {
                let code = code.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
                break Err(format!("the embedded PostgreSQL ended by itself (exit code {code}); its log is in the data directory").into());
            }
            task = app.background.failure() => break Err(format!("the task `{}` ended: {}", task.name, task.reason).into()),
            _ = terminate.recv() => break Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => break Ok(ExitCode::SUCCESS),
        }
    };
    server::drain(&app, &handle).await;
    if let Some(operators) = operators {
        operators.stop(false).await;
    }
    if let Some(embedded) = embedded {
        embedded.stop().await?;
    }
    outcome
}
