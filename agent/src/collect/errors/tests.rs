//! Error lines from recorded output and from stand-ins of journalctl.
#![expect(clippy::disallowed_methods, reason = "makes programs and bounds the waiting")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::journal::{Entry, Journal, LOOK_EVERY};
use super::kmsg::{Kmsg, Record, newest_lines};
use super::*;
use crate::collect::tests::write_tree;
use crate::engine::observation::{ErrorLine, ErrorSource};
use crate::engine::time::Unix;

mod directories;
mod newest;
mod threads;

/// No test waits for longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

const PLAIN: &str = r#"{"__CURSOR":"s=e3;i=5;b=01;m=1;t=6;x=7","__REALTIME_TIMESTAMP":"1700000000123456","__MONOTONIC_TIMESTAMP":"1234567","_BOOT_ID":"0123456789abcdef0123456789abcdef","_TRANSPORT":"syslog","PRIORITY":"3","SYSLOG_IDENTIFIER":"app","_PID":"77","_COMM":"app","_EXE":"/usr/bin/app","_SYSTEMD_UNIT":"app.service","MESSAGE":"disk on fire"}"#;
const UNIT_FAILED: &str = r#"{"__CURSOR":"s=e3;i=6;b=01","PRIORITY":"4","MESSAGE_ID":"d9b373ed55a64feb8242e02dbe79a49c","UNIT":"app.service","_PID":"1","_SYSTEMD_UNIT":"init.scope","_COMM":"systemd","_EXE":"/usr/lib/systemd/systemd","_TRANSPORT":"journal","MESSAGE":"app.service: Failed with result 'exit-code'."}"#;
const COREDUMP: &str = r#"{"__CURSOR":"s=e3;i=7;b=01","PRIORITY":"2","MESSAGE_ID":"fc2e22bc6ee647b6b90729ab34a250b1","COREDUMP_UNIT":"app.service","COREDUMP_EXE":"/usr/bin/app","COREDUMP_SIGNAL":"11","COREDUMP_SIGNAL_NAME":"SIGSEGV","_SYSTEMD_UNIT":"systemd-coredump@0-9-0.service","_EXE":"/usr/lib/systemd/systemd-coredump","_TRANSPORT":"journal","MESSAGE":"Process 77 (app) of user 0 dumped core."}"#;
const OOM: &str = r#"{"__CURSOR":"s=e3;i=8;b=01","PRIORITY":"3","_TRANSPORT":"kernel","SYSLOG_IDENTIFIER":"kernel","MESSAGE":"Out of memory: Killed process 77 (app) total-vm:1kB"}"#;

const THIS_BOOT: &str = "0123456789abcdef0123456789abcdef";

/// A stand-in for journalctl: a shell script. Its runs are told apart by a file that counts them.
struct Fake {
    dir: TempDir,
    program: PathBuf,
}

impl Fake {
    /// `newest` answers the question for the newest entry; `follow` runs with RUN set to 1, 2, …
    fn new(newest: &str, follow: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("journalctl");
        let home = dir.path().display();
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *' --lines=1 '*) {newest}\nexit 0;; esac\n\
             echo run >> {home}/runs\nRUN=$(wc -l < {home}/runs)\necho \"$@\" > {home}/args-$RUN\n{follow}\n"
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        write_tree(dir.path(), &[("run/log/journal/0123/system.journal", "")]);
        Self { dir, program }
    }

    fn journal(&self, filter: Filter) -> Journal {
        Journal::new(self.program.clone(), filter, self.dir.path(), LOOK_EVERY)
    }

    fn args(&self, run: u32) -> String {
        fs::read_to_string(self.dir.path().join(format!("args-{run}"))).unwrap()
    }
}

fn filter() -> Filter {
    Filter { min_severity: Severity::Error, units: Vec::new(), boot: BootId::parse(THIS_BOOT) }
}

fn config() -> CollectErrors {
    CollectErrors {
        enabled: true,
        min_severity: Severity::Error,
        units: Vec::new(),
        max_clusters: 1,
        bucket: Duration::from_secs(60),
        app_socket: None,
    }
}

fn outlet(cursor: Option<&str>) -> (Outlet, mpsc::Receiver<ErrorBatch>) {
    let (batches, taken) = mpsc::channel(64);
    (Outlet { batches, cursor: cursor.map(str::to_owned) }, taken)
}

/// The choice where there is but one source.
fn only(source: Source) -> impl FnMut() -> std::future::Ready<Result<Option<Source>, NotDone>> {
    let mut source = Some(source);
    move || std::future::ready(Ok(source.take()))
}

#[test]
fn a_journalctl_that_is_stopped_with_the_agent_is_no_fault() {
    let fake = Fake::new("", "kill -TERM $$");
    let ended = block_on(async { fake.journal(filter()).read(&mut outlet(Some("s=1")).0).await });
    assert!(matches!(&ended, Err(Ended::Stopped(why)) if why.contains("SIGTERM")), "{ended:?}");
}

