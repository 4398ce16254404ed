//! The helper's ledger, by clocks that are right, wrong, and not there.

#![expect(clippy::disallowed_methods, reason = "a test damages the file")]

use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::engine::time::{Unix, Wall};
use crate::wire::CommandId;

const SKEW: Duration = Duration::from_secs(300);
const HOURLY: Budget = Budget { count: 2, window: Duration::from_secs(3600) };
const HOUR_S: u64 = 3600;

/// Up for so long, in boot number so-and-so, at 1_000_000 s plus that by a clock that is trusted or not.
fn at(boot: u8, up_s: u64, trusted: bool) -> Moment {
    let unix = Unix((1_000_000 + i64::try_from(up_s).unwrap()) * 1000);
    let now = Now { mono: Mono(up_s * 1000), wall: Wall { unix, trusted } };
    Moment { boot: BootId([boot; 16]), now }
}

fn command(id: &str, iat: i64, exp: i64, nonce: Option<&str>) -> VerifiedCommand {
    VerifiedCommand {
        message: Box::default(),
        id: CommandId::parse(id).unwrap(),
        kid: Some("ops-1".into()),
        group: None,
        issued_at: iat,
        expires_at: exp,
        not_before: None,
        nonce: nonce.map(str::to_owned),
        name: "reboot".into(),
        args: serde_json::Map::new(),
        timeout_s: None,
        digest: [0; 32],
    }
}

#[test]
fn that_a_reboot_is_owed_is_known_after_a_kill_and_not_by_another_boot() {
    let mut world = World::new();
    let [this, other] = [1, 2].map(|boot| at(boot, 10, true));
    assert!(!world.1.owes_boot(this.boot));
    world.1.owe_boot(this.boot);
    world.reopen(&this);
    assert_eq!([this, other].map(|moment| world.1.owes_boot(moment.boot)), [true, false]);
    world.reopen(&other);
    world.reopen(&this);
    assert!(!world.1.owes_boot(this.boot), "it was forgotten by then");
}

struct World(tempfile::TempDir, Ledger);

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), 0, &at(1, 0, true)).unwrap();
        Self(dir, ledger)
    }

    /// As after a kill: what is in memory is gone.
    fn reopen(&mut self, moment: &Moment) {
        self.1 = Ledger::open(self.0.path(), 0, moment).unwrap();
    }

    fn order(&mut self, command: &VerifiedCommand, moment: &Moment) -> Result<(), &'static str> {
        self.1.count(Action::Reboot, None, Some((command, SKEW)), moment).map_err(|refusal| refusal.reason)
    }

    fn spend(&mut self, moment: &Moment) -> Result<(), &'static str> {
        self.1.count(Action::Reboot, Some(&HOURLY), None, moment).map_err(|refusal| refusal.reason)
    }
}

#[test]
fn a_command_is_carried_out_once_over_kills_and_reboots() {
    let mut world = World::new();
    let order = command("c-1", 1_000_000, 1_000_600, Some("n"));
    assert_eq!(world.order(&order, &at(1, 1, true)), Ok(()));
    assert_eq!(world.order(&order, &at(1, 2, true)), Err("replayed"));
    for (boot, trusted) in [(1, true), (2, true), (3, false)] {
        world.reopen(&at(boot, 5, trusted));
        assert_eq!(world.order(&order, &at(boot, 5, trusted)), Err("replayed"), "boot {boot}");
    }
}

#[test]
fn a_command_that_was_forgotten_stays_refused_when_the_clock_goes_back() {
    let mut world = World::new();
    let old = command("old", 1_000_000, 1_000_600, Some("n"));
    assert_eq!(world.order(&old, &at(1, 1, true)), Ok(()));
    // Its exp has passed: the next command pushes it out.
    let next = command("next", 1_000_400, 1_009_000, None);
    assert_eq!(world.order(&next, &at(1, 2_000, true)), Ok(()));
    assert!(!world.1.state.commands.contains_key("old"));
    for trusted in [false, true] {
        world.reopen(&at(2, 5, trusted));
        assert_eq!(world.order(&old, &at(2, 5, trusted)), Err("replayed"), "trusted: {trusted}");
    }
}

