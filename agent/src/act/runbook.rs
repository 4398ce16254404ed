//! Finds a runbook: a file of one directory that nobody but root, or the agent's own user, could have written. Never a
//! shell, never a path from outside. How it is run is the business of [`super::transient`].

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::program;
use crate::engine::io::{ActOutcome, Ending};

/// The file that a name stands for, if nobody but root, or the one whose agent this is, could have written it; else
/// `no_such_runbook` or `runbook_refused`.
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
            Err(ActOutcome::failed(Ending::NoSuchRunbook, format!("there is no {}", path.display())))
        }
        Err(error) => Err(refused(format!("look at {}: {error}", path.display()))),
    }
}

fn refused(detail: String) -> ActOutcome {
    ActOutcome::failed(Ending::RunbookRefused, detail)
}

#[cfg(test)]
mod tests;