/// One run of a stand-in that ends by itself: its batches, and how it ended.
fn run(fake: &Fake, filter: Filter, cursor: Option<&str>) -> (Vec<ErrorBatch>, Outlet, String) {
    block_on(async {
        let (mut outlet, mut taken) = outlet(cursor);
        let Err(Ended::Failed(why)) = fake.journal(filter).read(&mut outlet).await else {
            panic!("the receiver lives")
        };
        let mut batches = Vec::new();
        while let Ok(batch) = taken.try_recv() {
            batches.push(batch);
        }
        // That it is read.
        batches.retain(|batch| *batch != ErrorBatch::default());
        (batches, outlet, why)
    })
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("done in time") })
}

/// The lines of a run that prints `entries`.
fn lines_of(entries: &[&str], filter: Filter) -> Vec<ErrorLine> {
    let text = entries.join("\n");
    let fake = Fake::new("", &format!("cat <<'END'\n{text}\nEND"));
    run(&fake, filter, Some("s=before")).0.into_iter().flat_map(|batch| batch.lines).collect()
}

#[test]
fn an_entry_of_the_journal_is_read_with_all_that_is_known_of_it() {
    let lines = lines_of(&[PLAIN], filter());
    let mono = lines[0].mono.unwrap();
    assert!(mono >= Mono(1234), "{mono:?} leaves out time that this boot was suspended");
    let expected = ErrorLine {
        severity: Severity::Error,
        source: ErrorSource::Journal,
        kind: ErrorKind::Plain,
        message: "disk on fire".to_owned(),
        unit: Some("app.service".to_owned()),
        identifier: None,
        exe: Some("/usr/bin/app".to_owned()),
        signal: None,
        boot: None,
        mono: Some(mono),
        wall: Some(Unix(1_700_000_000_123)),
    };
    assert_eq!(lines, [expected]);
}

