//! Release directories: `releases/NAME` below one directory, with the links `current` and `previous` to two of them.
//! Going back is one rename of a link, so that there is a `current` at any instant; `previous` follows, so that going
//! back can be undone. Which releases are good or bad is kept beside them, for whoever comes after: a release that was
//! left for being bad isn't gone back to unless somebody names it. That units are still to be restarted is kept there,
//! too, from before the switch until they are: as a link, which whoever may see `current` can read.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::collect::clock;
use crate::engine::command::is_release_dir;
use crate::engine::io::{ActOutcome, Ending};
use crate::engine::outcome::Why;
use crate::engine::time::BootId;
use crate::store::disk;
use crate::wire::Reason;

const RELEASES: &str = "releases";
/// The link to the release that runs.
const CURRENT: &str = "current";
/// The link to the one that ran before it.
const PREVIOUS: &str = "previous";
/// What is known of releases.
const MARKS_FILE: &str = ".fieldmedic.json";
/// A link to BOOT/SINCE_US/TO/FROM, which is nowhere: what is said of [`Due`].
const DUE: &str = ".fieldmedic.due";
/// Releases that are remembered as good or bad: those that are gone are forgotten first.
const MARKS_MAX: usize = 64;
/// Bytes of that file.
const MARKS_BYTES_MAX: u64 = 64 * 1024;

/// Releases in a directory.
#[derive(Debug)]
pub(super) struct Slots<'a> {
    dir: &'a Path,
    /// The boot in which there are units to be restarted, where there are any.
    boot: Option<BootId>,
}

/// That units have not been restarted since `current` was switched. Another boot starts all of them from there, and who
/// switches it to another release sees to them: what is said of a boot that is over, or of a release that is not the
/// current one any more, counts for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// The release that they run.
    pub(super) from: String,
    /// The one that was switched to.
    pub(super) to: String,
    /// What was started later than this has been restarted, in microseconds of CLOCK_MONOTONIC; nothing has where the
    /// switch may not have been made yet.
    pub(super) since_us: u64,
}

/// Why a release can't be gone to, or marked: a fixed word, and what a human wants to know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", why.word())]
pub(super) struct SlotError {
    pub(super) why: Why,
    pub(super) detail: String,
}

/// Where a rollback has led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Switched {
    pub(super) from: String,
    pub(super) to: String,
    /// What went wrong beside it: the release runs all the same.
    pub(super) trouble: Vec<String>,
}

/// What is known of releases.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Marks {
    #[serde(default)]
    good: BTreeSet<String>,
    #[serde(default)]
    bad: BTreeSet<String>,
}

impl SlotError {
    pub(super) fn outcome(self) -> ActOutcome {
        let Self { why, detail } = self;
        // Nothing was begun, and it spends nothing.
        if why == Reason::NotSupported.into() {
            return ActOutcome::rejected(why, detail);
        }
        ActOutcome::failed(why, detail)
    }
}

impl<'a> Slots<'a> {
    pub(super) const fn new(dir: &'a Path) -> Self {
        Self { dir, boot: None }
    }

    /// The same where units are restarted for it, in this boot.
    pub(super) const fn restarting_in(self, boot: Option<BootId>) -> Self {
        Self { boot, ..self }
    }

