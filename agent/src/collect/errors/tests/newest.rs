//! The question for the newest entry.

use super::*;

/// What it says is not kept in memory until it ends.
#[test]
fn of_a_journalctl_that_never_ends_the_first_line_is_its_newest_entry() {
    let fake = Fake::new(&format!("exec yes '{PLAIN}'"), "");
    let newest = block_on(async { fake.journal(filter()).newest(None, Duration::from_secs(10)).await });
    assert_eq!(newest.unwrap().as_deref(), Some("s=e3;i=5;b=01;m=1;t=6;x=7"));
}

#[test]
fn why_a_journalctl_has_no_newest_entry_is_told() {
    let fake = Fake::new("echo trouble >&2; exit 3", "");
    let newest = block_on(async { fake.journal(filter()).newest(None, PATIENCE).await });
    let why = "exit status: 3; it said \"trouble\"";
    assert!(matches!(&newest, Err(Ended::Failed(told)) if told.ends_with(why)), "{newest:?}");
}
