//! What is in force is another level than the journal says, or than was ordered: what is in force counts.

use serde_json::json;

use super::{SECOND, World, audits, both, entering, level, not_in_force, online, order, reason, refreshes, triggers};
use crate::config::{Action, QuarantineLevel};
use crate::engine::io::{Act, ActOutcome, ActStatus, Ending, Input};
use crate::engine::tests::world::outcome;

/// A refresh that found this level in force.
fn refreshed(level: QuarantineLevel) -> ActOutcome {
    ActOutcome { quarantine: Some(level), ..outcome(ActStatus::Succeeded) }
}

/// Says the outcome of the act that is under way beside a snapshot, which is a refresh of this level.
fn refresh_ends(world: &mut World, asked: QuarantineLevel, outcome: ActOutcome) {
    world.acts.retain(|(_, act)| *act != Act::CollectDiagnostics);
    let (id, act) = world.acts.pop().unwrap();
    assert_eq!((act, world.acts.len()), (Act::Refresh { level: asked, wide: false }, 0));
    world.input(Input::ActDone { id, outcome });
}

/// Root's helper says this so late that the start did not know it.
fn helper_says(world: &mut World, quarantine: Option<QuarantineLevel>) {
    world.input(Input::Able { actions: [Action::Quarantine].into(), withheld: [].into(), quarantine });
}

#[test]
fn a_quarantine_that_the_journal_has_lost_is_found_in_force_and_told() {
    for (known, entered) in [(None, 1), (Some("observe"), 2), (Some("isolate"), 1)] {
        let mut world = online();
        if let Some(known) = known {
            order(&mut world, "q-1", "quarantine", json!({"level": known}));
        }
        world.in_force = Some(QuarantineLevel::Isolate);
        world.acted.clear();
        world.crash();
        world.advance(11 * SECOND);
        assert_eq!((level(&world), audits(&world, "quarantine_entered")), (both("isolate"), entered), "{known:?}");
        assert!(matches!(refreshes(&world)[0], Act::Refresh { level: QuarantineLevel::Isolate, .. }), "{known:?}");
        order(&mut world, "run-1", "run", json!({"runbook": "fix"}));
        assert_eq!(reason(&world, "run-1"), "quarantined", "{known:?}");
        // It is in the journal again: another start tells nothing new.
        world.crash();
        world.advance(11 * SECOND);
        assert_eq!(audits(&world, "quarantine_entered"), entered, "{known:?}");
    }
}

#[test]
fn after_a_crash_while_it_is_tightened_the_level_is_what_is_in_force() {
    for (in_force, said, entered) in
        [(None, "isolate", 0), (Some("restrict"), "restrict", 1), (Some("isolate"), "isolate", 0)]
    {
        let mut world = online();
        order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
        world.acts_succeed = false;
        order(&mut world, "q-2", "quarantine", json!({"level": "isolate"}));
        // Root's helper has the order, or it never came to it, or there is none to ask.
        world.in_force = in_force.and_then(QuarantineLevel::parse);
        world.acts_succeed = true;
        for _ in 0..2 {
            world.acted.clear();
            world.crash();
            world.advance(15 * SECOND);
            assert_eq!(level(&world), both(said), "{in_force:?}");
            assert!(matches!(refreshes(&world)[0], Act::Refresh { level, .. } if level.word() == said), "{in_force:?}");
        }
        let cut_off = world.results("q-2").pop().unwrap();
        assert_eq!(cut_off["status"], "INTERRUPTED");
        let found = in_force.map(|level| format!("; {level} is in force now"));
        let detail = cut_off["detail"].as_str().unwrap();
        assert!(detail.ends_with(&found.unwrap_or_else(|| "can't be known".into())), "{in_force:?}: {detail}");
        assert_eq!(audits(&world, "quarantine_not_entered"), entered, "{in_force:?}");
        order(&mut world, "run-1", "run", json!({"runbook": "fix"}));
        assert_eq!(reason(&world, "run-1") == "quarantined", said == "isolate", "{in_force:?}");
    }
}

#[test]
fn what_may_be_in_force_counts_as_that_until_a_look_says_otherwise() {
    for status in [ActStatus::TimedOut, ActStatus::Interrupted] {
        let (mut world, id) = entering("restrict");
        world.input(Input::ActDone { id, outcome: outcome(status) });
        world.advance(11 * SECOND);
        assert_eq!(level(&world), both("restrict"), "{status:?}");
        let (id, _) = world.acts.iter().find(|(_, act)| matches!(act, Act::Refresh { .. })).cloned().unwrap();
        world.input(Input::ActDone { id, outcome: not_in_force() });
        world.advance(11 * SECOND);
        assert_eq!(level(&world), both("none"), "{status:?}");
    }
}

