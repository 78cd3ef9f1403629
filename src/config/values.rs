//! The values of the settings: read from variables and from the files of secrets, and checked one by one.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::TimeDelta;

use super::table::{self, Default, Setting};

/// Variables on the way to a configuration, and everything that is wrong with them.
pub(super) struct Values {
    variables: BTreeMap<String, String>,
    in_effect: BTreeMap<&'static str, String>,
    problems: Vec<String>,
}

impl Values {
    /// Takes the variables, and secrets from the files that `<NAME>_FILE` name, without the end of their last line.
    pub(super) fn new(variables: BTreeMap<String, String>) -> Self {
        let mut values = Self { variables, in_effect: BTreeMap::new(), problems: Vec::new() };
        for setting in table::settings().filter(|setting| setting.is_secret) {
            values.read_file(setting.name);
        }
        values
    }

    fn read_file(&mut self, name: &str) {
        let file = format!("{name}_FILE");
        let Some(path) = self.given(&file) else { return };
        if self.given(name).is_some() {
            self.problems.push(format!("{name} and {file} are both set; leave one out"));
            return;
        }
        match std::fs::read_to_string(&path) {
            Ok(secret) if !secret.trim().is_empty() => {
                self.variables.insert(name.to_owned(), secret.trim_end_matches(['\r', '\n']).to_owned());
            }
            Ok(_) => self.problems.push(format!("{file}: {path} is empty")),
            Err(cause) => self.problems.push(format!("{file}: {path} cannot be read: {cause}")),
        }
    }

    /// A variable that is there and not empty.
    fn given(&self, name: &str) -> Option<String> {
        self.variables.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// The value of a setting where it is given and accepted, else `default`. Notes it as the one in effect.
    fn resolve(&mut self, name: &str, default: impl FnOnce() -> Option<String>) -> Option<String> {
        let setting = table::row(name);
        let given = self.given(name).filter(|value| self.accepts(setting, value));
        let is_given = given.is_some();
        let value = given.or_else(default);
        let shown = match (setting.is_secret, is_given, &value) {
            (false, ..) => None,
            (true, true, _) => Some("set".to_owned()),
            // Nor is there a value that it follows from.
            (true, false, None) if matches!(setting.default, Default::Derived(_)) => Some("none".to_owned()),
            (true, false, _) => Some(setting.default.to_string()),
        };
        let shown = shown.or_else(|| value.clone()).unwrap_or_else(|| setting.default.to_string());
        self.in_effect.insert(setting.name, shown);
        value
    }

    fn accepts(&mut self, setting: &Setting, value: &str) -> bool {
        let checked = setting.kind.check(value);
        if let Err(problem) = &checked {
            self.problems.push(format!("{} {problem}", setting.name));
        }
        checked.is_ok()
    }

    /// A text; the row has a default.
    pub(super) fn text(&mut self, name: &str) -> String {
        let Default::Value(default) = table::row(name).default else { unreachable!("{name} has no fixed default") };
        self.resolve(name, || None).unwrap_or_else(|| default.to_owned())
    }

    /// A text that may be missing.
    pub(super) fn optional(&mut self, name: &str) -> Option<String> {
        self.resolve(name, || None)
    }

    /// A text whose default follows from other settings, if at all.
    pub(super) fn derived(&mut self, name: &str, default: Option<String>) -> Option<String> {
        let default = default.filter(|value| self.given(name).is_some() || self.accepts(table::row(name), value));
        self.resolve(name, || default)
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        matches!(self.text(name).as_str(), "true" | "1")
    }

    /// A number, of a type that holds the range of the row.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, name: &str) -> T {
        let text = self.text(name);
        number(&text)
    }

    /// A number that may be missing.
    pub(super) fn optional_number<T: TryFrom<u64>>(&mut self, name: &str) -> Option<T> {
        self.optional(name).map(|text| number(&text))
    }

    /// A fraction of one.
    pub(super) fn ratio(&mut self, name: &str) -> f64 {
        self.text(name).parse().expect("a value that was accepted is a fraction")
    }

    /// Names with their values; none if it is missing.
    pub(super) fn pairs(&mut self, name: &str) -> HashMap<String, String> {
        let text = self.optional(name).unwrap_or_default();
        table::pairs(&text).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    pub(super) fn seconds(&mut self, name: &str) -> Duration {
        Duration::from_secs(self.number(name))
    }

    /// A number of days; 0 is for ever.
    pub(super) fn days(&mut self, name: &str) -> Option<TimeDelta> {
        match self.number::<u32>(name) {
            0 => None,
            days => Some(TimeDelta::days(days.into())),
        }
    }

    /// Notes a problem that no single setting has.
    pub(super) fn refuse(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The settings in effect, in the order of the table, without secrets; or everything that is wrong.
    pub(super) fn finish(self) -> Result<Vec<(&'static str, String)>, Vec<String>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let mut in_effect = self.in_effect;
        Ok(table::settings().filter_map(|setting| in_effect.remove_entry(setting.name)).collect())
    }
}

fn number<T: TryFrom<u64>>(text: &str) -> T {
    let number = text.parse().ok().and_then(|number: u64| T::try_from(number).ok());
    number.expect("a value that was accepted is a number, and the type holds the range of its row")
}
