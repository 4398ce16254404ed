//! Finds scenarios: those that are named by a path, and the shipped ones by their name.
#![expect(clippy::disallowed_methods, reason = "scenarios are files")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::look::printable;
use crate::config::Problem;
use crate::sim::scenario::{self, Scenario};

/// Where shipped scenarios are: in the repository, and installed. The first that has a name wins.
const DIRS: [&str; 2] = ["configs/scenarios", "/usr/share/fieldmedic/scenarios"];
/// Scenarios that are listed; a directory of more is not one of scenarios.
const LISTED_MAX: usize = 1_000;

/// The file of a scenario that is named by its path, or by the name of a shipped one.
///
/// # Errors
/// No shipped scenario has that name; the text names those that there are.
pub(super) fn resolve(named: &Path) -> Result<PathBuf, String> {
    resolve_in(named, &DIRS.map(Path::new))
}

fn resolve_in(named: &Path, dirs: &[&Path]) -> Result<PathBuf, String> {
    let is_bare = named.components().count() == 1 && named.extension().is_none();
    if !is_bare || named.is_file() {
        return Ok(named.to_owned());
    }
    let name = named.to_string_lossy();
    let shipped = dirs.iter().map(|dir| dir.join(format!("{name}.toml"))).find(|file| file.is_file());
    shipped.ok_or_else(|| unknown(&name, dirs))
}

fn unknown(name: &str, dirs: &[&Path]) -> String {
    let mut text = format!("there is no scenario {name:?}, neither here nor in {}", named(dirs));
    let known: Vec<String> = files(dirs).iter().filter_map(|file| stem(file)).collect();
    let near = known.iter().max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    if let Some(near) = near {
        let _ = write!(text, "; did you mean {near:?}? `fieldmedic simulate --list` has all");
    }
    text
}

/// Where shipped scenarios are looked for, for messages.
pub(super) fn places() -> String {
    named(&DIRS.map(Path::new))
}

fn named(dirs: &[&Path]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// The shipped scenarios, each with what it shows, and what is wrong with those that can't be read.
pub(super) fn list() -> (String, Vec<Problem>) {
    list_in(&DIRS.map(Path::new))
}

fn list_in(dirs: &[&Path]) -> (String, Vec<Problem>) {
    let loaded: Vec<(PathBuf, Result<Scenario, Vec<Problem>>)> =
        files(dirs).into_iter().map(|file| (file.clone(), scenario::load(&file))).collect();
    // The configurations lie beside the scenarios that name them.
    let configs: BTreeSet<_> = loaded
        .iter()
        .filter_map(|(_, scenario)| scenario.as_ref().ok()?.config.as_ref()?.file_name().map(ToOwned::to_owned))
        .collect();
    let (mut text, mut problems) = (String::new(), Vec::new());
    let width = loaded.iter().filter_map(|(_, scenario)| Some(scenario.as_ref().ok()?.name.len())).max().unwrap_or(0);
    for (file, scenario) in loaded {
        match scenario {
            Ok(scenario) => {
                let _ = writeln!(text, "{:<width$}  {}", printable(&scenario.name), printable(&scenario.about));
            }
            Err(_) if file.file_name().is_some_and(|name| configs.contains(name)) => {}
            Err(more) => problems.extend(more),
        }
    }
    (text, problems)
}

/// The files that may be scenarios, by name; of those with one name the first.
fn files(dirs: &[&Path]) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for dir in dirs {
        // A directory that isn't there has none.
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(LISTED_MAX);
        for file in entries.map(|entry| entry.path()).filter(|file| file.extension().is_some_and(|end| end == "toml")) {
            if !files.iter().any(|known| known.file_name() == file.file_name()) {
                files.push(file);
            }
        }
    }
    files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    files
}

fn stem(file: &Path) -> Option<String> {
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two directories of scenarios, one of which lists a name again.
    fn shipped() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("a/quiet.toml", "about = \"nothing happens\"\nconfig = \"gateway.toml\"\n"),
            ("a/gateway.toml", "[mqtt]\nurl = \"mqtt://broker\"\n"),
            ("a/README.md", "# not a scenario\n"),
            ("b/quiet.toml", "about = \"an older one\"\n"),
            ("b/solar-winter.toml", "about = \"weeks of dusk\"\n"),
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn a_bare_name_is_a_shipped_scenario_and_anything_else_a_path() {
        let dir = shipped();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let find = |name: &str| resolve_in(Path::new(name), &[&a, &b]);
        assert_eq!(find("quiet"), Ok(a.join("quiet.toml")), "the first directory wins");
        assert_eq!(find("solar-winter"), Ok(b.join("solar-winter.toml")));
        for path in ["quiet.toml", "./quiet", "/elsewhere/quiet"] {
            assert_eq!(find(path), Ok(path.into()));
        }
        let unknown = find("solar-wintr").unwrap_err();
        assert!(unknown.contains("did you mean \"solar-winter\"?"), "{unknown}");
    }

    #[test]
    fn shipped_scenarios_are_listed_with_what_they_show_and_their_configs_are_not() {
        let dir = shipped();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let (listed, problems) = list_in(&[&a, &b]);
        assert_eq!(listed, "quiet         nothing happens\nsolar-winter  weeks of dusk\n");
        assert!(problems.is_empty(), "{problems:?}");

        fs::write(b.join("broken.toml"), "wether = 1\n").unwrap();
        let (listed, problems) = list_in(&[&a, &b]);
        assert_eq!(listed.lines().count(), 2, "{listed}");
        assert!(problems.iter().all(|problem| problem.file == b.join("broken.toml")), "{problems:?}");
        assert!(!problems.is_empty());
    }
}
