//! The reader of error lines, with the batches that it has read. Both are one thing: who begins another reader at the
//! engine's cursor must not take the batches of the old one too, which lie behind it. It doesn't look into a batch.

use std::path::Path;

use tokio::sync::{mpsc, watch};

use crate::collect::errors;
use crate::config::CollectErrors;
use crate::engine::observation::ErrorBatch;

/// Batches of error lines that may wait; the journal keeps the rest.
const BATCHES_MAX: usize = 4;

/// A running reader; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct ErrorLines {
    batches: mpsc::Receiver<ErrorBatch>,
    _stop: watch::Sender<bool>,
}

impl ErrorLines {
    /// Begins to read, behind the cursor.
    pub(super) fn begin(config: &CollectErrors, root: &Path, cursor: Option<&str>) -> Self {
        let (batches_in, batches) = mpsc::channel(BATCHES_MAX);
        let (stop, stopped) = watch::channel(false);
        drop(errors::spawn(config, root, cursor.map(str::to_owned), batches_in, stopped));
        Self { batches, _stop: stop }
    }

    /// The next batch; never, where there is nothing to read. Cancel-safe.
    pub(super) async fn next(&mut self) -> ErrorBatch {
        match self.batches.recv().await {
            Some(batch) => batch,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "the test writes the kernel's log")]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::time::Duration;

    use super::*;
    use crate::engine::observation::Severity;

    const BOOT: &str = "4f0d4f6e-3f63-4b9e-9c06-6bb7c6a8a0a1";

    /// A FIFO in place of /dev/kmsg, and who writes to it.
    fn kernel_log(root: &Path) -> fs::File {
        for dir in ["dev", "proc/sys/kernel/random"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::write(root.join("proc/sys/kernel/random/boot_id"), BOOT).unwrap();
        let device = root.join("dev/kmsg");
        rustix::fs::mknodat(rustix::fs::CWD, &device, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        fs::OpenOptions::new().read(true).write(true).open(device).unwrap()
    }

    async fn until(mut holds: impl FnMut() -> bool) {
        while !holds() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_new_reader_does_not_give_again_what_the_old_one_had_read() {
        let root = tempfile::tempdir().unwrap();
        let mut log = kernel_log(root.path());
        let config = CollectErrors {
            enabled: true,
            min_severity: Severity::Error,
            units: Vec::new(),
            max_clusters: 8,
            bucket: Duration::from_secs(60),
            app_socket: None,
        };
        let cursor = format!("kmsg:{BOOT}:10");
        let begin = || ErrorLines::begin(&config, root.path(), Some(&cursor));

        let mut errors = begin();
        log.write_all(b"3,11,1,-;first\n").unwrap();
        until(|| !errors.batches.is_empty()).await;
        errors = begin();
        // The old one was woken by its end, and must have gone: what it takes from a FIFO nobody else gets.
        tokio::task::yield_now().await;
        // The kernel's log gives it to the new reader too.
        for record in ["3,11,1,-;first\n", "3,12,1,-;second\n"] {
            log.write_all(record.as_bytes()).unwrap();
            until(|| rustix::io::ioctl_fionread(&log).unwrap() == 0).await;
        }
        let mut lines = Vec::new();
        while lines.len() < 2 {
            lines.extend(errors.next().await.lines.into_iter().map(|line| line.message));
        }
        assert_eq!(lines, ["first", "second"]);
    }
}
