//! Tests that the documents and the table of settings agree. `UPDATE_DOCS=1 cargo test --lib config::documents` rewrites the table in
//! the documentation and `.env.example`; the compose files are written by hand and only compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::table::{Default, SECTIONS, Setting, settings};

/// Lines around the table in README.md or in a page of docs/.
const MARKERS: [&str; 2] = ["<!-- settings -->\n", "<!-- /settings -->\n"];

/// The beginning of `.env.example`: what the compose files need for themselves.
const COMPOSE_SETTINGS: &str = "\
# Settings of compose.yaml. Copy this file to .env, which is not committed, and make that readable for its owner only.
# Everything below \"The server\" is generated from src/config/table.rs.

# Beginning of the names of containers and volumes. Another one has other data.
COMPOSE_PROJECT_NAME=catbird

# Passwords of the server's role in PostgreSQL, of the role that owns the tables, and of Redis. They become part of URLs: letters and
# digits only. A good one: openssl rand -hex 32
POSTGRES_PASSWORD=
POSTGRES_OWNER_PASSWORD=
REDIS_PASSWORD=
# Password of the user admin in Grafana, for ops/compose/fleet.yaml.
GRAFANA_PASSWORD=

# Addresses of this machine at which the server, and the balancer of ops/compose/fleet.yaml, accept plain HTTP. Other than loopback only
# if a TLS proxy alone can reach them.
SERVER_BIND=127.0.0.1
BALANCER_BIND=127.0.0.1

# Ports of the server on this machine, and of its metrics. For `--scale server=3`, ranges such as 3000-3002 and 3100-3102.
SERVER_PORTS=3000
ADMIN_PORTS=3001

# Memory of the containers. The server's has to hold its budgets for bodies and replies, and its streams (docs/limits.md).
SERVER_MEMORY=2g
POSTGRES_MEMORY=2g

# The server. Empty means the default.
";

/// Settings that the compose files do not pass on to every server, and why.
const NOT_IN_COMPOSE: &[(&str, &str)] = &[
    ("SERVER_HOST", "the image sets it"),
    ("SERVER_PORT", "the image sets it"),
    ("DATA_DIR", "the image sets it"),
    ("PG_BIN_DIR", "PostgreSQL has its own container"),
    ("DATABASE_POOLER", "fleet.yaml has a pooler and sets it"),
    ("JWT_SECRET", "development.yaml passes it"),
    ("ALLOW_DEVELOPMENT_TOKENS", "development.yaml sets it"),
    ("JTI_TTL_SECONDS", "for development"),
    ("ENFORCE_LXM", "for development"),
    ("ENFORCE_JTI", "for development"),
    ("ALLOW_PRIVATE_DID_HOSTS", "for tests"),
    ("ALLOW_PRIVATE_MAILBOX_HOSTS", "for tests"),
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Files with this ending below a directory.
fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path(directory)).into_iter().flatten() {
        let entry = entry.unwrap().path();
        match entry.is_dir() {
            true => found.extend(files(entry.to_str().unwrap(), ending)),
            false if entry.to_str().unwrap().ends_with(ending) => found.push(entry),
            false => {}
        }
    }
    found
}

/// Compares a file with what it should be, or writes it if `UPDATE_DOCS` is set.
#[expect(clippy::disallowed_methods, reason = "a switch of this test, not a setting of the server")]
fn hold(file: &Path, current: &str, generated: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(file, generated).unwrap();
    } else {
        let file = file.display();
        assert!(current == generated, "{file} is out of date: UPDATE_DOCS=1 cargo test --lib config::documents");
    }
}