    /// Goes back to the previous release, or to a named one. `None`: it runs already. Who goes back without a name
    /// finds the present release bad; who names one may have other reasons.
    pub(super) fn rollback(&self, to: Option<&str>) -> Result<Option<Switched>, SlotError> {
        let from = self.current()?;
        let (marks, mut trouble) = self.marks_or_none();
        let is_bad = to.is_none();
        let to = match to {
            Some(name) => name.to_owned(),
            None => self.back_from(&from, &marks)?,
        };
        self.check(&to)?;
        if to == from {
            return Ok(None);
        }
        self.writable()?;
        // Marked before it is left: whatever a crash leaves behind, it isn't gone back to unasked. A disk that takes no
        // mark takes a link all the same.
        if is_bad {
            let marked = self.mark(marks, |marks| {
                marks.good.remove(&from);
                marks.bad.insert(from.clone());
            });
            trouble.extend(marked.err().map(|error| error.detail));
        }
        let runs = self.due().map_or_else(|| from.clone(), |due| due.from);
        // What is started between this and the switch is started from where `current` still leads.
        let due = Due { from: runs, to: to.clone(), since_us: u64::MAX };
        self.set_due(&due)?;
        self.link_release(CURRENT, &to)?;
        let switched = Due { since_us: clock::monotonic_us(), ..due };
        trouble.extend(self.set_due(&switched).err().map(|error| error.detail));
        trouble.extend(self.link_release(PREVIOUS, &from).err().map(|error| error.detail));
        Ok(Some(Switched { from, to, trouble }))
    }

    /// What is still due; nothing is where `current` leads to what the units run.
    pub(super) fn due(&self) -> Option<Due> {
        let told = fs::read_link(self.dir.join(DUE)).ok()?;
        let mut words = told.to_str()?.splitn(4, '/');
        let boot = BootId::parse(words.next()?)?;
        let since_us = words.next()?.parse().ok()?;
        let mut name = || words.next().filter(|name| is_release_dir(name)).map(str::to_owned);
        let (to, from) = (name()?, name()?);
        // Where the switch may not have been made, an earlier one may still be due.
        let counts = |current: String| current != from && (current == to || since_us == u64::MAX);
        let is_due = self.boot == Some(boot) && self.linked(CURRENT).is_some_and(counts);
        is_due.then_some(Due { from, to, since_us })
    }

    fn set_due(&self, due: &Due) -> Result<(), SlotError> {
        let Some(boot) = self.boot else { return Ok(()) };
        let Due { from, to, since_us } = due;
        let note = PathBuf::from(format!("{boot}/{since_us}/{to}/{from}"));
        self.link(DUE, &note)
            .map_err(|error| self.failed(&format!("note in {DUE} that units are to be restarted"), &error))
    }

    /// The units are restarted.
    pub(super) fn clear_due(&self) -> Result<(), SlotError> {
        let path = self.dir.join(DUE);
        disk::remove(&path).map_err(|error| self.failed(&format!("delete {DUE}"), &error))
    }

    /// Takes up what a rollback that was cut off has left. What counts for nothing any more goes.
    pub(super) fn take_up(&self) -> Result<Option<Due>, SlotError> {
        if fs::symlink_metadata(self.dir.join(DUE)).is_err() {
            return Ok(None);
        }
        let Some(mut due) = self.due() else { return self.clear_due().map(|()| None) };
        if due.since_us == u64::MAX {
            due = Due { to: self.current()?, since_us: clock::monotonic_us(), ..due };
            self.set_due(&due)?;
        }
        if self.linked(PREVIOUS).as_ref() == Some(&due.to) {
            self.link_release(PREVIOUS, &due.from)?;
        }
        Ok(Some(due))
    }

    /// Marks the release that runs as good: its name, and what went wrong beside it.
    pub(super) fn mark_good(&self) -> Result<(String, Vec<String>), SlotError> {
        let current = self.current()?;
        self.check(&current)?;
        if let Some(Due { from, .. }) = self.due() {
            let detail = format!(
                "{from} still runs: not all units were restarted for {current}, which a rollback to {current} does"
            );
            return Err(SlotError { why: Ending::UnitFailed.into(), detail });
        }
        let (marks, trouble) = self.marks_or_none();
        self.mark(marks, |marks| {
            marks.bad.remove(&current);
            marks.good.insert(current.clone());
        })?;
        Ok((current, trouble))
    }

    /// The name of the release that units run, or will run once they are restarted.
    pub(super) fn running(&self) -> Option<String> {
        let current = self.linked(CURRENT)?;
        Some(self.due().map_or(current, |due| due.from))
    }