#[test]
fn an_iat_that_no_clock_could_judge_counts_until_one_disproves_it_and_what_ran_is_not_repeated() {
    let mut world = World::new();
    let done = command("done", 1_000_000, 1_000_900, Some("n"));
    assert_eq!(world.order(&done, &at(1, 1, false)), Ok(()));
    let wrong = command("wrong", 9_000_000, 9_000_600, Some("n"));
    assert_eq!(world.order(&wrong, &at(1, 2, false)), Ok(()));
    let right = command("right", 1_000_010, 1_001_000, Some("n"));
    assert_eq!(world.order(&right, &at(1, 10, false)), Ok(()), "one wrong clock locks nobody out");
    assert_eq!(world.1.state.claimed_s, 9_000_000);
    let bare = command("bare", 1_000_010, 1_001_000, None);
    assert_eq!(world.order(&bare, &at(1, 10, false)), Err("clock_untrusted"));
    assert_eq!(world.order(&bare, &at(1, 10, true)), Ok(()));
    assert_eq!(world.order(&command("next", 1_000_011, 1_001_000, Some("n")), &at(2, 11, false)), Ok(()));
    for order in [&done, &wrong, &right] {
        assert!(world.order(order, &at(2, 12, true)).is_err(), "{}", order.id);
    }
    // More of them raise no floor.
    for n in 1..4 {
        let wrong = command(&format!("wrong-{n}"), 9_000_000 + 700 * n, 9_000_600 + 700 * n, Some("n"));
        assert_eq!(world.order(&wrong, &at(3, 1, false)), Ok(()));
    }
    assert_eq!(world.order(&command("right-2", 1_000_020, 1_001_000, Some("n")), &at(3, 20, true)), Ok(()));
    assert_eq!(world.1.state.claimed_s, 0, "and it is gone for good");
    assert_eq!(world.order(&done, &at(2, 12, true)), Err("replayed"));
}

#[test]
fn time_is_judged_by_a_clock_that_can_be_trusted_and_else_by_what_was_seen() {
    let mut world = World::new();
    let cases = [
        (command("a", 998_000, 999_600, None), true, Err("expired")),
        (command("b", 1_000_400, 1_009_000, None), true, Err("not_yet_valid")),
        (command("c", 1_000_000, 1_009_000, None), false, Err("clock_untrusted")),
        (command("d", 1_000_000, 1_009_000, Some("n")), false, Ok(())),
        // Issued before d was, and over before that: by d's signer alone.
        (command("e", 998_000, 999_900, Some("n")), false, Ok(())),
        (command("f", 999_999, 1_000_100, Some("n")), true, Ok(())),
        // By a clock that was trusted, too.
        (command("g", 998_000, 999_999, Some("n")), false, Err("expired")),
    ];
    for (order, trusted, expected) in cases {
        assert_eq!(world.order(&order, &at(1, 1, trusted)), expected, "{}", order.id);
    }
}

const FOR_EVER: i64 = 253_402_300_799;

/// As many commands as are remembered, each issued a second after the other, and all valid until then.
fn full(exp: i64) -> World {
    let mut world = World::new();
    let commands = (0..COMMANDS_MAX).zip(990_000..);
    world.1.state.commands = commands.map(|(n, iat)| (format!("c-{n}"), Validity { iat, exp })).collect();
    world
}

#[test]
fn a_full_ledger_takes_new_commands_and_what_it_forgets_for_them_is_not_carried_out_again() {
    let mut world = full(FOR_EVER);
    for n in 0..10 {
        let newcomer = command(&format!("new-{n}"), 1_000_000, FOR_EVER, Some("n"));
        assert_eq!(world.order(&newcomer, &at(1, 1, n % 2 == 0)), Ok(()), "{n}");
    }
    // What was issued in the same second as one that was forgotten can't be told from it; of the eleventh it is
    // still known that it ran.
    let [first, tenth, eleventh] = [0, 9, 10].map(|n| command(&format!("c-{n}"), 990_000 + n, FOR_EVER, Some("n")));
    let twin = command("twin", 990_009, FOR_EVER, Some("n"));
    for trusted in [true, false] {
        for again in [&first, &tenth, &twin, &eleventh] {
            assert_eq!(world.order(again, &at(2, 5, trusted)), Err("replayed"), "{}", again.id);
        }
        world.reopen(&at(2, 5, trusted));
    }
    let no_younger = command("no-younger", 990_010, FOR_EVER, None);
    assert_eq!(world.order(&no_younger, &at(2, 6, true)), Err("busy"));
    assert_eq!(world.1.state.commands.len(), COMMANDS_MAX);
}

#[test]
fn a_full_ledger_forgets_first_what_has_expired() {
    let mut world = full(1_009_000);
    let later = command("later", 1_009_200, 1_010_000, None);
    assert_eq!(world.order(&later, &at(1, 9_400, true)), Ok(()));
    assert_eq!(world.1.state.commands.len(), 1);
}

#[test]
fn what_a_wrong_clock_dated_ahead_does_not_keep_a_full_ledger_from_being_used() {
    let mut world = full(FOR_EVER);
    let ahead = Validity { iat: 9_000_000, exp: FOR_EVER };
    world.1.state.commands.insert("ahead".into(), ahead);
    world.1.state.commands.remove("c-0");
    for n in 0..3 {
        assert_eq!(world.order(&command(&format!("new-{n}"), 1_000_000, FOR_EVER, None), &at(1, 1, true)), Ok(()));
    }
    assert!(world.1.state.commands.contains_key("ahead"));
}

