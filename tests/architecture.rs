//! Floors of the source tree. A module uses what stands on lower floors; it uses nothing on its own floor or above. So the modules form
//! no circle, and each can be read and tested with what is below it alone.
//!
//! The test reads `crate::x` from the sources. Comments and test modules are exempt: they do not decide what a module needs. `lib.rs` and
//! `main.rs` stand above all floors.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The floors from the top to the bottom. The reason says what a module of the floor must not know.
const FLOORS: &[(&[&str], &str)] = &[
    (&["server"], "the server is started by main alone"),
    (&["lexicons", "health"], "pages describe the methods and the parts, and do not know who serves them"),
    (&["api"], "a method does not know the server that routes to it, nor the pages that describe it"),
    (&["streaming"], "a stream does not know the method that opened it"),
    (&["xrpc"], "the protocol kit knows no method and no stream"),
    (&["app"], "the parts are put together without the protocol that serves them"),
    (&["admin"], "commands of operators change the database beside the server, and need none of its parts"),
    (&["check"], "the invariants are checked beside the settings, which know nothing of them"),
    (&["doctor"], "what is examined does not know that it is"),
    (&["serializer", "suspensions"], "a command is serialized, and a caller suspended, without knowledge of requests"),
    (&["advisory", "actors"], "the two ways to serialize commands do not know each other"),
    (&["batching"], "a batch does not know which serializer forms it"),
    (&["events", "quotas"], "events know no framing and no HTTP; quotas know no serializer"),
    (&["commands", "auth", "delivery", "jobs", "probe", "replicas"], "users of the store do not know each other"),
    (&["bodies"], "a body is read without knowledge of who writes it to a client"),
    (&["store"], "the store executes transactions and does not know what they are for"),
    (&["connection", "limits", "memory", "mls", "objects"], "resources and formats work without the store"),
    (&["error"], "the table of errors does not know where they arise"),
    (
        &["config", "wire", "redis", "timing", "embedded"],
        "settings, shapes and connections mean the same to every part",
    ),
    (&["trace"], "a span does not know which stages and settings there are"),
    (
        &[
            "background",
            "bytes",
            "clock",
            "cors",
            "exposition",
            "hex",
            "ids",
            "lifecycle",
            "metrics",
            "net",
            "nsid",
            "telemetry",
        ],
        "values and tools know nothing of this service",
    ),
];

/// Use of one module by another.
struct Use {
    user: String,
    used: String,
    /// File, line and text.
    place: String,
}

#[test]
fn no_module_uses_one_on_its_own_floor_or_above() {
    let mut wrong = Vec::new();
    for Use { user, used, place } in uses() {
        let ((floor, reason), (of_used, _)) = (floor(&user), floor(&used));
        if of_used <= floor {
            let stands = if of_used == floor { "stands beside" } else { "stands above" };
            wrong.push(format!("{place}\n    `{used}` {stands} `{user}`, which must not use it: {reason}"));
        }
    }
    assert!(wrong.is_empty(), "{} imports run up:\n\n{}\n", wrong.len(), wrong.join("\n\n"));
}

/// The tour in `lib.rs` is the list of the modules, floor by floor.
#[test]
fn the_tour_lists_every_module_from_the_top_to_the_bottom() {
    let tour = fs::read_to_string(src().join("lib.rs")).unwrap();
    let listed: Vec<&str> = tour
        .lines()
        .filter_map(|line| line.strip_prefix("//! - "))
        .map(|line| line.split('`').nth(1).expect("an item of the tour begins with the name of a module"))
        .collect();
    let modules = modules();
    for module in &modules {
        floor(module);
    }
    let expected: Vec<&str> =
        FLOORS.iter().flat_map(|(floor, _)| *floor).copied().filter(|name| modules.contains(*name)).collect();
    assert_eq!(listed, expected, "the tour in src/lib.rs, and the floors of this test");
}

/// Number of a module's floor, from the top, and the reason that goes with it.
fn floor(module: &str) -> (usize, &'static str) {
    let found = FLOORS.iter().position(|(modules, _)| modules.contains(&module));
    let floor = found.unwrap_or_else(|| panic!("`{module}` has no floor yet: give it one in {}", file!()));
    (floor, FLOORS[floor].1)
}

/// Every use of one module by another.
fn uses() -> Vec<Use> {
    let modules = modules();
    let mut uses = Vec::new();
    for file in sources(&src()) {
        let path = file.strip_prefix(src()).unwrap().with_extension("");
        let user = path.iter().next().unwrap().to_str().unwrap().to_owned();
        let stem = file.file_stem().unwrap().to_str().unwrap();
        if !modules.contains(&user) || stem == "tests" || stem.ends_with("_tests") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        // Up to the module of its tests, if that is in the file.
        let tests = text.match_indices("#[cfg(test)]\nmod ").map(|(at, _)| at);
        let inline = |at: &usize| text[*at..].lines().nth(1).is_some_and(|line| line.ends_with('{'));
        let code = &text[..tests.clone().find(inline).unwrap_or(text.len())];
        for (number, line) in (1..).zip(code.lines()) {
            let line = line.split("//").next().unwrap();
            for after in line.split("crate::").skip(1) {
                // `use crate::{a, b}` names several.
                let (names, several) = match after.strip_prefix('{') {
                    Some(names) => (names, true),
                    None => (after, false),
                };
                let names = names.split(',').take(if several { usize::MAX } else { 1 });
                for used in
                    names.map(|name| name.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
                {
                    if used != user && modules.contains(used) {
                        let place =
                            format!("src/{}:{number}: {}", file.strip_prefix(src()).unwrap().display(), line.trim());
                        uses.push(Use { user: user.clone(), used: used.to_owned(), place });
                    }
                }
            }
        }
    }
    uses
}

/// Names of the files and folders under `src`, which are the modules of the library. What `main.rs` declares is not one.
fn modules() -> BTreeSet<String> {
    let main = fs::read_to_string(src().join("main.rs")).unwrap();
    let entries = fs::read_dir(src()).unwrap().map(|entry| entry.unwrap().path());
    let names = entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    names.filter(|name| !["lib", "main"].contains(&&**name) && !main.contains(&format!("mod {name};"))).collect()
}

/// Every source file under `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    files.filter(|file| file.extension().is_some_and(|extension| extension == "rs")).collect()
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}