#[test]
fn a_tightening_that_was_cut_off_counts_until_the_next_look_names_what_is_in_force() {
    use QuarantineLevel::{Isolate, Observe, Restrict};
    let cut_off = [ActStatus::TimedOut, ActStatus::Interrupted];
    let ways = cut_off.into_iter().flat_map(|status| [Observe, Restrict, Isolate].map(|found| (status, found)));
    for (status, found) in ways {
        let mut world = online();
        order(&mut world, "q-1", "quarantine", json!({"level": "observe"}));
        world.acts_succeed = false;
        order(&mut world, "q-2", "quarantine", json!({"level": "isolate"}));
        let (id, _) = world.acts.pop().unwrap();
        world.input(Input::ActDone { id, outcome: outcome(status) });
        refresh_ends(&mut world, Isolate, refreshed(found));
        let is_less = found < Isolate;
        if is_less {
            refresh_ends(&mut world, found, refreshed(found));
        }
        world.advance(11 * SECOND);
        assert_eq!((level(&world), audits(&world, "quarantine_left")), (both(found.word()), 0), "{status:?}");
        let not_entered = if is_less { vec!["command:q-2"] } else { vec![] };
        assert_eq!(triggers(&world, "quarantine_not_entered"), not_entered, "{status:?}, {found}");
        order(&mut world, "run-1", "run", json!({"runbook": "fix"}));
        assert_eq!(reason(&world, "run-1") == "quarantined", !is_less, "{status:?}, {found}");
        // The journal says the same.
        world.acts_succeed = true;
        world.crash();
        world.advance(11 * SECOND);
        assert_eq!(level(&world), both(found.word()), "{status:?}");
    }
}

#[test]
fn what_is_in_force_counts_where_it_is_less_than_was_seen_to_be_and_where_the_look_failed() {
    use QuarantineLevel::{Isolate, Restrict};
    for status in [ActStatus::Succeeded, ActStatus::Failed] {
        let mut world = online();
        order(&mut world, "q-1", "quarantine", json!({"level": "isolate"}));
        world.acts_succeed = false;
        world.input(Input::LookAtQuarantine);
        refresh_ends(&mut world, Isolate, ActOutcome { status, ..refreshed(Restrict) });
        world.advance(11 * SECOND);
        assert_eq!(level(&world), both("restrict"), "{status:?}");
        assert_eq!(triggers(&world, "quarantine_entered"), ["command:q-1", "rule:quarantine"], "{status:?}");
    }
}

#[test]
fn what_failed_to_be_entered_and_is_in_force_all_the_same_counts_is_told_and_is_kept_up() {
    use QuarantineLevel::{Isolate, Restrict};
    for (known, in_force) in [(None, Restrict), (Some("observe"), Restrict), (Some("restrict"), Isolate)] {
        let mut world = online();
        if let Some(known) = known {
            order(&mut world, "q-1", "quarantine", json!({"level": known}));
        }
        world.acts_succeed = false;
        order(&mut world, "q-2", "quarantine", json!({"level": in_force.word()}));
        let (id, _) = world.acts.pop().unwrap();
        world.input(Input::ActDone { id, outcome: ActOutcome { status: ActStatus::Failed, ..refreshed(in_force) } });
        refresh_ends(&mut world, in_force, refreshed(in_force));
        world.advance(11 * SECOND);
        assert_eq!((level(&world), world.statuses("q-2").pop().unwrap()), (both(in_force.word()), "FAILED".into()));
        assert_eq!(triggers(&world, "quarantine_entered").last(), Some(&"rule:quarantine"), "{known:?}");
        world.crash();
        world.advance(11 * SECOND);
        assert_eq!(level(&world), both(in_force.word()), "the journal says the same: {known:?}");
    }
}

#[test]
fn a_level_that_is_less_than_the_one_in_force_which_the_journal_has_lost_leaves_that_in_force() {
    let (mut world, id) = entering("restrict");
    world.input(Input::ActDone { id, outcome: refreshed(QuarantineLevel::Isolate) });
    for _ in 0..2 {
        world.advance(11 * SECOND);
        assert_eq!((level(&world), triggers(&world, "quarantine_entered")), (both("isolate"), vec!["command:q-1"]));
        world.crash();
    }
}

#[test]
fn a_quarantine_that_the_journal_has_lost_is_found_by_what_roots_helper_says_at_last() {
    use QuarantineLevel::{Isolate, Observe};
    for known in [None, Some("observe")] {
        let mut world = online();
        if let Some(known) = known {
            order(&mut world, "q-1", "quarantine", json!({"level": known}));
        }
        world.acts_succeed = false;
        helper_says(&mut world, known.map(|_| Observe));
        assert_eq!(world.acts, [], "nothing new: {known:?}");
        helper_says(&mut world, Some(Isolate));
        refresh_ends(&mut world, Isolate, refreshed(Isolate));
        world.advance(11 * SECOND);
        assert_eq!(level(&world), both("isolate"), "{known:?}");
        assert_eq!(triggers(&world, "quarantine_entered").last(), Some(&"rule:quarantine"), "{known:?}");
        world.crash();
        world.advance(11 * SECOND);
        assert_eq!(level(&world), both("isolate"), "{known:?}");
    }
}

