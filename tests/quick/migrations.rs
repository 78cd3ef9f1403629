//! Migrations on main are never edited, because databases have applied them: refinery refuses to start on an edited one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

#[test]
fn a_migration_that_is_on_main_is_never_edited() {
    let sql = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let recorded = fs::read_to_string(sql.join("migrations.sha256")).unwrap();
    let recorded: BTreeMap<&str, &str> =
        recorded.lines().map(|line| line.split_once("  ").unwrap()).map(|(hash, name)| (name, hash)).collect();
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(sql.join("migrations")).unwrap() {
        let entry = entry.unwrap();
        let hash: String =
            Sha256::digest(fs::read(entry.path()).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
        found.insert(entry.file_name().into_string().unwrap(), hash);
    }
    for (name, hash) in &recorded {
        let now = found.get(*name).unwrap_or_else(|| panic!("{name} is gone; restore it, databases have applied it"));
        assert_eq!(
            now, hash,
            "{name} was edited. If it is on main, restore it and write a new migration. If it is new in this branch, \
             record its new hash: (cd sql/migrations && sha256sum *.sql >../migrations.sha256)"
        );
    }
    let new: Vec<_> = found.keys().filter(|name| !recorded.contains_key(name.as_str())).collect();
    assert!(new.is_empty(), "record the hash of {new:?}: (cd sql/migrations && sha256sum *.sql >../migrations.sha256)");
}
