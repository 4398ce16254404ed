//! The password for the broker: the first line of a file. It must not be logged, whatever happens.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use super::files::{self, PASSWORD_FILE};
use crate::engine::io::{LinkFault, LinkFaultKind};

/// The password that a file holds: its first line.
///
/// # Errors
/// Besides those of reading, where there is no first line or nothing in it: that is what systemd hands over for a
/// credential that isn't there, and a broker would only say that it is wrong.
pub fn password_in(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(files::read(path)?).map_err(|_| io::Error::other("it is not UTF-8"))?;
    // An editor that puts one there doesn't show it, and a broker would only say that the password is wrong.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    match text.lines().next() {
        None | Some("") => Err(io::Error::other("its first line is empty")),
        Some(line) => Ok(line.to_owned()),
    }
}

/// A password that may be replaced while the agent runs, as a token is that expires.
pub struct Password {
    path: PathBuf,
    /// The last that it had.
    good: Option<String>,
    /// What is wrong with the file, and was said.
    said: Option<String>,
}

impl Password {
    /// That of a file, which need not be there yet.
    #[must_use]
    pub const fn of(path: PathBuf) -> Self {
        Self { path, good: None, said: None }
    }

    /// Reads it for the next connection. Where that fails, the last that the file had stays in use.
    ///
    /// # Errors
    /// It has never had one. Nobody is asked to let us in then.
    pub fn read(&mut self) -> Result<(), LinkFault> {
        match password_in(&self.path) {
            Ok(password) => (self.good, self.said) = (Some(password), None),
            Err(error) => {
                let wrong = files::unfit(PASSWORD_FILE, "the password", &self.path, &error).detail;
                if self.good.is_none() {
                    return Err(LinkFault::new(LinkFaultKind::Refused, wrong));
                }
                if self.said.as_ref() != Some(&wrong) {
                    tracing::warn!("broker: {wrong}; what was read before stays in use");
                }
                self.said = Some(wrong);
            }
        }
        Ok(())
    }

    /// The last that was read.
    #[must_use]
    pub fn last(&self) -> Option<String> {
        self.good.clone()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Password({})", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_is_the_first_line_of_its_file_and_an_empty_one_is_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, password) in [
            ("geheim\nmore\n", Some("geheim")),
            ("geheim\r\n", Some("geheim")),
            ("\u{feff}geheim\n", Some("geheim")),
            ("\u{feff}\n", None),
            ("\n", None),
            ("\r\n", None),
            ("", None),
        ] {
            fs::write(file.path(), text).unwrap();
            assert_eq!(password_in(file.path()).ok().as_deref(), password, "{text:?}");
        }
    }

    #[test]
    fn one_that_was_replaced_is_used_and_the_last_good_one_while_there_is_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "first\n").unwrap();
        let mut password = Password::of(file.path().to_owned());
        let mut read = || {
            password.read().unwrap();
            (password.last().unwrap(), password.said.is_some())
        };
        assert_eq!(read(), ("first".to_owned(), false));
        fs::write(file.path(), "second\n").unwrap();
        assert_eq!(read(), ("second".to_owned(), false));
        fs::write(file.path(), "").unwrap();
        assert_eq!(read(), ("second".to_owned(), true));
        fs::write(file.path(), "third\n").unwrap();
        assert_eq!(read(), ("third".to_owned(), false));
        assert!(!format!("{password:?}").contains("third"));
    }
}
