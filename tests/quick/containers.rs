//! The Dockerfile and the compose files, as far as they can be judged without an engine; ops/test-containers runs them.

use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn file(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

/// The files, each with its content.
fn compose_files() -> Vec<(&'static str, String)> {
    let names = [
        "compose.yaml",
        "ops/compose/base.yaml",
        "ops/compose/fleet.yaml",
        "ops/compose/nginx.yaml",
        "ops/compose/development.yaml",
    ];
    names.map(|name| (name, file(name))).into()
}

/// The items of all lists with this key.
fn items<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let mut lines = text.lines().map(str::trim).peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line == format!("{key}:") {
            while let Some(line) = lines.next_if(|line| line.starts_with("- ") || line.starts_with('#')) {
                found.extend(line.strip_prefix("- ").map(|item| item.trim_matches('"')));
            }
        }
    }
    found
}

/// The services of a file, each with its lines.
fn services(text: &str) -> Vec<(&str, &str)> {
    let services = text.split_once("\nservices:\n").unwrap().1;
    let end = services.find("\nnetworks:").or_else(|| services.find("\nvolumes:")).unwrap_or(services.len());
    let starts: Vec<usize> = services[..end]
        .match_indices("\n  ")
        .map(|(at, _)| at + 1)
        .chain([0])
        .filter(|at| services[*at + 2..].starts_with(|c: char| c.is_ascii_lowercase()))
        .collect();
    let mut starts: Vec<usize> = starts.into_iter().chain([end]).collect();
    starts.sort_unstable();
    let lines = starts.windows(2).map(|pair| services[pair[0]..pair[1]].trim());
    lines.map(|service| service.split_once(":\n").unwrap()).collect()
}

#[test]
fn each_published_port_is_on_loopback_unless_another_address_is_asked_for() {
    let mut published = 0;
    for (name, text) in compose_files() {
        for port in items(&text, "ports") {
            let addresses = ["127.0.0.1:", "${SERVER_BIND:-127.0.0.1}:", "${BALANCER_BIND:-127.0.0.1}:"];
            assert!(addresses.iter().any(|address| port.starts_with(address)), "{name}: {port}");
            published += 1;
        }
    }
    assert_eq!(published, 7);
}

#[test]
fn each_service_is_hardened_and_limited() {
    let mut hardened = 0;
    for name in ["compose.yaml", "ops/compose/fleet.yaml"] {
        for (service, lines) in services(&file(name)) {
            let (is_server, extends) = (lines.contains("service: server}"), lines.contains("service: hardened}"));
            assert!(
                is_server || extends || (name, service) == ("ops/compose/fleet.yaml", "server"),
                "{name}: {service}"
            );
            let limited = ["mem_limit: ", "pids_limit: "].iter().all(|limit| lines.contains(limit));
            assert!(!extends || limited, "{name}: {service} has no limits");
            hardened += 1;
        }
    }
    assert_eq!(hardened, 12);
}

#[test]
fn development_tokens_need_a_file_of_their_own() {
    for (name, text) in compose_files() {
        assert_eq!(text.contains("JWT_SECRET"), name == "ops/compose/development.yaml", "{name}");
    }
}

#[test]
fn no_file_has_a_key_that_older_versions_of_compose_refuse() {
    for (name, text) in compose_files() {
        let known = ["services:", "networks:", "volumes:", "x-"];
        for line in text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic())) {
            assert!(known.iter().any(|key| line.starts_with(key)), "{name}: {line}");
        }
    }
}

#[test]
fn every_mounted_file_exists() {
    let mut mounted = 0;
    for (name, text) in compose_files() {
        for source in items(&text, "volumes").iter().filter_map(|volume| volume.strip_prefix("./")) {
            let source = source.split_once(':').unwrap().0;
            assert!(path(source).exists(), "{name}: {source}");
            mounted += 1;
        }
    }
    assert_eq!(mounted, 13);
}

#[test]
fn the_image_is_labelled_with_the_version() {
    assert!(file("Dockerfile").contains(concat!("\nARG VERSION=", env!("CARGO_PKG_VERSION"), "\n")));
}
