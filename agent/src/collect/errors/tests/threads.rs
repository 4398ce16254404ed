//! A system that gives no thread for a moment.

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::directories::{journal, messages, next};
use super::*;
use crate::own_thread::tests::NoThreads;

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

#[test]
fn where_there_is_no_thread_to_look_for_a_source_that_is_told_and_it_is_looked_for_again() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("dev")).unwrap();
    make_fifo(&root.path().join("dev/kmsg"));
    block_on(async {
        let (batches, mut taken) = mpsc::channel(1);
        let (_stop, stopped) = watch::channel(false);
        let none = NoThreads::begin();
        let reading = spawn(&config(), root.path(), Some("kmsg:boot:1".to_owned()), batches, stopped);
        assert!(taken.recv().await.expect("it is looked for again").is_unread);
        drop(none);
        while taken.recv().await.expect("it is found").is_unread {}
        reading.abort();
    });
}

#[test]
fn where_there_is_no_thread_to_look_at_the_journals_directories_it_is_read_on() {
    let fake = Fake::new("", &format!("read go < $(dirname $0)/go; cat <<'END'\n{PLAIN}\nEND\nexec sleep 1000"));
    let go = fake.dir.path().join("go");
    make_fifo(&go);
    block_on(async {
        let (outlet, mut taken) = outlet(Some("s=before"));
        let reading = tokio::spawn(keep_reading(only(journal(&fake)), outlet));
        assert_eq!(taken.recv().await, Some(ErrorBatch::default()), "it is read");
        while !fs::exists(fake.dir.path().join("args-1")).unwrap() {
            tokio::task::yield_now().await;
        }
        let none = NoThreads::begin();
        while none.refused() < 2 {
            assert!(!reading.is_finished(), "it ended with the look");
            tokio::task::yield_now().await;
        }
        drop(none);
        fs::write(&go, "go\n").unwrap();
        assert_eq!(messages(&next(&mut taken).await), ["disk on fire"]);
        assert!(!fs::exists(fake.dir.path().join("args-2")).unwrap(), "it was not begun again");
        reading.abort();
    });
}