const YEAR_S: u64 = 365 * 24 * HOUR_S;

/// The same moment by a clock that is trusted, and a year ahead.
fn ahead(moment: Moment) -> Moment {
    let Now { mono, wall } = moment.now;
    let unix = Unix(wall.unix.0 + i64::try_from(YEAR_S).unwrap() * 1000);
    Moment { now: Now { mono, wall: Wall { unix, trusted: true } }, ..moment }
}

#[test]
fn a_clock_that_was_a_year_ahead_locks_nobody_out_once_it_is_right_and_what_ran_is_not_repeated() {
    let mut world = World::new();
    let year = i64::try_from(YEAR_S).unwrap();
    let before = command("before", 1_000_000, 1_000_900, None);
    assert_eq!(world.order(&before, &at(1, 1, true)), Ok(()));
    // What was carried out by that clock and has expired by it is forgotten, and so is what had been before.
    let theirs =
        [("ahead", 1_000_010), ("later", 1_001_000)].map(|(id, s)| command(id, year + s, year + s + 600, None));
    for (order, up_s) in theirs.iter().zip([10, 1_000]) {
        assert_eq!(world.order(order, &ahead(at(1, up_s, true))), Ok(()), "{}", order.id);
    }
    let last = command("last", year + 1_002_000, year + 1_002_600, None);
    assert_eq!(world.order(&last, &ahead(at(1, 2_000, true))), Ok(()));
    assert_eq!(world.1.state.commands.len(), 1, "{:?}", world.1.state);
    for boot in [1, 2] {
        let new = command(&format!("new-{boot}"), 1_000_020, 1_009_000, None);
        assert_eq!(world.order(&new, &at(boot, 20, true)), Ok(()), "boot {boot}");
        assert_eq!(world.order(&before, &at(boot, 20, true)), Err("replayed"));
        world.reopen(&at(boot, 30, true));
    }
    let fresh = command("fresh", 1_000_040, 1_009_000, Some("n"));
    assert_eq!(world.order(&fresh, &at(3, 40, false)), Ok(()), "what was known by that clock is gone");
    for (order, up_s) in theirs.iter().zip([20, 1_020]) {
        assert_eq!(world.order(order, &ahead(at(3, up_s, true))), Err("replayed"), "{} in a year", order.id);
    }
}

#[test]
fn what_was_spent_while_the_clock_was_a_year_ahead_is_not_spent_for_that_year() {
    let mut world = World::new();
    for s in [1, 2] {
        assert_eq!(world.spend(&ahead(at(1, s, true))), Ok(()));
    }
    // Each boot is up for a minute, and an hour passes until the next one.
    for (boot, expected) in [(2, Err("budget_spent")), (3, Ok(()))] {
        let Moment { boot, now } = at(boot, u64::from(boot) * HOUR_S, true);
        let moment = Moment { boot, now: Now { mono: Mono(60_000), ..now } };
        world.reopen(&moment);
        assert_eq!(world.spend(&moment), expected);
    }
}

#[test]
fn a_ledger_that_was_lost_while_the_clock_was_a_year_ahead_has_nothing_refused_that_was_issued_since() {
    let mut world = World::new();
    fs::write(world.0.path().join(FILE), "damaged").unwrap();
    world.reopen(&ahead(at(1, 10, true)));
    for (boot, up_s) in [(1, 30), (2, 40)] {
        let since = command(&format!("since-{boot}"), 1_000_025, 1_009_000, None);
        let before = command("before", if boot == 1 { 1_000_009 } else { 999_999 }, 1_009_000, None);
        let moment = at(boot, up_s, true);
        assert_eq!(world.order(&before, &moment), Err("replayed"), "boot {boot}");
        assert_eq!(world.order(&since, &moment), Ok(()), "boot {boot}");
        world.reopen(&moment);
    }
}

#[test]
fn a_budget_is_refilled_by_its_window_and_by_nothing_else() {
    let mut world = World::new();
    assert_eq!(world.spend(&at(1, 1, false)), Ok(()));
    assert_eq!(world.spend(&at(1, 2, false)), Ok(()));
    assert_eq!(world.spend(&at(1, 3, false)), Err("budget_spent"));
    world.reopen(&at(2, 60, false));
    assert_eq!(world.spend(&at(2, 60, false)), Err("budget_spent"), "a reboot refills nothing");
    // By a clock that can be trusted, then and now, it is known better than by the time since boot.
    let mut world = World::new();
    assert_eq!(world.spend(&at(1, 1, true)), Ok(()));
    assert_eq!(world.spend(&at(1, 2, true)), Ok(()));
    let an_hour_up = Moment { now: Now { mono: Mono(HOUR_S * 1000), ..at(2, 9, true).now }, ..at(2, 9, true) };
    assert_eq!(world.spend(&an_hour_up), Err("budget_spent"));
}