#[test]
fn a_program_without_a_unit_has_the_name_that_it_gives_itself() {
    let ended =
        PLAIN.replace(r#""_COMM":"app","_EXE":"/usr/bin/app","#, "").replace(r#""_SYSTEMD_UNIT":"app.service","#, "");
    let line = lines_of(&[&ended], filter()).remove(0);
    assert_eq!((line.unit, line.identifier.as_deref(), line.exe), (None, Some("app"), None));
    assert_eq!(lines_of(&[OOM], filter())[0].identifier, None, "the kernel is no program");
}

#[test]
fn an_entry_of_another_boot_says_which() {
    let other = Filter { boot: BootId::parse("ffffffffffffffffffffffffffffffff"), ..filter() };
    let lines = lines_of(&[PLAIN], other);
    assert_eq!(lines[0].boot, BootId::parse(THIS_BOOT));
    assert_eq!(lines[0].mono, Some(Mono(1234)));
}

#[test]
fn a_failed_unit_is_the_unit_that_systemd_speaks_of() {
    let lines = lines_of(&[UNIT_FAILED], filter());
    assert_eq!((lines[0].kind, lines[0].unit.as_deref()), (ErrorKind::UnitFailure, Some("app.service")));
    assert_eq!(lines[0].severity, Severity::Warning);
}

#[test]
fn of_what_the_kernel_says_in_passing_only_what_tells_of_trouble_is_taken() {
    let at_info = |message: &str| {
        OOM.replace(r#""PRIORITY":"3""#, r#""PRIORITY":"6""#)
            .replace("Out of memory: Killed process 77 (app) total-vm:1kB", message)
    };
    let gone = at_info("usb 1-1: USB disconnect, device number 7");
    let new = at_info("usb 1-1: new high-speed USB device number 8 using xhci_hcd");
    let forged = gone.replace("kernel\"", "journal\"").replace("\"PRIORITY\":\"6\"", "\"PRIORITY\":\"3\"");
    let lines = lines_of(&[&new, &gone, &forged], filter());
    let found: Vec<_> = lines.iter().map(|line| (line.source, line.severity)).collect();
    assert_eq!(found, [(ErrorSource::Kernel, Severity::Info), (ErrorSource::Journal, Severity::Error)]);

    let asked = Fake::new("", "");
    run(&asked, filter(), Some("s=1"));
    assert!(asked.args(1).ends_with("_TRANSPORT=kernel PRIORITY=4 PRIORITY=5 PRIORITY=6\n"), "{}", asked.args(1));
}

#[test]
fn a_restart_that_systemd_schedules_is_known_and_nobody_else_can_count_one() {
    let restart = UNIT_FAILED
        .replace("d9b373ed55a64feb8242e02dbe79a49c", "5eb03494b6584870a536b337290809b3")
        .replace("Failed with result 'exit-code'.", "Scheduled restart job, restart counter is at 3.");
    let forged = restart.replace(r#""_PID":"1""#, r#""_PID":"77""#);
    let lines = lines_of(&[&restart, &forged], filter());
    let found: Vec<_> = lines.iter().map(|line| (line.kind, line.unit.as_deref())).collect();
    assert_eq!(found, [(ErrorKind::UnitRestart, Some("app.service"))], "and below what is collected it is no line");
}

#[test]
fn nobody_but_systemd_can_count_a_failure_or_a_kill_nor_anybody_but_its_service_a_core_dump() {
    let at_error = UNIT_FAILED.replace(r#""PRIORITY":"4""#, r#""PRIORITY":"3""#);
    let by_a_process = at_error.replace(r#""_PID":"1""#, r#""_PID":"77""#).replace("init.scope", "web.service");
    let kill = by_a_process.replace("d9b373ed55a64feb8242e02dbe79a49c", "d989611b15e44c9dbf31e3c81256e4ed");
    let dump = COREDUMP.replace(r#""systemd-coredump@0-9-0.service""#, r#""web.service""#);
    let lines = lines_of(&[&at_error, &by_a_process, &kill, &dump], filter());
    let found: Vec<_> = lines.iter().map(|line| (line.kind, line.source, line.unit.as_deref())).collect();
    let web = (ErrorKind::Plain, ErrorSource::Journal, Some("web.service"));
    assert_eq!(found, [(ErrorKind::UnitFailure, ErrorSource::Journal, Some("app.service")), web, web, web]);
}

#[test]
fn a_process_can_not_put_its_errors_on_another_unit() {
    let forged = PLAIN.replace(r#""_PID":"77""#, r#""_PID":"77","UNIT":"victim.service""#);
    assert_eq!(lines_of(&[&forged], filter())[0].unit.as_deref(), Some("app.service"));
}

#[test]
fn a_core_dump_names_the_program_that_died_and_not_the_one_that_noted_it() {
    let line = lines_of(&[COREDUMP], filter()).remove(0);
    assert_eq!((line.source, line.kind), (ErrorSource::Coredump, ErrorKind::Coredump));
    assert_eq!(line.exe.as_deref(), Some("/usr/bin/app"));
    assert_eq!(line.unit.as_deref(), Some("app.service"));
    assert_eq!(line.signal.as_deref(), Some("SIGSEGV"));
}

#[test]
fn a_kill_for_want_of_memory_is_counted_once() {
    let before = OOM.replace("Out of memory: Killed process 77", "oom-kill:constraint=CONSTRAINT_NONE,task=app");
    let after = r#"{"__CURSOR":"s=e3;i=9;b=01","PRIORITY":"5","MESSAGE_ID":"fe6faa94e7774663a0da52717891d8ef","UNIT":"app.service","_PID":"1","MESSAGE":"app.service: A process of this unit has been killed by the OOM killer."}"#;
    let kinds = |filter| lines_of(&[&before, OOM, after], filter).iter().map(|line| line.kind).collect::<Vec<_>>();
    assert_eq!(kinds(filter()), [ErrorKind::Plain, ErrorKind::OomKill]);
    let lines = lines_of(&[after], Filter { units: vec!["app.service".to_owned()], ..filter() });
    assert_eq!(lines[0].kind, ErrorKind::OomKill, "with units named, the kernel's own line is not read");
}

#[test]
fn a_kill_for_want_of_memory_is_known_by_each_of_the_kernels_ways_to_say_it() {
    for (message, kind) in [
        ("Out of memory: Kill process 77 (app) score 900 or sacrifice child", ErrorKind::OomKill),
        ("Memory cgroup out of memory: Killed process 77 (app) total-vm:1kB", ErrorKind::OomKill),
        ("Out of memory (oom_kill_allocating_task): Killed process 77 (app) total-vm:1kB", ErrorKind::OomKill),
        ("Out of memory and no killable processes...", ErrorKind::Plain),
        ("app: Out of memory: Killed process 77 (not by the kernel)", ErrorKind::Plain),
    ] {
        let line = OOM.replace("Out of memory: Killed process 77 (app) total-vm:1kB", message);
        assert_eq!(lines_of(&[&line], filter())[0].kind, kind, "{message}");
    }
}

#[test]
fn a_message_may_be_bytes_or_several_or_too_long_for_journalctl() {
    let with = |message: &str| PLAIN.replace(r#""disk on fire""#, message);
    let entries = [with("[100,105,255,107]"), with(r#"["first","second"]"#), with("null")];
    let lines = lines_of(&[&entries[0], &entries[1], &entries[2]], filter());
    let messages: Vec<&str> = lines.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(messages, ["di\u{fffd}k", "first", "(a message of more than 4 KiB)"]);
}

#[test]
fn of_a_message_that_is_too_long_for_json_the_beginning_is_asked_for_so_often_and_no_more() {
    let fake = Fake::new(
        "case \"$*\" in *'--output=cat --cursor=s=e3;i=5;b=01;'*) printf 'it broke '; yes | head -c 100000;; esac",
        &format!("for i in $(seq 12); do cat <<'END'\n{}\nEND\ndone", PLAIN.replace(r#""disk on fire""#, "null")),
    );
    let (batches, ..) = run(&fake, filter(), Some("s=before"));
    let messages: Vec<String> = batches.into_iter().flat_map(|batch| batch.lines).map(|line| line.message).collect();
    assert_eq!(messages.len(), 12);
    let (asked, others) = messages.split_at(10);
    assert!(asked.iter().all(|text| text.starts_with("it broke y\n") && text.len() == MESSAGE_BYTES_MAX), "{asked:?}");
    assert!(others.iter().all(|text| text == "(a message of more than 4 KiB)"), "{others:?}");
}

#[test]
fn an_entry_without_a_message_is_no_line() {
    let entries = [&PLAIN.replace(r#","MESSAGE":"disk on fire""#, ""), PLAIN];
    assert_eq!(lines_of(&entries, filter()).len(), 1);
}

#[test]
fn a_long_message_is_cut_between_two_characters() {
    let long = PLAIN.replace("disk on fire", &format!("a{}", "ä".repeat(2000)));
    let message = lines_of(&[&long], filter()).remove(0).message;
    assert_eq!(message.len(), MESSAGE_BYTES_MAX - 1);
    assert!(message.ends_with('ä'));
}

#[test]
fn the_agents_own_lines_are_passed_over_but_move_the_cursor() {
    let by_name = called_fieldmedic().replace(r#""_COMM":"app""#, r#""_COMM":"fieldmedic""#);
    let by_pid = PLAIN.replace(r#""_PID":"77""#, &format!(r#""_PID":"{}""#, std::process::id()));
    let last = by_pid.replace("i=5", "i=99");
    let fake = Fake::new("", &format!("cat <<'END'\n{UNIT_FAILED}\n{by_name}\n{last}\nEND"));
    let (batches, ..) = run(&fake, filter(), Some("s=before"));
    assert_eq!(batches.len(), 1, "{batches:?}");
    assert_eq!(batches[0].lines.len(), 1);
    assert_eq!(batches[0].cursor.as_deref(), Some("s=e3;i=99;b=01;m=1;t=6;x=7"));
}

#[test]
fn what_another_program_calls_fieldmedic_is_read_as_anothers() {
    let entry = |line: &str| Entry::parse(line.as_bytes()).unwrap();
    let own = |line: &str| entry(line).is_own(BootId::parse(THIS_BOOT), 1);
    let by_logger = called_fieldmedic().replace(r#""_COMM":"app""#, r#""_COMM":"logger""#);
    assert!(!own(&by_logger));
    assert!(own(&called_fieldmedic().replace(r#""_COMM":"app","#, "")), "journald knows nothing of who wrote it");
}

/// What somebody has written who says that he is the agent.
fn called_fieldmedic() -> String {
    PLAIN.replace(r#""SYSLOG_IDENTIFIER":"app""#, r#""SYSLOG_IDENTIFIER":"fieldmedic""#)
}

#[test]
fn another_boots_process_of_the_agents_pid_and_the_journals_pid_1_are_not_the_agent() {
    let own = |line: &str, pid| Entry::parse(line.as_bytes()).unwrap().is_own(BootId::parse(THIS_BOOT), pid);
    assert!(own(PLAIN, 77));
    assert!(!own(&PLAIN.replace(THIS_BOOT, &"5".repeat(32)), 77), "of the boot before");
    let by_systemd = UNIT_FAILED.replace(r#""PRIORITY""#, &format!(r#""_BOOT_ID":"{THIS_BOOT}","PRIORITY""#));
    assert!(!own(&by_systemd, 1), "the agent is a container's first process");
}

#[test]
fn what_is_no_entry_or_too_long_is_counted_as_missed_and_the_next_line_is_read() {
    let fake = Fake::new(
        "",
        &format!("echo garbage; echo '[1]'; head -c 100000 /dev/zero | tr '\\0' x; echo; cat <<'END'\n{PLAIN}\nEND"),
    );
    let (batches, ..) = run(&fake, filter(), Some("s=before"));
    assert_eq!(batches.iter().map(|batch| batch.missed).sum::<u64>(), 3, "{batches:?}");
    assert_eq!(batches.iter().map(|batch| batch.lines.len()).sum::<usize>(), 1);
}

#[test]
fn a_burst_comes_in_batches_of_a_bounded_size() {
    let fake = Fake::new("", &format!("for i in $(seq 1000); do cat <<'END'\n{PLAIN}\nEND\ndone"));
    block_on(async {
        let (mut outlet, mut taken) = outlet(Some("s=before"));
        let journal = fake.journal(filter());
        let mut count = 0;
        let receive = async {
            while let Some(batch) = taken.recv().await {
                assert!(batch.lines.len() <= BATCH_LINES_MAX);
                count += batch.lines.len();
                if count == 1000 {
                    return;
                }
            }
        };
        tokio::select! { () = receive => {}, _ = journal.read(&mut outlet) => {} }
        while let Ok(batch) = taken.try_recv() {
            count += batch.lines.len();
        }
        assert_eq!(count, 1000);
    });
}

#[test]
fn a_first_run_begins_at_the_newest_entry_and_keeps_where_that_was() {
    let fake = Fake::new(&format!("cat <<'END'\n{PLAIN}\nEND"), "");
    let (batches, outlet, _) = run(&fake, filter(), None);
    let mark = ErrorBatch { cursor: Some("s=e3;i=5;b=01;m=1;t=6;x=7".to_owned()), ..ErrorBatch::default() };
    assert_eq!(batches, [mark]);
    assert!(fake.args(1).contains("--cursor=s=e3;i=5;b=01;m=1;t=6;x=7"), "{}", fake.args(1));
    assert_eq!(outlet.cursor.as_deref(), Some("s=e3;i=5;b=01;m=1;t=6;x=7"));
}

#[test]
fn the_entry_that_the_cursor_names_is_not_told_again() {
    let fake = Fake::new("", &format!("cat <<'END'\n{PLAIN}\n{OOM}\nEND"));
    let (batches, ..) = run(&fake, filter(), Some("s=e3;i=5;b=01;m=1;t=6;x=7"));
    let messages: Vec<_> = batches.iter().flat_map(|batch| &batch.lines).map(|line| &line.message).collect();
    assert_eq!(messages, ["Out of memory: Killed process 77 (app) total-vm:1kB"]);
}

/// There are entries of this boot.
fn newest() -> String {
    format!("cat <<'END'\n{PLAIN}\nEND")
}

#[test]
fn a_journal_that_has_nothing_of_this_boot_is_read_on_as_it_is() {
    let fake = Fake::new("", "");
    run(&fake, filter(), Some("s=e3;i=1;b=ffffffffffffffffffffffffffffffff;m=1;t=6;x=7"));
    assert!(fake.args(1).contains("--follow") && !fake.args(1).contains("_BOOT_ID="), "{}", fake.args(1));
}

/// Of the boot before, whose cursor it was: one line. Of this boot, dated before it: one line, that only asking for
/// this boot gives.
#[test]
fn after_a_reboot_what_is_left_of_the_boot_before_is_read_and_then_this_boot_from_its_beginning() {
    let of = |boot: &str, n: u32| {
        let cursor = format!("s=e3;i={n};b={boot};m=1;t=6;x=7");
        PLAIN.replace("s=e3;i=5;b=01;m=1;t=6;x=7", &cursor).replace("on fire", &format!("{n}")).replace(THIS_BOOT, boot)
    };
    let before = "ffffffffffffffffffffffffffffffff";
    let (old, new, twice) = (of(before, 2), of(THIS_BOOT, 3), of(THIS_BOOT, 4));
    let first = format!("if [ $RUN = 1 ]; then cat <<'END'\n{old}\n{twice}\nEND\nexit 0; fi");
    let fake = Fake::new(&newest(), &format!("{first}\ncat <<'END'\n{new}\n{twice}\nEND"));
    let (batches, outlet, _) = run(&fake, filter(), Some(&format!("s=e3;i=1;b={before};m=1;t=6;x=7")));
    let lines = || batches.iter().flat_map(|batch| &batch.lines);
    let found: Vec<_> = lines().map(|line| (line.message.as_str(), line.boot.is_some())).collect();
    assert_eq!(found, [("disk 2", true), ("disk 3", false), ("disk 4", false)]);
    assert!(outlet.cursor.is_some_and(|cursor| cursor.contains(THIS_BOOT)));
    let (earlier, this) = (fake.args(1), fake.args(2));
    assert!(earlier.contains("--cursor=s=e3;i=1;") && !earlier.contains("--follow"), "{earlier}");
    assert!(!this.contains("--cursor") && this.contains("--follow"), "{this}");
    assert_eq!(this.matches(&format!("_BOOT_ID={THIS_BOOT}")).count(), 3, "with each of the alternatives: {this}");

    // The next run of this boot goes on where this one was.
    run(&fake, filter(), Some(&format!("s=e3;i=4;b={THIS_BOOT};m=1;t=6;x=7")));
    assert!(fake.args(3).contains("--cursor=s=e3;i=4;") && !fake.args(3).contains("_BOOT_ID="), "{}", fake.args(3));
}

#[test]
fn a_cursor_of_the_boot_before_that_the_journal_refuses_keeps_nothing_of_this_boot_back() {
    let refuses = "if [ $RUN = 1 ]; then echo 'Failed to seek to cursor: Invalid argument' >&2; exit 1; fi";
    let fake = Fake::new(&newest(), &format!("{refuses}\ncat <<'END'\n{PLAIN}\nEND"));
    let (batches, ..) = run(&fake, filter(), Some("s=e3;i=1;b=ffffffffffffffffffffffffffffffff;m=1;t=6;x=7"));
    assert_eq!(batches.iter().map(|batch| batch.lines.len()).sum::<usize>(), 1);
}

#[test]
fn a_cursor_that_the_journal_refuses_is_given_up_and_one_of_another_source_never_tried() {
    let fake = Fake::new("", "echo 'Failed to seek to cursor: Invalid argument' >&2; exit 1");
    let (_, outlet, why) = run(&fake, filter(), Some("s=nonsense"));
    assert_eq!(outlet.cursor, None);
    assert!(why.contains("Invalid argument") && why.contains("exit status: 1"), "{why}");
    run(&fake, filter(), Some("kmsg:boot:1"));
    assert!(!fake.args(2).contains("--cursor"), "{}", fake.args(2));
}

#[test]
fn what_is_asked_of_journalctl_is_the_severity_or_what_is_counted_apart() {
    let fake = Fake::new("", "");
    write_tree(fake.dir.path(), &[("etc/machine-id", "aaaabbbbccccddddaaaabbbbccccdddd\n")]);
    run(&fake, Filter { units: vec!["app.service".to_owned()], ..filter() }, Some("s=1"));
    let args = fake.args(1);
    let expected = "--cursor=s=1 --unit=app.service _MACHINE_ID=aaaabbbbccccddddaaaabbbbccccdddd PRIORITY=0 PRIORITY=1 \
                    PRIORITY=2 PRIORITY=3 + _MACHINE_ID=aaaabbbbccccddddaaaabbbbccccdddd MESSAGE_ID=d9b373";
    assert!(args.contains(expected), "{args}");
    assert!(args.contains(&format!("--root={}", fake.dir.path().display())), "{args}");
}

#[test]
fn a_journalctl_that_ends_is_started_again_after_the_last_batch() {
    let fake = Fake::new(
        "",
        &format!("if [ $RUN = 1 ]; then cat <<'END'\n{PLAIN}\nEND\nexit 3; fi\ncat <<'END'\n{OOM}\nEND\nread forever"),
    );
    block_on(async {
        let (outlet, mut taken) = outlet(Some("s=before"));
        let source = Source::Journal(fake.journal(filter()));
        let reading = tokio::spawn(keep_reading(only(source), outlet));
        let begun = ErrorBatch::default();
        assert_eq!(taken.recv().await.unwrap(), begun);
        assert_eq!(taken.recv().await.unwrap().lines[0].message, "disk on fire");
        assert_eq!(taken.recv().await.unwrap(), begun);
        assert_eq!(taken.recv().await.unwrap().lines[0].kind, ErrorKind::OomKill);
        reading.abort();
    });
    assert!(fake.args(2).contains("--cursor=s=e3;i=5;"), "{}", fake.args(2));
}

#[test]
fn a_journalctl_that_hangs_over_its_newest_entry_is_tried_again() {
    let fake = Fake::new("exec sleep 1000", "");
    let newest = block_on(async { fake.journal(filter()).newest(None, Duration::from_millis(50)).await });
    assert!(matches!(&newest, Err(Ended::Failed(why)) if why.ends_with("no answer within 50ms")), "{newest:?}");
}

#[test]
fn a_shutdown_ends_the_task_and_its_child() {
    let fake = Fake::new("", "echo $$ > $(dirname $0)/pid; exec sleep 1000");
    block_on(async {
        let (outlet, _taken) = outlet(Some("s=before"));
        let (stop, stopped) = watch::channel(false);
        let source = Source::Journal(fake.journal(filter()));
        let reading = tokio::spawn(read_until(only(source), outlet, stopped));
        let file = fake.dir.path().join("pid");
        let pid = loop {
            match fs::read_to_string(&file) {
                Ok(pid) if pid.ends_with('\n') => break pid,
                _ => tokio::task::yield_now().await,
            }
        };
        stop.send(true).unwrap();
        reading.await.unwrap();
        // A child that was killed is reaped by the runtime, in its own time.
        while fs::exists(format!("/proc/{}", pid.trim())).unwrap() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn without_journal_and_kernel_log_the_task_ends_at_once() {
    let root = tempfile::tempdir().unwrap();
    block_on(async {
        let (batches, _taken) = mpsc::channel(1);
        let (_stop, stopped) = watch::channel(false);
        spawn(&config(), root.path(), None, batches, stopped).await.unwrap();
    });
}

#[test]
fn a_directory_without_journal_files_is_no_journal() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("var/log/journal/0123")).unwrap();
    assert!(Journal::find(&filter(), root.path()).is_none());
}

#[test]
fn a_record_of_the_kernel_is_read_without_its_dictionary() {
    let record =
        Record::parse(b"3,1167,1234567,-,caller=T1;EXT4-fs error \\x28sda1\\x29\n SUBSYSTEM=block\n DEVICE=b8:1\n");
    let expected = Record {
        severity: Severity::Error,
        facility: 0,
        seq: 1167,
        stamp_us: 1_234_567,
        message: "EXT4-fs error (sda1)".to_owned(),
    };
    assert_eq!(record, Some(expected));
}

#[test]
fn what_a_program_writes_to_the_kernels_log_is_not_the_kernels() {
    let line = Record::parse(b"11,7,1,-;Out of memory: Killed process 1 (not really)").unwrap().line();
    assert_eq!((line.source, line.kind), (ErrorSource::Journal, ErrorKind::Plain));
    let line = Record::parse(b"3,8,1,-;Out of memory: Killed process 1 (app)").unwrap().line();
    assert_eq!((line.source, line.kind), (ErrorSource::Kernel, ErrorKind::OomKill));
}

#[test]
fn the_newest_lines_of_the_ring_are_told_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("kmsg");
    rustix::fs::mknodat(rustix::fs::CWD, &device, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    // Open for reading, too: or it would wait for a reader.
    let write = fs::OpenOptions::new().read(true).write(true).open(&device).unwrap();
    let records = "6,1,5000000,-;old\n4,2,12345678,-;usb \\xe2\\x82\\xac\n SUBSYSTEM=usb\nnonsense\n3,3,9,-;new\n";
    rustix::io::write(&write, records.as_bytes()).unwrap();
    assert_eq!(newest_lines(&device, 2).unwrap(), ["[   12.345678] usb €", "[    0.000009] new"]);
    assert!(newest_lines(&device, 2).unwrap().is_empty());
    assert!(newest_lines(&dir.path().join("none"), 2).is_err());
}

#[test]
fn a_file_in_place_of_the_device_is_read_from_its_end_on_and_a_line_once_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("kmsg");
    fs::write(&device, "3,1,1,-;history\n").unwrap();
    block_on(async {
        let (outlet, mut taken) = outlet(None);
        let reading = tokio::spawn(keep_reading(only(Source::Kmsg(Kmsg::new(device.clone(), filter()))), outlet));
        assert_eq!(taken.recv().await.unwrap().lines, [], "it is read");
        let mut write = fs::OpenOptions::new().append(true).open(&device).unwrap();
        write.write_all(b"3,2,2,-;first\n SUBSYSTEM=usb\n3,3,3,-;sec").unwrap();
        let message = |batch: ErrorBatch| batch.lines.into_iter().map(|line| line.message).collect::<Vec<_>>();
        assert_eq!(message(taken.recv().await.unwrap()), ["first"]);
        write.write_all(b"ond\n3,4,4,-;third\n").unwrap();
        assert_eq!(message(taken.recv().await.unwrap()), ["second", "third"]);
        reading.abort();
    });
}

#[test]
fn of_a_new_boot_everything_is_read_and_what_the_ring_no_longer_holds_is_counted_as_missed() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("kmsg");
    fs::write(&device, "3,5,1,-;the oldest that is left\n3,6,2,-;and the next\n").unwrap();
    block_on(async {
        let (outlet, mut taken) = outlet(Some(&format!("kmsg:{}:900", BootId([7; 16]))));
        let reading = tokio::spawn(keep_reading(only(Source::Kmsg(Kmsg::new(device, filter()))), outlet));
        assert_eq!(taken.recv().await.unwrap().lines, [], "it is read");
        let batch = taken.recv().await.unwrap();
        assert_eq!((batch.lines.len(), batch.missed), (2, 5), "{batch:?}");
        reading.abort();
    });
}

#[test]
fn a_tree_without_a_boot_id_is_of_the_boot_that_runs_so_what_came_while_nobody_read_is_read() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("dev")).unwrap();
    fs::write(root.path().join("dev/kmsg"), "3,1,1,-;seen before\n3,2,2,-;while away\n").unwrap();
    block_on(async {
        let cursor = format!("kmsg:{}:1", crate::collect::clock::boot_id(Path::new("/")).unwrap());
        let (batches, mut taken) = mpsc::channel(4);
        let (_keep, shutdown) = watch::channel(false);
        let reading = spawn(&config(), root.path(), Some(cursor), batches, shutdown);
        assert_eq!(taken.recv().await.unwrap().lines, [], "it is read");
        let batch = taken.recv().await.unwrap();
        assert_eq!(batch.lines.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["while away"]);
        reading.abort();
    });
}

#[test]
fn a_kill_for_want_of_memory_is_taken_below_the_severity_that_is_collected() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("kmsg");
    let kill = "Out of memory: Killed process 77 (app) total-vm:1kB";
    let records = [format!("3,1,1,-;{kill}\n"), format!("3,2,2,-;Memory cgroup {}\n", kill.replace('O', "o"))];
    let others = format!("11,3,3,-;{kill}, says a program\n3,4,4,-;some other error\n2,5,5,-;the last\n");
    fs::write(&device, records.concat() + &others).unwrap();
    block_on(async {
        let (outlet, mut taken) = outlet(Some(&format!("kmsg:{}:0", filter().boot.unwrap())));
        let filter = Filter { min_severity: Severity::Critical, ..filter() };
        let reading = tokio::spawn(keep_reading(only(Source::Kmsg(Kmsg::new(device, filter))), outlet));
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &ErrorLine| line.message != "the last") {
            lines.extend(taken.recv().await.unwrap().lines);
        }
        let kinds: Vec<_> = lines.iter().map(|line| line.kind).collect();
        assert_eq!(kinds, [ErrorKind::OomKill, ErrorKind::OomKill, ErrorKind::Plain], "{lines:?}");
        reading.abort();
    });
}

/// A stand-in for /dev/kmsg that can be written to.
#[test]
fn records_are_taken_after_the_cursor_and_a_gap_is_counted_as_missed() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("kmsg");
    rustix::fs::mknodat(rustix::fs::CWD, &device, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let boot = filter().boot.unwrap();
    block_on(async {
        let (outlet, mut taken) = outlet(Some(&format!("kmsg:{boot}:10")));
        let reading = tokio::spawn(keep_reading(only(Source::Kmsg(Kmsg::new(device.clone(), filter()))), outlet));
        let write = {
            let device = device.clone();
            // Opening waits for the reader, so it has a thread of its own.
            tokio::task::spawn_blocking(move || fs::OpenOptions::new().write(true).open(device)).await.unwrap().unwrap()
        };
        let mut batches = Vec::new();
        for record in [
            "3,10,1,-;seen before\n",
            "3,11,1,-;new\n",
            "6,12,1,-;no error\n",
            "6,13,1,-;usb 1-1: USB disconnect\n",
            "14,14,1,-;usb 1-1: USB disconnect, says a program\n",
            "3,17,1,-;after a gap\n",
        ] {
            rustix::io::write(&write, record.as_bytes()).unwrap();
        }
        while batches.iter().map(|batch: &ErrorBatch| batch.lines.len()).sum::<usize>() < 3 {
            batches.push(taken.recv().await.unwrap());
        }
        let messages: Vec<_> =
            batches.iter().flat_map(|batch| &batch.lines).map(|line| line.message.as_str()).collect();
        assert_eq!(messages, ["new", "usb 1-1: USB disconnect", "after a gap"]);
        assert_eq!(batches.iter().map(|batch| batch.missed).sum::<u64>(), 2);
        assert_eq!(batches.last().unwrap().cursor, Some(format!("kmsg:{boot}:17")));
        reading.abort();
    });
}

proptest! {
    #[test]
    fn any_record_the_kernel_can_write_is_read_back(level in 0_u32..8, facility in 0_u32..24, seq: u64, stamp: u64, text in "[ -~]{0,200}") {
        let escaped = text.replace('\\', "\\x5c");
        let bytes = format!("{},{seq},{stamp},-;{escaped}\n SUBSYSTEM=x\n", facility << 3 | level);
        let record = Record::parse(bytes.as_bytes()).unwrap();
        prop_assert_eq!(record.severity as u32, level);
        prop_assert_eq!((record.facility, record.seq, record.stamp_us), (facility, seq, stamp));
        prop_assert_eq!(record.message, text);
    }

    #[test]
    fn no_bytes_whatever_make_the_parsers_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Record::parse(&bytes);
        let mut record = b"3,1,1,-;".to_vec();
        record.extend(&bytes);
        prop_assert!(Record::parse(&record).is_some());
    }

    #[test]
    fn lines_come_out_as_they_went_in_however_they_are_cut(
        texts in proptest::collection::vec("[a-z]{0,30}", 0..20), capacity in 1_usize..40,
    ) {
        let stream: String = texts.iter().map(|text| format!("{text}\n")).collect();
        let read = block_on(async {
            let mut lines = lines::Lines::new(tokio::io::BufReader::with_capacity(capacity, stream.as_bytes()), 20);
            let mut read = Vec::new();
            while let Some(line) = lines.next().await.unwrap() {
                read.push(line);
            }
            read
        });
        let expected: Vec<lines::Line> = texts
            .iter()
            .map(|text| if text.len() > 20 { lines::Line::TooLong } else { lines::Line::Whole(text.clone().into_bytes()) })
            .collect();
        prop_assert_eq!(read, expected);
    }
}
