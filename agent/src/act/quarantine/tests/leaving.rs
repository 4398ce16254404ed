//! How a quarantine is left, and what stays of it, whoever leaves it.

use super::*;

/// A quarantine whose nft says no to everything, as where a container has no right to the firewall, while `refuses` is
/// there.
fn with_a_refusing_nft(dir: &Path) -> Quarantine {
    let nft = dir.join("nft");
    let script =
        format!("#!/bin/sh\n[ ! -e {} ] || {{ echo 'Operation not permitted'; exit 1; }}\n", refuses(dir).display());
    fs::write(&nft, script).unwrap();
    fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(refuses(dir), "").unwrap();
    Quarantine::new(dir.join("state"), Loader::Nft(nft), AGENT)
}

/// As it is where only units were stopped.
fn enter_without_rules(quarantine: &Quarantine, level: QuarantineLevel) {
    let degraded = Some("Operation not permitted".to_owned());
    let saved = Saved { level: level.word().into(), degraded, ..Saved::default() };
    quarantine.save(&saved).unwrap();
}

fn refuses(dir: &Path) -> PathBuf {
    dir.join("refuses")
}

#[tokio::test]
async fn what_was_never_loaded_need_not_be_taken_away_to_be_left() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = with_a_refusing_nft(dir.path());
    let left_free = quarantine.leave().await;
    is_done(&left_free);
    assert!(left_free.detail.unwrap().contains("Operation not permitted"));
    for level in QuarantineLevel::ALL.iter().copied() {
        enter_without_rules(&quarantine, level);
        // As each start of the agent does it.
        quarantine.refresh(level, false, terms(&[BROKER], &[])).await;
        assert_eq!(quarantine.in_force(), Some(level));
        is_done(&quarantine.leave().await);
        assert!(quarantine.in_force().is_none(), "{level}");
    }
    enter_without_rules(&quarantine, QuarantineLevel::Isolate);
    is_done(&quarantine.leave_by_hand().await);
    assert!(quarantine.in_force().is_none());
}

#[tokio::test]
async fn units_that_could_not_be_started_on_the_way_out_are_told_and_started_when_it_is_left_again() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = with_a_refusing_nft(dir.path());
    enter_without_rules(&quarantine, QuarantineLevel::Restrict);
    let stopped = units(&["fieldmedic-no-such-unit.service"]);
    quarantine.save(&Saved { stopped: stopped.clone(), ..quarantine.saved().unwrap() }).unwrap();
    for by_hand in [false, true, false] {
        let outcome = if by_hand { quarantine.leave_by_hand().await } else { quarantine.leave().await };
        assert_eq!(outcome.reason.as_deref(), Some("unit_failed"), "{outcome:?}");
        is_done(&outcome);
        assert_eq!((quarantine.in_force(), quarantine.saved().unwrap().stopped), (None, stopped.clone()));
        let outcome = quarantine.refresh(QuarantineLevel::Restrict, false, terms(&[BROKER], &[])).await;
        assert_eq!(outcome.reason.as_deref(), Some("not_in_force"), "{outcome:?}");
        assert_eq!(outcome.detail.unwrap().contains("on the console"), by_hand, "whose doing it was");
    }
}

#[tokio::test]
async fn rules_that_can_not_be_taken_away_are_still_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = with_a_refusing_nft(dir.path());
    fs::remove_file(refuses(dir.path())).unwrap();
    is_done(&quarantine.enter(QuarantineLevel::Isolate, terms(&[BROKER], &[])).await);
    fs::write(refuses(dir.path()), "").unwrap();
    let outcome = quarantine.leave().await;
    assert_eq!((outcome.reason.as_deref(), quarantine.in_force().is_some()), (Some("nft_failed"), true), "{outcome:?}");
    let refreshed = quarantine.refresh(QuarantineLevel::Isolate, false, terms(&[BROKER], &[])).await;
    assert_eq!(refreshed.reason.as_deref(), Some("degraded"));
    assert!(refreshed.detail.as_ref().is_some_and(|told| !told.contains("as it was")), "{refreshed:?}");
    assert!(quarantine.dir.join(RULES_FILE).exists(), "a boot would let it out");
}