#[test]
fn without_a_clock_a_budget_is_refilled_after_a_reboot_when_that_boot_is_up_for_the_window() {
    let mut world = World::new();
    assert_eq!(world.spend(&at(1, 1, false)), Ok(()));
    assert_eq!(world.spend(&at(1, 2, false)), Ok(()));
    assert_eq!(world.spend(&at(2, HOUR_S - 1, false)), Err("budget_spent"));
    assert_eq!(world.spend(&at(2, HOUR_S, false)), Ok(()));
}

#[test]
fn what_an_act_that_was_not_done_has_spent_is_given_back_once() {
    let mut world = World::new();
    assert_eq!(world.spend(&at(1, 1, true)), Ok(()));
    assert_eq!(world.spend(&at(1, 2, true)), Ok(()));
    for _ in 0..2 {
        world.1.give_back(Action::Reboot, &at(1, 1, true));
        world.reopen(&at(1, 3, true));
    }
    assert_eq!(world.spend(&at(1, 4, true)), Ok(()));
    assert_eq!(world.spend(&at(1, 5, true)), Err("budget_spent"));
}

#[test]
fn nothing_counts_of_what_was_refused() {
    let mut world = World::new();
    let order = command("c-1", 1_000_000, 1_009_000, None);
    let none = Budget { count: 0, window: HOURLY.window };
    let refused = world.1.count(Action::Reboot, Some(&none), Some((&order, SKEW)), &at(1, 1, true));
    assert_eq!(refused.unwrap_err().reason, "budget_spent");
    assert_eq!(world.order(&order, &at(1, 2, true)), Ok(()));
}

#[test]
fn a_damaged_ledger_makes_the_next_one_careful() {
    let mut world = World::new();
    let before = command("before", 1_000_000, 1_009_000, None);
    assert_eq!(world.order(&before, &at(1, 1, true)), Ok(()));
    let path = world.0.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let at_byte = bytes.len() - 30;
    bytes[at_byte] ^= 1;
    fs::write(&path, bytes).unwrap();

    world.reopen(&at(1, 10, true));
    assert!(world.0.path().join(DAMAGED_FILE).exists());
    assert_eq!(world.order(&before, &at(1, 11, true)), Err("replayed"));
    assert_eq!(world.spend(&at(1, 12, true)), Err("budget_spent"));
    let after = command("after", 1_000_011, 1_009_000, None);
    assert_eq!(world.order(&after, &at(1, 13, true)), Ok(()));
    assert_eq!(world.spend(&at(1, 10 + HOUR_S, true)), Ok(()));
}

#[test]
fn a_damaged_ledger_is_kept_until_the_careful_one_is_on_disk() {
    let mut world = World::new();
    let dir = world.0.path().to_owned();
    fs::write(dir.join(FILE), "damaged").unwrap();
    // Nothing can be written where this lies.
    fs::create_dir(dir.join(NEW_FILE)).unwrap();
    assert!(Ledger::open(&dir, 0, &at(1, 10, true)).is_err());
    fs::remove_dir(dir.join(NEW_FILE)).unwrap();
    world.reopen(&at(1, 20, true));
    assert_eq!(world.spend(&at(1, 21, true)), Err("budget_spent"));
    assert_eq!(fs::read(dir.join(DAMAGED_FILE)).unwrap(), b"damaged");
}

#[test]
fn what_can_not_be_written_is_not_done() {
    let mut world = World::new();
    let new = world.0.path().join(NEW_FILE);
    fs::create_dir(&new).unwrap();
    assert_eq!(world.spend(&at(1, 1, true)), Err("store_failed"));
    fs::remove_dir(&new).unwrap();
    assert_eq!(world.spend(&at(1, 2, true)), Ok(()));
}

#[test]
fn two_files_take_turns_so_that_a_full_disk_has_room_for_the_next_ledger() {
    let mut world = World::new();
    let inodes = |world: &World| [FILE, NEW_FILE].map(|name| fs::metadata(world.0.path().join(name)).unwrap().ino());
    assert_eq!(world.spend(&at(1, 1, true)), Ok(()));
    let [one, other] = inodes(&world);
    assert_eq!(world.spend(&at(1, 2, true)), Ok(()));
    assert_eq!(inodes(&world), [other, one]);
    world.reopen(&at(1, 3, true));
    assert_eq!(world.spend(&at(1, 4, true)), Err("budget_spent"));
}
