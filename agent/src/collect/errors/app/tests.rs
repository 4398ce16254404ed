//! The socket itself, with senders of this process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram as Sends;

use tempfile::TempDir;

use super::super::tests::block_on;
use super::*;
use crate::collect::tests::write_tree;

/// An application's end, and the batches that the other end makes.
struct World {
    dir: TempDir,
    app: Sends,
    batches: mpsc::Receiver<ErrorBatch>,
    _socket: AppSocket,
}

impl World {
    fn new(batches_max: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (batches_in, batches) = mpsc::channel(batches_max);
        let path = dir.path().join("run/errors.sock");
        let socket = serve(&path, dir.path(), batches_in).expect("a socket");
        let app = Sends::unbound().unwrap();
        app.connect(&path).unwrap();
        // Longer than any wait of the agent may be: a test that gets here has blocked an application.
        app.set_write_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        Self { dir, app, batches, _socket: socket }
    }

    /// Sends while the reader reads, as another process would.
    async fn send(&self, text: &[u8]) {
        let (app, text) = (self.app.try_clone().unwrap(), text.to_owned());
        tokio::task::spawn_blocking(move || app.send(&text)).await.unwrap().expect("not held up");
    }

    /// What comes until there are so many lines.
    async fn lines(&mut self, count: usize) -> (Vec<ErrorLine>, ErrorBatch) {
        let mut all = ErrorBatch::default();
        while all.lines.len() < count {
            let batch = self.batches.recv().await.expect("the reader lives");
            all.lines.extend(batch.lines);
            all.refused.add(&batch.refused);
        }
        (std::mem::take(&mut all.lines), all)
    }
}

fn refused(batch: &ErrorBatch) -> Vec<(Refusal, u64)> {
    batch.refused.iter().collect()
}

#[test]
fn what_an_application_says_is_read_line_by_line_from_whoever_may_reach_the_socket() {
    block_on(async {
        let mut world = World::new(4);
        let mode = fs::metadata(world.dir.path().join("run/errors.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666, "any user may write");
        world.send(b"{\"message\":\"pump stuck\",\"app\":\"pumpd\",\"unit\":\"pump.service\"}\n\n{\"message\":\"b\",\"severity\":\"crit\"}").await;
        let (lines, rest) = world.lines(2).await;
        let expected =
            error_line(Severity::Error, "pump stuck".into(), Some("pump.service".into()), Some("pumpd".into()));
        assert_eq!(lines, [expected, error_line(Severity::Critical, "b".into(), None, None)]);
        assert_eq!(rest.refused.iter().count(), 0);
    });
}

#[test]
fn the_unit_is_the_one_that_the_kernel_knows_and_not_the_one_that_is_claimed() {
    block_on(async {
        let mut world = World::new(4);
        let file = format!("proc/{}/cgroup", std::process::id());
        write_tree(world.dir.path(), &[(&file, "0::/system.slice/app.service/worker\n")]);
        world.send(br#"{"message":"a","unit":"victim.service"}"#).await;
        assert_eq!(world.lines(1).await.0[0].unit.as_deref(), Some("app.service"));
    });
}

#[test]
fn a_line_that_can_not_be_read_is_counted_and_told_and_the_next_one_taken() {
    block_on(async {
        let mut world = World::new(4);
        world.send(b"pump stuck\n{\"message\":\"well\"}\n").await;
        let long = format!("{{\"message\":\"short\"}}\n{{\"message\":\"{}\"}}", "x".repeat(DATAGRAM_BYTES_MAX));
        world.send(long.as_bytes()).await;
        let (lines, rest) = world.lines(4).await;
        let messages: Vec<&str> = lines.iter().map(|line| line.message.as_str()).collect();
        assert!(messages[0].contains("refused (malformed): it is no JSON object"), "{messages:?}");
        assert_eq!(messages[1..3], ["well", "short"]);
        assert!(messages[3].contains("refused (too_long)"), "{messages:?}");
        assert_eq!(refused(&rest), [(Refusal::Malformed, 1), (Refusal::TooLong, 1)]);
    });
}

#[test]
fn a_flood_holds_nobody_up_and_every_line_of_it_is_accounted_for() {
    const FLOOD: u64 = 5_000;
    block_on(async {
        // Nobody takes batches meanwhile.
        let mut world = World::new(1);
        let app = world.app.try_clone().unwrap();
        let flood = move || (0..FLOOD).try_for_each(|_| app.send(br#"{"message":"again"}"#).map(|_| ()));
        tokio::task::spawn_blocking(flood).await.unwrap().expect("not held up");
        let mut accounted = 0;
        let mut told = 0;
        while accounted < FLOOD {
            let batch = world.batches.recv().await.expect("the reader lives");
            let is_taken = |line: &&ErrorLine| line.message == "again";
            accounted += batch.lines.iter().filter(is_taken).count() as u64;
            told += batch.lines.iter().filter(|line| line.message.contains("too fast")).count();
            accounted += batch.refused.iter().map(|(_, lines)| lines).sum::<u64>();
        }
        // The line that tells of the flood may have found no room either.
        assert!(told <= 1 && accounted <= FLOOD + 1, "{told} told, {accounted} accounted for");
    });
}

#[test]
fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_or_a_file_is_not() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("errors.sock");
        drop(Sends::bind(&path).unwrap());
        let (batches, _taken) = mpsc::channel(1);
        let first = serve(&path, dir.path(), batches.clone()).expect("nobody reads there");
        assert!(serve(&path, dir.path(), batches.clone()).is_none(), "the first reads there");
        drop(first);
        assert!(!path.exists(), "gone with its agent");
        fs::write(&path, "precious").unwrap();
        assert!(serve(&path, dir.path(), batches).is_none());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    });
}

#[test]
fn a_unit_is_found_in_either_kind_of_hierarchy() {
    assert_eq!(unit_in("0::/system.slice/app.service\n").as_deref(), Some("app.service"));
    assert_eq!(unit_in("3:memory:/x.service\n1:name=systemd:/a.slice/b.service/c\n").as_deref(), Some("b.service"));
    assert_eq!(unit_in("0::/user.slice/user-1000.slice/session-2.scope\n"), None);
    let users = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/victim.service\n";
    assert_eq!(unit_in(users).as_deref(), Some("user@1000.service"), "anybody may call a unit so");
    assert_eq!(unit_in("nonsense"), None);
}