    /// The name of the release that `current` leads to.
    pub(super) fn current(&self) -> Result<String, SlotError> {
        self.linked(CURRENT).ok_or_else(|| {
            let link = self.dir.join(CURRENT);
            let why = fs::read_link(&link).err().map(|error| format!(": {error}")).unwrap_or_default();
            let detail = format!("{} is no link to {RELEASES}/NAME{why}", link.display());
            SlotError { why: Ending::NoCurrentRelease.into(), detail }
        })
    }

    /// Whether anything can be gone back from here, as far as that can be seen before.
    pub(super) fn fit(&self) -> Result<&Self, SlotError> {
        self.check(&self.current()?)?;
        Ok(self)
    }

    fn back_from(&self, current: &str, marks: &Marks) -> Result<String, SlotError> {
        let none = |detail: String| SlotError { why: Ending::NoOtherRelease.into(), detail };
        let Some(previous) = self.linked(PREVIOUS).filter(|previous| previous != current) else {
            return Err(none(format!("{} leads to no other release", self.dir.join(PREVIOUS).display())));
        };
        if marks.bad.contains(&previous) {
            return Err(none(format!("{previous} was left for being bad: name it to go there all the same")));
        }
        Ok(previous)
    }

    fn linked(&self, link: &str) -> Option<String> {
        let target = fs::read_link(self.dir.join(link)).ok()?;
        // Also as an absolute path, as other tools write it.
        let target = target.strip_prefix(self.dir).or_else(|_| target.strip_prefix(".")).unwrap_or(&target);
        let name = target.strip_prefix(RELEASES).ok()?.to_str()?;
        is_release_dir(name).then(|| name.to_owned())
    }

    /// A release is a directory of its own right there: a link could lead anywhere.
    fn check(&self, name: &str) -> Result<(), SlotError> {
        let no_such = |detail: String| Err(SlotError { why: Ending::NoSuchRelease.into(), detail });
        if !is_release_dir(name) {
            return no_such(format!("{name:?} is no plain name"));
        }
        let path = self.dir.join(RELEASES).join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => no_such(format!("{} is no directory", path.display())),
            Err(error) => no_such(format!("{}: {error}", path.display())),
        }
    }

    fn link_release(&self, link: &str, release: &str) -> Result<(), SlotError> {
        let to = PathBuf::from(RELEASES).join(release);
        self.link(link, &to).map_err(|error| self.failed(&format!("point {link} at {}", to.display()), &error))
    }

    /// Points a link there: made under another name, and renamed over it.
    fn link(&self, link: &str, to: &Path) -> io::Result<()> {
        let new = self.dir.join(format!(".{link}.new"));
        disk::remove(&new)?;
        symlink(to, &new)?;
        fs::rename(&new, self.dir.join(link))?;
        disk::sync_dir(self.dir)
    }

    /// Whether links can be put here: asked before anything is done, so that it is refused instead of failing.
    pub(super) fn writable(&self) -> Result<(), SlotError> {
        let refused = |errno: Errno| SlotError {
            why: Reason::NotSupported.into(),
            ..self.failed("nothing can be written", &errno.into())
        };
        access(self.dir, Access::WRITE_OK).map_err(refused)
    }

    /// What is known; or what is wrong with the file that says it.
    fn marks(&self) -> Result<Marks, String> {
        let path = self.dir.join(MARKS_FILE);
        let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        // Looked at once it is open: whoever may write here could put something else in its place in between. Opening a
        // pipe would wait for ever.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Marks::default()),
            Err(error) => return Err(wrong(&error)),
        };
        if !file.metadata().is_ok_and(|found| found.is_file()) {
            return Err(wrong(&"is no plain file"));
        }
        let mut bytes = Vec::new();
        file.take(MARKS_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| wrong(&error))?;
        if bytes.len() as u64 > MARKS_BYTES_MAX {
            return Err(wrong(&"is too large"));
        }
        serde_json::from_slice(&bytes).map_err(|error| wrong(&error))
    }

    /// The marks; none, and what is wrong, where they can't be read.
    fn marks_or_none(&self) -> (Marks, Vec<String>) {
        match self.marks() {
            Ok(marks) => (marks, Vec::new()),
            Err(wrong) => (Marks::default(), vec![format!("{wrong}: no release counted as good or bad")]),
        }
    }

    fn mark(&self, mut marks: Marks, change: impl FnOnce(&mut Marks)) -> Result<(), SlotError> {
        change(&mut marks);
        for names in [&mut marks.good, &mut marks.bad] {
            if names.len() > MARKS_MAX {
                names.retain(|name| self.check(name).is_ok());
            }
            while names.len() > MARKS_MAX {
                names.pop_first();
            }
        }
        let file = self.dir.join(MARKS_FILE);
        let text = serde_json::to_vec(&marks).unwrap_or_default();
        match disk::replace_file(&file, &text) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(&format!("write {MARKS_FILE}"), &error)),
        }
    }

    fn failed(&self, what: &str, error: &io::Error) -> SlotError {
        let dir = self.dir.display();
        let cure = if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
            format!(
                ": either it is mounted read-only, or fieldmedic-act.service lacks a drop-in with ReadWritePaths={dir}"
            )
        } else {
            String::new()
        };
        SlotError { why: Ending::RollbackFailed.into(), detail: format!("{dir}: {what}: {error}{cure}") }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "releases are directories and links")]
