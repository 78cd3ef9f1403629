//! Finds PostgreSQL programs that are installed on the machine. Nothing is downloaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account::search_path;
use super::error::EmbeddedError;

/// Oldest major version that the schema supports.
pub(super) const MIN_MAJOR: u32 = 14;

/// Directories in which distributions keep one directory per version: parent, prefix of the directory name, and
/// subdirectory of the programs.
const VERSIONED: [(&str, &str, &str); 8] = [
    ("/usr/lib/postgresql", "", "bin"),                          // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                                   // the PostgreSQL project's RPMs
    ("/usr/libexec", "postgresql", ""),                          // Alpine
    ("/opt/homebrew/opt", "postgresql@", "bin"),                 // Homebrew, Apple silicon
    ("/usr/local/opt", "postgresql@", "bin"),                    // Homebrew, Intel
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),    // Homebrew, Linux
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"), // Postgres.app
    ("/opt/local/lib", "postgresql", "bin"),                     // MacPorts
];

/// Directories of a single version.
const SINGLE: [&str; 3] = ["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"];

/// Directories of extension modules, relative to the directory of the programs.
const MODULES: [&str; 3] = ["../lib", "../lib/postgresql", "../lib64/pgsql"];

/// One installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    pub dir: PathBuf,
    pub major: u32,
}

impl Binaries {
    /// Finds the installation to use: the one in `bin_dir` if given, else the first one in the search path and the
    /// usual directories. An existing cluster (`pgdata`) requires the major version that created it.
    pub fn find(bin_dir: Option<&Path>, pgdata: &Path) -> Result<Self, EmbeddedError> {
        Self::find_in(bin_dir.map_or_else(usual_places, |dir| vec![dir.to_owned()]), pgdata)
    }

    fn find_in(places: Vec<PathBuf>, pgdata: &Path) -> Result<Self, EmbeddedError> {
        let made_by = made_by(pgdata)?;
        let mut rejected = Vec::new();
        for dir in places {
            let Some(major) = major_version(&dir) else { continue };
            if major >= MIN_MAJOR && made_by.is_none_or(|made_by| made_by == major) {
                return Ok(Self { dir, major });
            }
            rejected.push(format!("PostgreSQL {major} in {}", dir.display()));
        }
        Err(match made_by {
            Some(made_by) => EmbeddedError::OtherVersion { dir: pgdata.to_owned(), made_by, rejected },
            None => EmbeddedError::NoBinaries { rejected },
        })
    }

    pub fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    pub fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    /// Returns true if the installation has an extension module, which some distributions package separately.
    pub fn has_module(&self, name: &str) -> bool {
        let Ok(dir) = self.postgres().canonicalize() else { return false };
        MODULES
            .iter()
            .flat_map(|modules| ["so", "dylib"].map(|suffix| (modules, suffix)))
            .any(|(modules, suffix)| dir.with_file_name(modules).join(name).with_extension(suffix).exists())
    }
}

fn usual_places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = search_path().map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    for (parent, start, programs) in VERSIONED {
        let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let version = entry.file_name().to_str()?.strip_prefix(start)?.parse().ok()?;
                Some((version, entry.path().join(programs)))
            })
            .collect();
        versions.sort_by(|a, b| b.cmp(a));
        places.extend(versions.into_iter().map(|(_, dir)| dir));
    }
    places.extend(SINGLE.map(PathBuf::from));
    places
}

/// Returns the major version of the installation in `dir` if it is complete.
fn major_version(dir: &Path) -> Option<u32> {
    if !dir.join("initdb").is_file() {
        return None;
    }
    let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// Parses "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", "… 18beta1" and the like.
fn parse_version(line: &str) -> Option<u32> {
    let version = line.split_once("(PostgreSQL) ")?.1;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Returns the major version that created the cluster in `pgdata`, if there is one.
fn made_by(pgdata: &Path) -> Result<Option<u32>, EmbeddedError> {
    let file = pgdata.join("PG_VERSION");
    match fs::read_to_string(&file) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(EmbeddedError::io(format!("read {}", file.display()), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_print_them() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_version("postgres (EnterpriseDB) 9\n"), None);
    }

    #[test]
    fn a_cluster_made_by_a_version_that_is_not_installed_is_refused_by_name() {
        let pgdata = std::env::temp_dir().join(format!("catbird-version-{}", ulid::Ulid::new()));
        fs::create_dir(&pgdata).unwrap();
        fs::write(pgdata.join("PG_VERSION"), "13\n").unwrap();
        let refused = Binaries::find(None, &pgdata).unwrap_err();
        fs::remove_dir_all(&pgdata).unwrap();
        assert!(refused.to_string().contains("install postgresql-13"), "{refused}");
    }
}