#[test]
fn what_roots_helper_says_while_a_quarantine_is_entered_is_not_taken_for_something_found() {
    let failed = ActOutcome::failed(Ending::NftFailed, "nft: no such file");
    for (ends, becomes) in [(outcome(ActStatus::Succeeded), "isolate"), (failed, "restrict")] {
        let mut world = online();
        order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
        world.acts_succeed = false;
        order(&mut world, "q-2", "quarantine", json!({"level": "isolate"}));
        let (id, _) = world.acts.pop().unwrap();
        // What is to be loaded was saved.
        helper_says(&mut world, Some(QuarantineLevel::Isolate));
        world.input(Input::ActDone { id, outcome: ends });
        world.acts_succeed = true;
        for _ in 0..2 {
            world.advance(11 * SECOND);
            assert_eq!(level(&world), both(becomes));
            assert!(!triggers(&world, "quarantine_entered").contains(&"rule:quarantine"), "{becomes}");
            world.crash();
        }
    }
}

#[test]
fn a_quarantine_that_was_found_is_told_and_journaled_also_where_its_rules_can_not_be_loaded_again() {
    use QuarantineLevel::Isolate;
    let mut world = online();
    world.acts_succeed = false;
    helper_says(&mut world, Some(Isolate));
    world.advance(11 * SECOND);
    assert_eq!(level(&world), both("isolate"), "it is kept to, and said");
    for _ in 0..2 {
        refresh_ends(&mut world, Isolate, ActOutcome { status: ActStatus::Failed, ..refreshed(Isolate) });
        world.advance(61 * SECOND);
        assert_eq!(triggers(&world, "quarantine_entered"), ["rule:quarantine"]);
    }
    world.crash();
    world.advance(11 * SECOND);
    assert_eq!(level(&world), both("isolate"));
}

#[test]
fn what_roots_helper_said_before_a_release_does_not_undo_it() {
    let mut world = online();
    order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
    order(&mut world, "r-1", "release", json!({}));
    world.acts_succeed = false;
    helper_says(&mut world, Some(QuarantineLevel::Restrict));
    refresh_ends(&mut world, QuarantineLevel::Restrict, not_in_force());
    world.advance(11 * SECOND);
    assert_eq!((level(&world), audits(&world, "quarantine_entered")), (both("none"), 1));
    // Nothing is in force that is thought to be: it is looked at.
    world.acts_succeed = true;
    order(&mut world, "q-2", "quarantine", json!({"level": "restrict"}));
    world.acts_succeed = false;
    helper_says(&mut world, None);
    refresh_ends(&mut world, QuarantineLevel::Restrict, not_in_force());
    world.advance(11 * SECOND);
    assert_eq!(level(&world), both("none"));
}

#[test]
fn a_quarantine_that_a_crash_kept_from_its_beginning_is_told_as_not_entered_and_not_as_left() {
    for (was_in_force, name) in [(false, "quarantine_not_entered"), (true, "quarantine_left")] {
        let mut world = online();
        world.acts_succeed = was_in_force;
        order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
        world.acts_succeed = false;
        world.crash();
        world.advance(SECOND);
        let (id, act) = world.acts.pop().unwrap();
        assert!(matches!(act, Act::Refresh { .. }), "{act:?}");
        world.input(Input::ActDone { id, outcome: not_in_force() });
        world.advance(11 * SECOND);
        assert_eq!(level(&world), both("none"));
        let told = ["quarantine_not_entered", "quarantine_left"].map(|name| audits(&world, name));
        assert_eq!(told, [usize::from(!was_in_force), usize::from(was_in_force)], "{name}");
        let event = world.got.iter().find(|got| got.body["name"] == name).unwrap();
        let trigger = if was_in_force { "console" } else { "command:q-1" };
        assert_eq!(event.body["audit"]["trigger"], trigger);
    }
}

#[test]
fn a_release_that_was_interrupted_is_looked_after_at_once_so_that_journal_and_rules_agree() {
    for (found, agreed) in [(outcome(ActStatus::Succeeded), "restrict"), (not_in_force(), "none")] {
        let mut world = online();
        order(&mut world, "q-1", "quarantine", json!({"level": "restrict"}));
        world.acts_succeed = false;
        order(&mut world, "r-1", "release", json!({}));
        let (id, _) = world.acts.pop().unwrap();
        world.input(Input::ActDone { id, outcome: outcome(ActStatus::Interrupted) });
        world.advance(SECOND);
        let (id, act) = world.acts.pop().unwrap();
        assert_eq!(act, Act::Refresh { level: QuarantineLevel::Restrict, wide: false });
        world.input(Input::ActDone { id, outcome: found });
        world.advance(11 * SECOND);
        assert_eq!(level(&world), both(agreed));
        world.acts_succeed = true;
        world.crash();
        world.advance(11 * SECOND);
        assert_eq!(level(&world), both(agreed));
    }
}
