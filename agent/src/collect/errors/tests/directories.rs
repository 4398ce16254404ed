//! The directories that the journal lies in come and go while it is read.

use super::*;

/// Each look at them follows the one before at once.
pub(super) fn journal(fake: &Fake) -> Source {
    Source::Journal(Journal::new(fake.program.clone(), filter(), fake.dir.path(), Duration::from_millis(1)))
}

/// The next batch that says something.
pub(super) async fn next(taken: &mut mpsc::Receiver<ErrorBatch>) -> ErrorBatch {
    loop {
        let batch = taken.recv().await.unwrap();
        if batch != ErrorBatch::default() {
            return batch;
        }
    }
}

pub(super) fn messages(batch: &ErrorBatch) -> Vec<&str> {
    batch.lines.iter().map(|line| line.message.as_str()).collect()
}

/// journald has copied what it had to persistent storage: there each entry has another number, in another file.
#[test]
fn a_journal_that_moves_to_persistent_storage_is_read_on_there_and_no_line_told_twice() {
    let copied = PLAIN.replace("s=e3;i=5;", "s=f4;i=1;");
    let (second, third) = (PLAIN.replace("i=5;b=01;m=1;t=6;x=7", "i=6;b=01;m=2;t=7;x=8"), PLAIN.replace("m=1", "m=3"));
    let moved = [copied, second.replace("s=e3", "s=f4"), third].join("\n");
    let fake = Fake::new(
        "",
        &format!(
            "if [ $RUN = 1 ]; then cat <<'END'\n{PLAIN}\nEND\nelse cat <<'END'\n{moved}\nEND\nfi\nexec sleep 1000"
        ),
    );
    block_on(async {
        let (outlet, mut taken) = outlet(Some("s=before"));
        let reading = tokio::spawn(keep_reading(only(journal(&fake)), outlet));
        assert_eq!(messages(&next(&mut taken).await), ["disk on fire"]);
        write_tree(fake.dir.path(), &[("var/log/journal/0123/system.journal", "")]);
        let batch = next(&mut taken).await;
        assert_eq!(messages(&batch), ["disk on fire", "disk on fire"], "the second and the third");
        assert!(!batch.is_unread, "it was begun again, and is well");
        reading.abort();
    });
    assert!(fake.args(2).contains("--cursor=s=e3;i=5;"), "{}", fake.args(2));
}

#[test]
fn where_no_journal_is_left_it_is_told_that_nothing_is_read() {
    let fake = Fake::new("", "exec sleep 1000");
    let machine = "aaaabbbbccccddddaaaabbbbccccdddd";
    write_tree(fake.dir.path(), &[("etc/machine-id", machine)]);
    let ours = fake.dir.path().join("run/log/journal").join(machine);
    block_on(async {
        let (outlet, mut taken) = outlet(Some("s=before"));
        fs::create_dir(&ours).unwrap();
        let reading = tokio::spawn(keep_reading(only(journal(&fake)), outlet));
        assert_eq!(taken.recv().await, Some(ErrorBatch::default()), "it is read");
        fs::remove_dir_all(fake.dir.path().join("run/log/journal/0123")).unwrap();
        assert!(next(&mut taken).await.is_unread, "what is left is an empty directory");
        reading.abort();
    });
}
