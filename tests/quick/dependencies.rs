//! Dependencies of the server: every crate that is built may be used under a licence that requires at most attribution or,
//! for MPL-2.0, publication of its own files; and no crate is built in several versions for an unknown reason. Advisories
//! need the network: `.github/workflows/ci.yml` runs `cargo audit`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
];

/// Returns true if an SPDX expression allows a permitted choice. Old crates write a slash for OR. AND binds more
/// tightly.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = expression.split_whitespace().collect();
    let mut rest = &words[..];
    any(&mut rest).is_some_and(|allowed| allowed && rest.is_empty())
}

fn any(rest: &mut &[&str]) -> Option<bool> {
    let mut allowed = all(rest)?;
    while let ["OR", after @ ..] = rest {
        *rest = after;
        allowed |= all(rest)?;
    }
    Some(allowed)
}

fn all(rest: &mut &[&str]) -> Option<bool> {
    let mut allowed = one(rest)?;
    while let ["AND", after @ ..] = rest {
        *rest = after;
        allowed &= one(rest)?;
    }
    Some(allowed)
}

fn one(rest: &mut &[&str]) -> Option<bool> {
    let (allowed, after) = match rest {
        ["(", after @ ..] => {
            *rest = after;
            let allowed = any(rest)?;
            let [")", after @ ..] = rest else { return None };
            (allowed, after)
        }
        [licence, "WITH", exception, after @ ..] => (ALLOWED.contains(&&*format!("{licence} WITH {exception}")), after),
        [licence, after @ ..] => (ALLOWED.contains(licence), after),
        [] => return None,
    };
    *rest = after;
    Some(allowed)
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns names and licences of the packages that are built for this platform; all of them are available offline.
fn packages() -> Vec<(String, String)> {
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(rustc.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata = cargo(&["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let built: Vec<&Value> = metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| &node["id"]).collect();
    let package = |package: &Value| {
        let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
        (format!("{} {}", text("name"), text("version")), text("license"))
    };
    let all = metadata["packages"].as_array().unwrap().iter();
    all.filter(|one| built.contains(&&one["id"])).map(package).collect()
}

/// Crates that the server's program is built from in more than one version, by who keeps the older or the newer one.
const IN_SEVERAL_VERSIONS: [(&str, &[&str]); 5] = [
    (
        "p256 is on an earlier generation of the RustCrypto crates than openmls_rust_crypto and tokio-postgres",
        &[
            "block-buffer",
            "chacha20",
            "const-oid",
            "cpufeatures",
            "crypto-common",
            "curve25519-dalek",
            "der",
            "digest",
            "hkdf",
            "hmac",
            "pkcs8",
            "rand_core",
            "sha1",
            "sha2",
            "signature",
            "spki",
            "x25519-dalek",
        ],
    ),
    ("fred, tungstenite and actix-http are on three generations of rand", &["getrandom", "rand", "rand_chacha"]),
    ("actix-http 3 has types of http 0.2, reqwest of http 1", &["http"]),
    ("reqwest and object_store are ahead of actix-http, fred behind everything", &["base64", "socket2"]),
    ("macros move to syn 3 one by one", &["syn"]),
];

/// Returns the names of the packages that the server's program is built from in more than one version.
fn duplicates() -> BTreeSet<String> {
    let tree = ["tree", "--offline", "--locked", "-p", "catbird-server", "-e", "normal,build", "--duplicates"];
    let roots = ["--prefix", "none", "--depth", "0", "--format", "{p}"];
    let tree = cargo(&[&tree[..], &roots].concat());
    let mut versions = BTreeMap::<&str, BTreeSet<&str>>::new();
    for (name, version) in tree.lines().filter_map(|line| line.split_once(' ')) {
        // One version is named twice if it is built with different features.
        versions.entry(name).or_default().insert(version.split(' ').next().unwrap());
    }
    versions.into_iter().filter(|(_, versions)| versions.len() > 1).map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn every_crate_is_built_in_one_version_unless_its_second_one_is_known() {
    let known = IN_SEVERAL_VERSIONS.iter().flat_map(|(_, names)| *names).map(|name| (*name).to_owned());
    assert_eq!(duplicates(), known.collect(), "the left ones are built in several versions, the right ones are listed");
}

#[test]
fn every_crate_may_be_used_under_a_licence_that_is_allowed() {
    let packages = packages();
    assert!(packages.len() > 100, "{packages:?}");
    let refused: Vec<_> = packages.iter().filter(|(_, licence)| !is_allowed(licence)).collect();
    assert!(refused.is_empty(), "not under these licences: {refused:?}");
}

#[test]
fn a_licence_that_asks_for_more_is_refused() {
    for allowed in ["MIT", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "(MIT OR GPL-3.0) AND ISC", "LGPL-3.0-only / Zlib"] {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in [
        "",
        "GPL-3.0",
        "AGPL-3.0-only",
        "LGPL-2.1-or-later",
        "MIT AND GPL-3.0",
        "(MIT",
        "MIT OR",
        "MIT GPL-3.0",
        "ISC)",
    ] {
        assert!(!is_allowed(refused), "{refused}");
    }
}
