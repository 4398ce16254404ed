//! Runs a runbook: a file of one directory that nobody but root, or the agent's own user, could have written. Never a
//! shell, never a path from outside. How it is run is the business of [`super::program`].

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot;

use super::program::{self, Program, Progress};
use crate::engine::io::ActOutcome;

/// Runs a runbook to its end. What goes wrong is `no_such_runbook`, `runbook_refused` (not fit to be run, or not to be
/// started), `exit_code`, `signal`, `timeout` or `canceled`.
pub async fn run(
    dir: &Path,
    name: &str,
    args: &[String],
    env: &[(&str, &str)],
    within: Duration,
    canceled: oneshot::Receiver<()>,
    progress: Progress<'_>,
) -> ActOutcome {
    let path = match resolve(dir, name, within).await {
        Ok(path) => path,
        Err(refusal) => return refusal,
    };
    match program::run(Program::new(&path, args, env), within, canceled, progress).await {
        Ok(finished) => finished.outcome(name),
        Err(error) => refused(format!("start {}: {error}{}", path.display(), hint(&error))),
    }
}

/// The file itself was there a moment ago.
fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::NotFound {
        "; it is there, but not the interpreter that its first line names (which is another one where that line ends \
         with CRLF), or the loader of a program"
    } else {
        ""
    }
}

/// The file that a name stands for, if nobody but root, or the one whose agent this is, could have written it.
pub(super) async fn resolve(dir: &Path, name: &str, within: Duration) -> Result<PathBuf, ActOutcome> {
    // One component as it stands: no separator, no "..", nothing hidden.
    if Path::new(name).file_name() != Some(OsStr::new(name)) || name.starts_with('.') {
        return Err(refused(format!("runbook {name:?} is no plain file name")));
    }
    let path = dir.join(name);
    match program::look_at(&path, program::unfit, within).await? {
        Ok(None) => Ok(path),
        Ok(Some(wrong)) => Err(refused(wrong)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ActOutcome::failed("no_such_runbook", format!("there is no {}", path.display())))
        }
        Err(error) => Err(refused(format!("look at {}: {error}", path.display()))),
    }
}

fn refused(detail: String) -> ActOutcome {
    ActOutcome::failed("runbook_refused", detail)
}

#[cfg(test)]
mod tests;
