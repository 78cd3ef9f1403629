//! Commands of the documents, which tests run as they are printed: blocks of `sh`, each the only one under its heading.

use std::collections::BTreeSet;
use std::path::Path;

/// Section whose commands precede every other block: the settings.
const SETTINGS: &str = "Before you begin";

/// Blocks of one section (`##`) of a document.
#[derive(Debug)]
pub struct Section {
    settings: String,
    blocks: Vec<(String, String)>,
    run: BTreeSet<String>,
}

impl Section {
    /// Reads a section of a document in `docs/`.
    pub fn of(document: &str, name: &str) -> Self {
        let all = blocks(&text(document));
        let settings =
            all.iter().filter(|block| block.section == SETTINGS).map(|block| block.commands.as_str()).collect();
        let blocks: Vec<_> = all
            .iter()
            .filter(|block| block.section == name)
            .map(|block| (block.heading.clone(), block.commands.clone()))
            .collect();
        assert!(!blocks.is_empty(), "{document} has no commands in {name:?}");
        Self { settings, blocks, run: BTreeSet::new() }
    }

    /// Returns the commands under a heading, after the settings.
    pub fn take(&mut self, heading: &str) -> String {
        let block = self.blocks.iter().find(|(one, _)| one == heading);
        let (_, commands) = block.unwrap_or_else(|| panic!("no commands under {heading:?}"));
        self.run.insert(heading.to_owned());
        format!("{}{commands}", self.settings)
    }

    /// Panics unless all commands were taken.
    pub fn finish(self) {
        let left: Vec<_> =
            self.blocks.iter().map(|(heading, _)| heading).filter(|one| !self.run.contains(*one)).collect();
        assert!(left.is_empty(), "commands that no test has run: {left:?}");
    }
}

/// Returns the sections of a document that have commands, except the settings.
pub fn sections(document: &str) -> Vec<String> {
    let mut names: Vec<String> = blocks(&text(document)).into_iter().map(|block| block.section).collect();
    names.dedup();
    names.retain(|name| name != SETTINGS);
    names
}

struct Block {
    section: String,
    heading: String,
    commands: String,
}

fn text(document: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(document)).unwrap()
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut section, mut heading, mut open) = ("", "", None::<String>);
    let mut blocks: Vec<Block> = Vec::new();
    for line in text.lines() {
        match (line, &mut open) {
            ("```sh", None) => open = Some(String::new()),
            ("```", Some(_)) => {
                let commands = open.take().unwrap_or_default();
                let again = blocks.iter().any(|block| block.section == section && block.heading == heading);
                assert!(!again, "two blocks under {heading:?}");
                blocks.push(Block { section: section.to_owned(), heading: heading.to_owned(), commands });
            }
            (line, Some(commands)) => *commands += &format!("{line}\n"),
            (line, None) => {
                if let Some(name) = line.strip_prefix("## ") {
                    (section, heading) = (name, name);
                } else if let Some(name) = line.strip_prefix("### ") {
                    heading = name;
                }
            }
        }
    }
    blocks
}