#[test]
fn the_table_in_the_documentation_is_the_one_in_the_code() {
    let mut table = "\n| Name | Default | Values | Meaning |\n|---|---|---|---|\n".to_owned();
    for section in SECTIONS {
        table += &format!("| **{}** | | | |\n", section.title);
        for Setting { name, kind, default, meaning, .. } in section.settings {
            let default = match default {
                Default::Value(value) => format!("`{value}`"),
                Default::Unset(meaning) | Default::Derived(meaning) => (*meaning).to_owned(),
            };
            table += &format!("| `{name}` | {default} | {kind} | {meaning} |\n");
        }
    }
    table.push('\n');
    let pages = files("docs", ".md").into_iter().chain([path("README.md")]);
    let pages = pages.map(|page| (fs::read_to_string(&page).unwrap(), page));
    let with_table: Vec<_> = pages.filter(|(text, _)| text.contains(MARKERS[0])).collect();
    let [(text, page)] = &with_table[..] else { panic!("one page has the table, between {MARKERS:?}") };
    let (before, rest) = text.split_once(MARKERS[0]).unwrap();
    let (_, after) = rest.split_once(MARKERS[1]).unwrap();
    hold(page, text, &[before, MARKERS[0], &table, MARKERS[1], after].concat());
}

/// The variables that the compose files give each replica of the server, with their values.
fn compose() -> BTreeMap<String, String> {
    let text = fs::read_to_string(path("ops/compose/base.yaml")).unwrap();
    let server = text.split_once("\n  server:\n").unwrap().1;
    let environment = server.split_once("    environment:\n").unwrap().1;
    let lines = environment.lines().take_while(|line| line.starts_with("      "));
    lines.filter_map(|line| line.trim().split_once(": ")).map(|(name, value)| (name.into(), value.into())).collect()
}

/// The default in `${NAME:-default}`, where a value passes the variable of that name on.
fn passed_on<'a>(name: &str, value: &'a str) -> Option<&'a str> {
    let inner = value.strip_prefix("${")?.strip_suffix('}')?.strip_prefix(name)?;
    inner.strip_prefix(":-").or_else(|| inner.starts_with(":?").then_some(""))
}

#[test]
fn compose_passes_every_setting_that_makes_sense_there_with_the_default_of_the_code() {
    let compose = compose();
    for name in compose.keys() {
        assert!(settings().any(|setting| setting.name == name), "base.yaml passes {name}, which is not a setting");
    }
    for setting in settings() {
        let reason = NOT_IN_COMPOSE.iter().find(|(name, _)| *name == setting.name);
        match (compose.get(setting.name), reason) {
            (None, None) => panic!("base.yaml does not pass {}", setting.name),
            (Some(_), Some((name, reason))) => panic!("base.yaml passes {name}, but: {reason}"),
            (Some(value), None) => {
                let expected = if let Default::Value(value) = setting.default { value } else { "" };
                let default = passed_on(setting.name, value).unwrap_or(expected);
                // A fixed value of compose.yaml's own is not a default.
                assert_eq!(default, expected, "{}", setting.name);
            }
            (None, Some(_)) => {}
        }
    }
}

#[test]
fn the_example_of_env_has_every_variable_that_compose_passes_on() {
    let compose = compose();
    let mut example = COMPOSE_SETTINGS.to_owned();
    for section in SECTIONS {
        let passed = section
            .settings
            .iter()
            .filter_map(|setting| Some((setting, passed_on(setting.name, compose.get(setting.name)?)?)));
        for (n, (setting, default)) in passed.enumerate() {
            if n == 0 {
                example += &format!("\n# {}\n", section.title);
            }
            example += &format!("# {}\n{}={default}\n", setting.meaning.replace('`', ""), setting.name);
        }
    }
    let file = path(".env.example");
    hold(&file, &fs::read_to_string(&file).unwrap(), &example);
}

#[test]
fn the_environment_is_read_in_one_place() {
    for file in files("src", ".rs") {
        let relative = file.strip_prefix(path("")).unwrap().to_str().unwrap();
        let readers = fs::read_to_string(&file).unwrap().matches("env::var").count();
        let expected = match relative {
            // `Config::from_env`, and a switch and a search of these tests.
            "src/config/mod.rs" => 1,
            "src/config/documents.rs" => 2,
            // PATH, to find PostgreSQL's programs.
            "src/embedded/account.rs" => 1,
            _ => 0,
        };
        assert_eq!(readers, expected, "{relative} reads the environment; settings come from Config");
    }
}