mod tests {
    use super::*;

    fn releases(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::create_dir_all(dir.path().join(RELEASES).join(name)).unwrap();
        }
        dir
    }

    fn point(dir: &tempfile::TempDir, link: &str, at: &str) {
        let path = dir.path().join(link);
        disk::remove(&path).unwrap();
        symlink(at, path).unwrap();
    }

    fn links(dir: &tempfile::TempDir) -> [String; 2] {
        [CURRENT, PREVIOUS].map(|link| Slots::new(dir.path()).linked(link).unwrap_or_default())
    }

    fn reason(result: Result<Option<Switched>, SlotError>) -> String {
        result.unwrap_err().why.word().to_owned()
    }

    /// 2.0 runs, 1.0 ran before it.
    fn usual() -> tempfile::TempDir {
        let dir = releases(&["1.0", "1.5", "2.0"]);
        point(&dir, CURRENT, "releases/2.0");
        point(&dir, PREVIOUS, "releases/1.0");
        dir
    }

    #[test]
    fn it_goes_back_to_the_previous_release_once_and_not_forth_again() {
        let dir = usual();
        let slots = Slots::new(dir.path());
        let switched = slots.rollback(None).unwrap().unwrap();
        assert_eq!((switched.from.as_str(), switched.to.as_str()), ("2.0", "1.0"));
        assert_eq!(links(&dir), ["1.0", "2.0"]);
        assert_eq!(reason(slots.rollback(None)), "no_other_release", "2.0 was left for being bad");
        assert_eq!(links(&dir), ["1.0", "2.0"]);
    }

    #[test]
    fn a_named_release_is_gone_to_even_if_it_was_bad_and_good_again_when_marked() {
        let dir = usual();
        let slots = Slots::new(dir.path());
        assert_eq!(slots.mark_good().unwrap(), ("2.0".to_owned(), vec![]));
        slots.rollback(Some("1.5")).unwrap().unwrap();
        assert_eq!(links(&dir), ["1.5", "2.0"]);
        // That somebody wished for another one says nothing against it.
        slots.rollback(None).unwrap().unwrap();
        assert_eq!(links(&dir), ["2.0", "1.5"]);
        assert_eq!(slots.rollback(Some("2.0")), Ok(None), "it runs already");
        let marks = slots.marks().unwrap();
        assert_eq!(
            (marks.good.into_iter().collect(), marks.bad.into_iter().collect()),
            (vec!["2.0".to_owned()], vec!["1.5".to_owned()])
        );
    }

    #[test]
    fn a_release_that_is_not_there_is_not_marked_good() {
        let dir = usual();
        point(&dir, CURRENT, "releases/9.9");
        let slots = Slots::new(dir.path());
        assert_eq!(slots.mark_good().unwrap_err().why, Ending::NoSuchRelease.into());
        assert_eq!(slots.marks(), Ok(Marks::default()));
    }

    #[test]
    fn nothing_outside_of_the_releases_is_ever_gone_to() {
        let dir = usual();
        let outside = releases(&["evil"]);
        symlink(outside.path(), dir.path().join(RELEASES).join("link")).unwrap();
        fs::write(dir.path().join(RELEASES).join("file"), "").unwrap();
        for name in ["..", ".", "", "/", "../../etc", "releases/1.0", "/etc", ".hidden", "link", "file", "9.9"] {
            assert_eq!(reason(Slots::new(dir.path()).rollback(Some(name))), "no_such_release", "{name:?}");
        }
        point(&dir, PREVIOUS, outside.path().to_str().unwrap());
        assert_eq!(reason(Slots::new(dir.path()).rollback(None)), "no_other_release");
        assert_eq!(links(&dir)[0], "2.0");
    }

    #[test]
    fn without_a_current_release_there_is_nothing_to_go_back_from() {
        let dir = releases(&["1.0"]);
        assert_eq!(reason(Slots::new(dir.path()).rollback(None)), "no_current_release");
        fs::create_dir(dir.path().join(CURRENT)).unwrap();
        assert_eq!(reason(Slots::new(dir.path()).rollback(Some("1.0"))), "no_current_release");
    }

    #[test]
    fn links_that_are_absolute_or_begin_with_a_dot_are_read_as_well() {
        let dir = usual();
        point(&dir, CURRENT, "./releases/2.0");
        assert_eq!(links(&dir), ["2.0", "1.0"]);
        for (link, name) in [(CURRENT, "2.0"), (PREVIOUS, "1.0")] {
            point(&dir, link, dir.path().join(RELEASES).join(name).to_str().unwrap());
        }
        assert_eq!(Slots::new(dir.path()).rollback(None).unwrap().unwrap().to, "1.0");
    }

    const BOOT: Option<BootId> = Some(BootId([7; 16]));

    #[test]
    fn until_its_units_are_restarted_a_release_neither_runs_nor_is_good() {
        let dir = usual();
        let slots = Slots::new(dir.path()).restarting_in(BOOT);
        let before = clock::monotonic_us();
        slots.rollback(Some("1.5")).unwrap().unwrap();
        let since_us = slots.due().unwrap().since_us;
        assert!((before..=clock::monotonic_us()).contains(&since_us), "{since_us}");
        assert_eq!((slots.running().as_deref(), links(&dir)), (Some("2.0"), ["1.5", "2.0"].map(str::to_owned)));
        assert_eq!(slots.mark_good().unwrap_err().why, Ending::UnitFailed.into());
        slots.rollback(Some("1.0")).unwrap().unwrap();
        assert_eq!(slots.running().as_deref(), Some("2.0"), "nothing has run 1.5");
        slots.clear_due().unwrap();
        assert_eq!(slots.running().as_deref(), Some("1.0"));
        assert_eq!(slots.mark_good().unwrap().0, "1.0");
    }

    #[test]
    fn another_boot_has_restarted_all_units_and_so_has_nobody_where_nothing_was_switched() {
        let dir = usual();
        let slots = Slots::new(dir.path()).restarting_in(BOOT);
        slots.rollback(None).unwrap().unwrap();
        let next = Slots::new(dir.path()).restarting_in(Some(BootId([8; 16])));
        assert_eq!((next.due(), next.running().as_deref()), (None, Some("1.0")));
        assert_eq!((next.take_up(), slots.take_up()), (Ok(None), Ok(None)), "it is gone by then");
        slots.set_due(&Due { from: "1.0".into(), to: "2.0".into(), since_us: u64::MAX }).unwrap();
        assert_eq!((slots.take_up(), dir.path().join(DUE).is_symlink()), (Ok(None), false));
    }

    #[test]
    fn what_was_cut_off_right_after_the_switch_is_taken_up_with_what_was_still_to_be_written() {
        let dir = usual();
        let slots = Slots::new(dir.path()).restarting_in(BOOT);
        slots.set_due(&Due { from: "2.0".into(), to: "1.0".into(), since_us: u64::MAX }).unwrap();
        point(&dir, CURRENT, "releases/1.0");
        let due = slots.take_up().unwrap().unwrap();
        let expected = ["1.0", "2.0"].map(str::to_owned);
        assert_eq!((due.from.as_str(), due.to.as_str(), links(&dir)), ("2.0", "1.0", expected));
        assert!(due.since_us <= clock::monotonic_us(), "what is restarted from now on is so once");
        assert_eq!(slots.take_up(), Ok(Some(due)));
    }

    #[test]
    fn what_was_due_for_one_release_is_not_for_another_that_an_updater_has_put_in_its_place() {
        let dir = usual();
        let slots = Slots::new(dir.path()).restarting_in(BOOT);
        slots.rollback(None).unwrap().unwrap();
        assert_eq!(slots.running().as_deref(), Some("2.0"));
        fs::create_dir(dir.path().join(RELEASES).join("3.0")).unwrap();
        point(&dir, CURRENT, "releases/3.0");
        assert_eq!((slots.due(), slots.running().as_deref()), (None, Some("3.0")));
        assert_eq!(slots.mark_good().unwrap().0, "3.0");
        slots.rollback(Some("1.0")).unwrap().unwrap();
        assert_eq!(slots.running().as_deref(), Some("3.0"), "it is what 1.0 was not started after");
    }

    #[test]
    fn a_switch_that_was_cut_off_before_it_was_made_leaves_due_what_was_so_before() {
        let dir = usual();
        let slots = Slots::new(dir.path()).restarting_in(BOOT);
        slots.rollback(Some("1.5")).unwrap().unwrap();
        slots.set_due(&Due { from: "2.0".into(), to: "1.0".into(), since_us: u64::MAX }).unwrap();
        assert_eq!(slots.running().as_deref(), Some("2.0"));
        let due = slots.take_up().unwrap().unwrap();
        assert_eq!((due.from.as_str(), due.to.as_str()), ("2.0", "1.5"));
    }

    #[test]
    fn what_keeps_anything_from_being_gone_back_from_is_seen_before() {
        let dir = usual();
        let told = || Slots::new(dir.path()).fit().err().map(|error| error.detail).unwrap_or_default();
        assert_eq!(told(), "");
        point(&dir, CURRENT, "releases/9.9");
        assert!(told().contains("releases/9.9: No such file"), "{}", told());
        point(&dir, CURRENT, "elsewhere/2.0");
        assert!(told().ends_with("current is no link to releases/NAME"), "{}", told());
        fs::remove_file(dir.path().join(CURRENT)).unwrap();
        assert!(told().contains("is no link to releases/NAME: No such file"), "{}", told());
    }

    #[test]
    fn what_is_no_note_of_a_restart_says_nothing() {
        let dir = usual();
        let slots = Slots::new(dir.path()).restarting_in(BOOT);
        let boot = BootId([7; 16]);
        for text in ["", "/1", "/1/2.0", "/-1/2.0/1.0", "/1/../1.0", "/1/2.0/..", "/1/2.0/1.0/1.5", "x/1/2.0/1.0"] {
            point(&dir, DUE, &format!("{boot}{text}"));
            assert_eq!((slots.due(), slots.running().as_deref()), (None, Some("2.0")), "{text}");
        }
    }

    /// The states between any two steps, in their order.
    #[test]
    fn wherever_it_is_cut_off_there_is_a_release_to_run_and_it_can_be_done_again() {
        type Cut = fn(&tempfile::TempDir);
        let cuts: [Cut; 4] = [
            |dir| symlink("releases/1.0", dir.path().join(".current.new")).unwrap(),
            |dir| point(dir, CURRENT, "releases/1.0"),
            |dir| {
                point(dir, CURRENT, "releases/1.0");
                symlink("releases/2.0", dir.path().join(".previous.new")).unwrap();
            },
            |dir| {
                point(dir, CURRENT, "releases/1.0");
                point(dir, PREVIOUS, "releases/2.0");
                fs::write(dir.path().join(".fieldmedic.new"), "{").unwrap();
            },
        ];
        for cut in cuts {
            let dir = usual();
            cut(&dir);
            let slots = Slots::new(dir.path());
            assert!(dir.path().join(CURRENT).join(".").is_dir());
            slots.rollback(Some("1.0")).unwrap();
            assert_eq!(slots.current().unwrap(), "1.0");
            assert!(matches!(slots.linked(PREVIOUS).as_deref(), Some("1.0" | "2.0")));
            slots.rollback(Some("2.0")).unwrap().unwrap();
            assert_eq!(links(&dir), ["2.0", "1.0"]);
        }
    }

    #[test]
    fn marks_that_can_not_be_read_mark_nothing_and_that_is_told() {
        let pipe = |path: &Path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        let link = |path: &Path| {
            fs::write(path.with_extension("elsewhere"), "{\"bad\":[\"1.0\"]}").unwrap();
            symlink(path.with_extension("elsewhere"), path).unwrap();
        };
        let cuts: [&dyn Fn(&Path); 4] = [
            &|path| fs::write(path, "{\"bad\":[\"1.0\"").unwrap(),
            &|path| fs::write(path, vec![b' '; 100_000]).unwrap(),
            &pipe,
            &link,
        ];
        for cut in cuts {
            let dir = usual();
            cut(&dir.path().join(MARKS_FILE));
            let (_, trouble) = Slots::new(dir.path()).mark_good().unwrap();
            assert!(trouble[0].contains("no release counted as good or bad"), "{trouble:?}");
            let dir = usual();
            cut(&dir.path().join(MARKS_FILE));
            let switched = Slots::new(dir.path()).rollback(None).unwrap().unwrap();
            assert_eq!((switched.to.as_str(), switched.trouble.len()), ("1.0", 1), "{switched:?}");
            assert_eq!(reason(Slots::new(dir.path()).rollback(None)), "no_other_release", "2.0 is marked by now");
        }
    }

    #[test]
    fn what_goes_wrong_beside_the_switch_is_told_with_it() {
        let dir = usual();
        fs::remove_file(dir.path().join(PREVIOUS)).unwrap();
        fs::create_dir(dir.path().join(PREVIOUS)).unwrap();
        fs::create_dir(dir.path().join(".fieldmedic.json")).unwrap();
        let switched = Slots::new(dir.path()).rollback(Some("1.0")).unwrap().unwrap();
        assert_eq!((switched.trouble.len(), links(&dir)[0].as_str()), (2, "1.0"), "{switched:?}");
    }

    #[test]
    fn no_more_releases_are_remembered_than_the_bound() {
        let dir = usual();
        let slots = Slots::new(dir.path());
        let many = |marks: &mut Marks| marks.bad.extend((0..200).map(|n| format!("gone-{n}")));
        slots.mark(Marks::default(), many).unwrap();
        assert!(slots.marks().unwrap().bad.len() <= MARKS_MAX);
    }
}