#[tokio::test]
async fn what_can_not_be_read_stays_in_force_where_its_rules_can_not_be_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = with_a_refusing_nft(dir.path());
    quarantine.make_dir().unwrap();
    let state = dir.path().join("state").join(STATE_FILE);
    for times in 1..=2 {
        fs::write(&state, "{\"level\":").unwrap();
        let outcome = quarantine.refresh(QuarantineLevel::Restrict, false, terms(&[BROKER], &[])).await;
        assert_eq!(
            (outcome.status, outcome.reason.as_deref()),
            (ActStatus::Succeeded, Some("degraded")),
            "{outcome:?}"
        );
        assert_eq!((outcome.quarantine, state.exists()), (Some(QuarantineLevel::Restrict), true), "{times}");
        let outcome = quarantine.leave().await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some("nft_failed")), "{outcome:?}");
    }
}

#[tokio::test]
async fn of_what_can_not_be_read_the_rules_say_how_much_is_in_force_and_no_refresh_loosens_it() {
    for level in [QuarantineLevel::Restrict, QuarantineLevel::Isolate] {
        let dir = tempfile::tempdir().unwrap();
        let quarantine = with_a_refusing_nft(dir.path());
        fs::remove_file(refuses(dir.path())).unwrap();
        is_done(&quarantine.enter(level, terms(&[BROKER], &[])).await);
        fs::write(dir.path().join("state").join(STATE_FILE), "{\"level\":").unwrap();
        assert_eq!(quarantine.in_force(), Some(level));
        let outcome = quarantine.refresh(QuarantineLevel::Restrict, false, terms(&[BROKER], &[])).await;
        assert_eq!(outcome.quarantine, Some(level), "{outcome:?}");
        is_done(&quarantine.leave().await);
    }
}

#[tokio::test]
async fn rules_that_were_loaded_are_in_force_though_nft_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = with_a_refusing_nft(dir.path());
    fs::remove_file(refuses(dir.path())).unwrap();
    is_done(&quarantine.enter(QuarantineLevel::Restrict, terms(&[BROKER], &[])).await);
    let without = Quarantine::new(dir.path().join("state"), Loader::None, AGENT);
    for outcome in [without.leave_by_hand().await, without.leave().await] {
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some("nft_failed")), "{outcome:?}");
        assert!(outcome.detail.unwrap().contains("install nftables"));
        assert_eq!(without.in_force(), Some(QuarantineLevel::Restrict));
    }
    is_done(&quarantine.leave_by_hand().await);
    assert!(quarantine.in_force().is_none());
}

#[tokio::test]
async fn a_table_for_bridges_that_stays_is_still_in_force_and_one_that_is_not_there_is_no_reason_to_stay() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = with_a_refusing_nft(dir.path());
    let nft = dir.path().join("nft");
    for (still_there, reason) in [("", Some("nft_failed")), ("exit 1", None)] {
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *'delete table bridge'*) exit 1 ;; 'list table bridge'*) {still_there} ;; esac\n"
        );
        fs::write(&nft, script).unwrap();
        is_done(&quarantine.enter(QuarantineLevel::Isolate, terms(&[BROKER], &[])).await);
        let outcome = quarantine.leave().await;
        assert_eq!((outcome.reason.as_deref(), quarantine.in_force().is_some()), (reason, reason.is_some()));
    }
}

#[tokio::test]
async fn what_an_earlier_one_could_not_start_is_not_started_for_one_that_does_not_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    let quarantine = with_a_refusing_nft(dir.path());
    fs::remove_file(refuses(dir.path())).unwrap();
    let stopped = units(&["fieldmedic-no-such-unit.service"]);
    for (stop, kept) in [(stopped.clone(), stopped.clone()), (Vec::new(), Vec::new())] {
        quarantine.make_dir().unwrap();
        quarantine.save(&Saved { stopped: stopped.clone(), ..mark(LEFT) }).unwrap();
        is_done(&quarantine.enter(QuarantineLevel::Restrict, Terms { stop, ..terms(&[BROKER], &[]) }).await);
        assert_eq!(quarantine.saved().unwrap().stopped, kept);
    }
}
