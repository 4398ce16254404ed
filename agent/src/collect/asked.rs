//! Questions to file systems whose server, card or bus may be gone: such a one answers never. Each is asked on a thread
//! that may hang without anybody else, and what hangs isn't asked again.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a file system may take to answer. A disk that has to spin up takes longer, and has answered by the next
/// round.
const PATIENCE: Duration = Duration::from_secs(1);

/// Of whatever type: threads and channels of each would be 16 KB of program.
type Answer = Box<dyn Any + Send>;

/// What was asked of which path and has not been answered yet: once each, whoever asks. All ask the same of one path.
pub(super) struct Asked(Mutex<BTreeMap<PathBuf, Receiver<Answer>>>);

impl Asked {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// What `question` says of `path`; or why there is no answer, in words. Takes a second at most.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        path: &Path,
        question: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, &'static str> {
        let at = path.to_owned();
        let answer = self.answer(path, Box::new(move || Box::new(question(&at))))?;
        answer.downcast().map(|answer| *answer).map_err(|_| "it was asked something else")
    }

    fn answer(&self, path: &Path, question: Box<dyn FnOnce() -> Answer + Send>) -> Result<Answer, &'static str> {
        let pending = self.pending().remove(path);
        let answer = match pending {
            // Who didn't answer then costs no other round its time.
            Some(answer) => answer.try_recv().map_err(|error| (answer, error == TryRecvError::Empty)),
            None => {
                let (sender, answer) = sync_channel(1);
                let ask = move || drop(sender.send(question()));
                thread::Builder::new()
                    .name("ask-disk".to_owned())
                    .spawn(ask)
                    .map_err(|_| "there is no thread to ask")?;
                answer.recv_timeout(PATIENCE).map_err(|error| (answer, error == RecvTimeoutError::Timeout))
            }
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err((answer, true)) => {
                self.pending().insert(path.to_owned(), answer);
                Err("no answer")
            }
            Err((_, false)) => Err("who asked has ended"),
        }
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Receiver<Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_does_not_answer_is_asked_once_and_heard_when_it_does() {
        static ASKED: Asked = Asked::new();
        let path = Path::new("/data");
        let (disk, hangs) = sync_channel(0);
        assert_eq!(ASKED.ask::<u32>(path, move |_| hangs.recv().unwrap()), Err("no answer"));
        assert_eq!(ASKED.ask::<u32>(path, |_| unreachable!("it is asked already")), Err("no answer"));
        assert_eq!(ASKED.ask(Path::new("/"), |_| 1), Ok(1), "another one answers");
        disk.send(2).unwrap();
        let heard = (0..10_000_000).find_map(|_| {
            thread::yield_now();
            ASKED.ask::<u32>(path, |_| unreachable!("its answer waits")).ok()
        });
        assert_eq!(heard, Some(2));
        assert_eq!(ASKED.ask(path, |_| 3), Ok(3), "asked anew");
    }
}
