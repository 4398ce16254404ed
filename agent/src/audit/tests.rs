#![expect(clippy::disallowed_methods, reason = "it makes the files that are looked at")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;

use super::*;
use crate::agent_user::User;
use crate::config::TrustedKey;
use crate::engine::metric::{Metric, Point};
use crate::engine::observation::{Fault, Sockets};
use crate::engine::time::{Mono, Now, Unix, Wall};
use crate::wire::keys::SigningKey;

const GOOD: &str = "[mqtt]\nurl = \"mqtts://broker.example\"\n";

fn config(dir: &Path, more: &str) -> CheckedConfig {
    let file = dir.join("agent.toml");
    fs::write(
        &file,
        format!("{GOOD}{more}\n[collect]\nroot = {dir:?}\n[runbooks]\ndir = {:?}\n", dir.join("runbooks")),
    )
    .unwrap();
    crate::config::load(&[file]).unwrap().config
}

fn checks(found: &[Finding]) -> Vec<&str> {
    found.iter().map(|finding| finding.check).collect()
}

fn of_readings(points: Vec<Point>) -> Vec<Finding> {
    let dir = tempfile::tempdir().unwrap();
    judge(&config(dir.path(), ""), &Observation { points, ..Observation::default() }, &Ok(Vec::new()), None).findings
}

fn of_listeners(listeners: &[&str]) -> Vec<Finding> {
    let dir = tempfile::tempdir().unwrap();
    let listeners = listeners.iter().map(|name| (*name).to_owned()).collect();
    let sockets = Some(Sockets { listeners, peers: Vec::new() });
    judge(&config(dir.path(), ""), &Observation { sockets, ..Observation::default() }, &Ok(Vec::new()), None).findings
}

#[test]
fn nothing_is_said_of_a_gateway_in_order() {
    let points = vec![
        Point::new(Metric::HostClockSynced, true),
        Point::labelled(Metric::HostDiskUsed, "/", 40.0),
        Point::labelled(Metric::HostDiskFree, "/", 5e9),
        Point::new(Metric::HostFlashLife, 30.0),
    ];
    assert_eq!(of_readings(points), []);
    assert_eq!(of_listeners(&["tcp 127.0.0.1:23", "tcp [::1]:8080"]), [], "nobody else can reach these");
}

#[test]
fn disks_flash_and_clock_are_told_at_their_limits() {
    let cases: [(Point, &str, Severity); 5] = [
        (Point::new(Metric::HostClockSynced, false), "clock_not_synced", Severity::Warning),
        (Point::labelled(Metric::HostDiskUsed, "/var", 97.0), "disk_full", Severity::Warning),
        (Point::labelled(Metric::HostDiskFree, "/var", 4e6), "disk_headroom", Severity::Warning),
        (Point::new(Metric::HostFlashLife, 80.0), "flash_worn", Severity::Warning),
        (Point::new(Metric::HostFlashLife, 110.0), "flash_worn", Severity::Critical),
    ];
    for (point, check, severity) in cases {
        let found = of_readings(vec![point]);
        assert_eq!((checks(&found), found[0].severity), (vec![check], severity));
        assert!(!found[0].advice.is_empty());
    }
}

#[test]
fn what_a_round_could_not_read_is_told_as_unseen_rather_than_gone() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "[collect.host]\nmounts = [\"/\", \"/data\"]");
    let (points, faults) = (vec![Point::labelled(Metric::HostDiskUsed, "/", 40.0)], |source: &str| {
        vec![Fault { source: source.to_owned(), what: "statvfs: no answer".to_owned() }]
    });
    let flash = "/sys/block/mmcblk0/device/life_time";
    let sockets = Some(Sockets { listeners: Vec::new(), peers: Vec::new() });
    let seen = Observation { points, faults: faults("/data"), sockets, ..Observation::default() };
    let unseen = |seen: &Observation| judge(&config, seen, &Ok(Vec::new()), Some(&[])).unseen;
    let data = ["disk_full", "disk_headroom"].map(|check| Unseen::one(check, "/data"));
    assert_eq!(unseen(&seen), data);
    let blind = Observation { sockets: None, faults: faults(flash), ..seen };
    let all = ["listens", "clear_text_service", "flash_worn"].map(Unseen::all);
    assert_eq!(unseen(&blind), [&all[..2], &data, &all[2..]].concat());
}

#[test]
fn a_clock_that_is_trusted_whatever_the_kernel_says_is_nothing_to_tell() {
    let dir = tempfile::tempdir().unwrap();
    let points = vec![Point::new(Metric::HostClockSynced, false)];
    let seen = Observation { points, ..Observation::default() };
    assert_eq!(judge(&config(dir.path(), "[clock]\ntrust = \"always\""), &seen, &Ok(Vec::new()), None).findings, []);
}

#[test]
fn ports_are_named_and_telnet_is_an_error() {
    let found = of_listeners(&["tcp 0.0.0.0:22", "tcp [::]:23", "udp 0.0.0.0:23"]);
    assert_eq!(checks(&found), ["clear_text_service", "listens"], "the worst first");
    assert_eq!(found[0].what, "passwords go over the wire as they are: tcp [::]:23");
    assert_eq!(found[1].what, "others can reach 3 ports: tcp 0.0.0.0:22, tcp [::]:23, udp 0.0.0.0:23");
    let many: Vec<String> = (1_000..1_030).map(|port| format!("tcp 0.0.0.0:{port}")).collect();
    let found = of_listeners(&many.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(found[0].what.ends_with("tcp 0.0.0.0:1009 and 20 more"), "{}", found[0].what);
}

#[test]
fn what_the_configuration_lets_pass_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), "[commands]\nrequire_signature = false\n");
    config.mqtt.url.tls = false;
    let found = judge(&config, &Observation::default(), &Ok(Vec::new()), None).findings;
    assert_eq!(checks(&found), ["plain_mqtt", "unsigned_commands"]);
    config.mqtt.url.host = "::1".to_owned();
    let found = judge(&config, &Observation::default(), &Ok(Vec::new()), None).findings;
    assert_eq!(checks(&found), ["unsigned_commands"], "to itself it may speak as it likes");
}

#[test]
fn what_the_broker_refuses_is_a_finding_while_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let found = |refused: &[&str]| {
        let refused: Vec<String> = refused.iter().map(|fault| (*fault).to_owned()).collect();
        let found = judge(&config(dir.path(), ""), &Observation::default(), &Ok(Vec::new()), Some(&refused)).findings;
        found.into_iter().find(|finding| finding.check == "broker_refuses")
    };
    let finding = found(&["it refuses our telemetry (quota exceeded)"]).unwrap();
    assert_eq!(finding.severity, Severity::Error);
    assert!(
        finding.what.ends_with("takes the connection, but it refuses our telemetry (quota exceeded)"),
        "{finding:?}"
    );
    let granted = "it grants 1 of our command topics at QoS 0: what comes there may be lost on the way";
    let finding = found(&[granted]).unwrap();
    assert_eq!(finding.severity, Severity::Warning);
    assert!(!finding.advice.contains("dropped"), "{finding:?}");
    assert_eq!(found(&["it refuses our telemetry", granted]).unwrap().severity, Severity::Error);
    assert_eq!(found(&[]), None);
}

#[test]
fn a_key_that_only_whoever_asks_may_not_read_is_not_called_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let tls = format!("[mqtt.tls]\ncert_file = {:?}\nkey_file = {:?}\n", file("gw.pem"), file("gw.key"));
    let config = config(dir.path(), &tls);
    let found = |is_barred: fn(&Path) -> bool| {
        let mut found = Vec::new();
        files::tls_files(&config, Some(Unix(0)), None, is_barred, &mut found);
        found
    };
    let by_all = found(|_| false);
    assert!(by_all.iter().filter(|finding| finding.severity == Severity::Error).count() == 2, "{by_all:?}");
    let found = found(|file| file.ends_with("gw.key"));
    let of = |subject: &str| found.iter().find(|finding| finding.subject == subject).unwrap();
    assert_eq!(of("mqtt.tls.cert_file").severity, Severity::Error, "that one is not there");
    let key = of("mqtt.tls.key_file");
    assert_eq!(key.severity, Severity::Warning);
    assert!(key.what.ends_with("it was not looked at") && key.advice.contains("sudo fieldmedic audit"), "{key:?}");
}

#[test]
fn failed_units_are_named_and_where_nobody_knows_nothing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "");
    let found = judge(&config, &Observation::default(), &Ok(vec!["app.service failed (failed): App".to_owned()]), None)
        .findings;
    assert_eq!((checks(&found), found[0].subject.as_str()), (vec!["failed_unit"], "app.service"));
    assert_eq!(found[0].what, "systemd says: app.service failed (failed): App");
    assert_eq!(judge(&config, &Observation::default(), &Err("no bus".to_owned()), None).findings, []);
}

#[test]
fn files_that_everybody_may_write_are_critical_and_a_link_is_what_it_leads_to() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let config = config(dir.path(), "");
    let file = dir.path().join("agent.toml");
    let link = dir.path().join("link.toml");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let told = |files: &[&Path]| {
        let mut found = Vec::new();
        let files: Vec<PathBuf> = files.iter().map(|file| (*file).to_owned()).collect();
        files::look(&config, &files, None, &mut found);
        found
    };
    assert_eq!(told(&[&file, &link]), []);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    for named in [&file, &link] {
        let found = told(&[named]);
        assert_eq!((checks(&found), found[0].severity), (vec!["writable_by_others"], Severity::Critical));
        assert_eq!(found[0].advice, format!("chmod o-w {}", file.canonicalize().unwrap().display()));
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(checks(&told(&[&file])), ["writable_by_others"], "whoever may write the directory may replace the file");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    assert_eq!(told(&[&file]), [], "as in /tmp");

    let runbook = config.runbooks.dir.join("flush-dns");
    fs::create_dir(&config.runbooks.dir).unwrap();
    fs::set_permissions(&config.runbooks.dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&runbook, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&runbook, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(told(&[&file]), []);
    fs::set_permissions(&runbook, fs::Permissions::from_mode(0o757)).unwrap();
    let subjects: Vec<String> = told(&[&file]).into_iter().map(|finding| finding.subject).collect();
    assert_eq!(subjects, [runbook.display().to_string()], "each runbook is looked at, and not only where they lie");
}

#[test]
fn a_configuration_that_the_agents_user_can_not_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (config, file) = (config(dir.path(), ""), dir.path().join("agent.toml"));
    let stranger = User { uid: 4_000_000, gid: 4_000_001 };
    for (mode, expected) in [(0o644, vec![]), (0o600, vec!["config_unreadable"])] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let mut found = Vec::new();
        files::look(&config, std::slice::from_ref(&file), Some(stranger), &mut found);
        assert_eq!(checks(&found), expected);
    }
}

#[test]
fn what_systemd_hands_over_takes_a_restart_to_be_put_right() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "username = \"gw\"\npassword_file = \"/run/credentials/none.service/password\"\n");
    let mut found = Vec::new();
    files::tls_files(&config, Some(Unix(0)), None, |_| false, &mut found);
    assert_eq!(checks(&found), ["tls_files"]);
    assert!(found[0].advice.ends_with("then systemctl restart fieldmedic"), "{found:?}");
}

#[test]
fn an_idle_watchdog_and_a_pending_reboot_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let look = || {
        let mut found = Vec::new();
        gateway::look(dir.path(), &mut found);
        checks(&found).join(" ")
    };
    assert_eq!(look(), "", "no watchdog is no finding");
    let watchdog = dir.path().join("sys/class/watchdog/watchdog0");
    fs::create_dir_all(&watchdog).unwrap();
    for (state, told) in [("inactive\n", "watchdog_off"), ("active\n", "")] {
        fs::write(watchdog.join("state"), state).unwrap();
        assert_eq!(look(), told);
    }
    fs::create_dir_all(dir.path().join("run")).unwrap();
    fs::write(dir.path().join("run/reboot-required"), "").unwrap();
    assert_eq!(look(), "reboot_required");
}

#[test]
fn a_configuration_that_was_changed_behind_the_agents_back_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    fs::write(&file, GOOD).unwrap();
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    let look = |read| {
        let mut found = Vec::new();
        let running = Running { written: vec![read], is_watched: true, is_root: false };
        agent::look(std::slice::from_ref(&file), &running, &mut found);
        checks(&found).join(" ")
    };
    let second = std::time::Duration::from_secs(1);
    assert_eq!(look(Some(written)), "", "whatever the clock said when it was read");
    for read in [Some(written - second), Some(written + second), None] {
        assert_eq!(look(read), "config_not_in_force", "{read:?}: one that was put back is another one, too");
    }
    let helped = |is_installed, listens, is_needed| {
        let mut found = Vec::new();
        agent::look_for_helper(&config(dir.path(), ""), agent::Helper { is_installed, listens }, is_needed, &mut found);
        checks(&found).join(" ")
    };
    assert_eq!((helped(false, false, false).as_str(), helped(true, true, true).as_str()), ("", ""));
    assert_eq!((helped(true, false, false), helped(false, false, true)), ("no_helper".into(), "no_helper".into()));
    let mut found = Vec::new();
    let running = Running { written: Vec::new(), is_watched: false, is_root: true };
    agent::look(&[], &running, &mut found);
    assert_eq!(checks(&found), ["runs_as_root", "watchdog_off"]);
}

#[test]
fn a_whole_look_reads_its_own_round_below_the_root() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let config = config(dir.path(), "");
    let net = dir.path().join("proc/net");
    fs::create_dir_all(&net).unwrap();
    let listens = "   0: 00000000:0017 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1\n";
    fs::write(net.join("tcp"), format!("  sl  local_address\n{listens}")).unwrap();
    let look = |trusted| {
        let clock = ClockReading { now: Now { mono: Mono(1), wall: Wall { unix: Unix(0), trusted } }, synced: false };
        Audit::new(config.clone(), vec![dir.path().join("agent.toml")]).look(
            clock,
            &Ok(Vec::new()),
            trusted.then_some(&[]),
        )
    };
    let unseen = ["broker_refuses", "tls_files"].map(Unseen::all);
    assert_eq!(look(false).unseen, unseen, "of an expired certificate only a clock can tell");
    let Audited { findings: found, unseen } = look(true);
    assert_eq!(unseen, []);
    let expected = ["clear_text_service", "clock_not_synced", "listens"];
    let found: Vec<&str> = checks(&found).into_iter().filter(|check| expected.contains(check)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_look_does_not_hang_in_what_is_not_judged() {
    let dir = tempfile::tempdir().unwrap();
    for gauge in ["sys/class/power_supply/BAT0/type", "proc/net/route"].map(|file| dir.path().join(file)) {
        fs::create_dir_all(gauge.parent().unwrap()).unwrap();
        // A FIFO that nobody writes to.
        rustix::fs::mknodat(rustix::fs::CWD, gauge, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    }
    let now = Now { mono: Mono(1), wall: Wall { unix: Unix(0), trusted: true } };
    let audit = Audit::new(config(dir.path(), ""), vec![]);
    let (sender, looked) = std::sync::mpsc::sync_channel(1);
    thread::spawn(move || sender.send(audit.look(ClockReading { now, synced: true }, &Ok(vec![]), None)));
    assert!(looked.recv_timeout(std::time::Duration::from_secs(30)).is_ok());
}

#[test]
fn a_runbook_that_a_ladder_names_and_that_can_not_be_run_is_told_before_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let steps =
        "steps = [{ do = \"run\", runbook = \"fix\" }, { do = \"run\", runbook = \"fix\", args = [\"--all\"] }]";
    let config = config(dir.path(), &format!("[[ladders]]\nname = \"heal\"\n{steps}\n"));
    let told = || {
        let mut found = Vec::new();
        files::look(&config, &[], None, &mut found);
        found.retain(|finding| finding.check == "runbook_unfit");
        found
    };
    assert_eq!(told().len(), 1, "it is named twice and told once: {:?}", told());
    assert!(told()[0].what.contains("No such file"), "{:?}", told());
    let file = config.runbooks.dir.join("fix");
    fs::create_dir_all(&config.runbooks.dir).unwrap();
    fs::write(&file, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(told()[0].what.contains("is not executable"), "{:?}", told());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(told(), []);
}

#[test]
fn a_ladder_that_roots_policy_refuses_is_told_before_it_is_climbed() {
    let dir = tempfile::tempdir().unwrap();
    let steps = "steps = [{ do = \"restart_unit\", unit = \"app.service\" }, { do = \"reboot\" }, { do = \"collect_diagnostics\" }]";
    let rule = "[[rules]]\nname = \"hot\"\nmetric = \"host.temperature_c\"\nabove = 90\nremedy = \"heal\"\n";
    let ladder = format!("[[ladders]]\nname = \"heal\"\n{steps}\n[remediation]\nunits = [\"app.service\"]\n");
    let config = config(dir.path(), &format!("{rule}{ladder}"));
    let file = dir.path().join("policy.toml");
    let told = || {
        let mut found = Vec::new();
        policy::look(&config, &file, &mut found);
        found.into_iter().map(|finding| (finding.check, finding.what)).collect::<Vec<_>>()
    };
    let allow = "[allow]\nactions = [\"restart_unit\", \"reboot\"]\nunits = [\"app.service\"]\n";
    for (local, refused) in [
        ("", Some("at 2 of 3 steps: step 1: root's policy: restart_unit is not in local.actions")),
        ("\"restart_unit\"", Some("at 1 of 3 steps: step 2: root's policy: reboot is not in local.actions")),
        ("\"restart_unit\", \"reboot\"", None),
    ] {
        fs::write(&file, format!("{allow}[local]\nactions = [{local}]\n")).unwrap();
        let told = told();
        assert_eq!(told.len(), usize::from(refused.is_some()), "{told:?}");
        for (check, what) in &told {
            assert!(*check == "policy_refuses" && what.contains(refused.unwrap()), "{what}");
        }
    }
}

#[test]
fn a_rollback_that_roots_policy_refuses_is_told_before_a_release_is_to_be_left() {
    let dir = tempfile::tempdir().unwrap();
    let slots = "[rollback.app]\nkind = \"slots\"\ndir = \"/opt/app\"\n";
    let rauc = "[rollback.fw]\nkind = \"rauc\"\n";
    let program = "[rollback.modem]\nkind = \"command\"\nargv = [\"/bin/back\"]\n";
    let all = [slots, rauc, program].concat();
    let file = dir.path().join("policy.toml");
    let told = |more: &str, allow: &str, local: &str, named: &str| {
        fs::write(&file, format!("[allow]\nactions = [{allow}]\n[local]\nactions = [{local}]\n{named}")).unwrap();
        let mut found = Vec::new();
        policy::look(&config(dir.path(), &format!("{all}{more}")), &file, &mut found);
        assert!(found.iter().all(|finding| finding.check == "policy_refuses"), "{found:?}");
        found.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
    };
    let (both, rollback) = ("\"rollback\", \"reboot\"", "\"rollback\"");
    assert_eq!(told("", both, rollback, &all), [""; 0]);
    for (allow, local, named, expected) in [
        (both, "", &all, [Some("rollback is not in local.actions"), Some("rollback is not in local.actions"), None]),
        (rollback, rollback, &all, [None, Some("reboot is not in allow.actions"), None]),
        ("", "", &all, [Some("rollback is not in allow.actions"); 3]),
        (both, rollback, &slots.to_owned(), [None, Some("no [rollback.\"fw\"]"), Some("no [rollback.\"modem\"]")]),
    ] {
        let told = told("", allow, local, named);
        let expected: Vec<&str> = expected.into_iter().flatten().collect();
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        assert!(told.iter().zip(&expected).all(|(told, expected)| told.contains(expected)), "{told:#?}");
    }
    for forgone in ["dry_run = true", "allow = [\"restart_unit\"]"] {
        assert_eq!(told(&format!("[remediation]\n{forgone}\n"), "", "", ""), [""; 0], "{forgone}: asked for by nobody");
    }
}

#[test]
fn a_policy_by_which_everything_is_refused_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (file, none) = (dir.path().join("policy.toml"), dir.path().join("none.toml"));
    fs::write(&file, "").unwrap();
    let told = |config: &CheckedConfig, file: &Path, mode: u32| {
        if file.exists() {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut found = Vec::new();
        let hidden = policy::look(config, file, &mut found);
        assert_eq!(hidden.contains(&"policy_differs"), !found.is_empty(), "what nobody could read isn't mended");
        found.into_iter().map(|finding| (finding.check, finding.severity, finding.what)).collect::<Vec<_>>()
    };
    let acts = config(dir.path(), "");
    assert_eq!(told(&acts, &file, 0o644), []);
    let expect_one = |told: Vec<(&str, Severity, String)>, check: &str, text: &str| {
        let [(found, severity, what)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((*found, *severity), (check, Severity::Error));
        assert!(what.contains("refuses everything") && what.contains(text), "{what}");
    };
    expect_one(told(&acts, &file, 0o666), "policy_untrusted", "mode 666, others may write to it");
    expect_one(told(&acts, &none, 0), "policy_untrusted", "No such file");
    let collects = config(dir.path(), "[remediation]\nallow = []\n");
    assert_eq!(told(&collects, &none, 0), [], "who only collects needs none");
    fs::write(&file, "[alow]\n").unwrap();
    expect_one(told(&acts, &file, 0o644), "policy_wrong", "1 error, the first: ");
}

#[test]
fn a_key_a_group_and_a_name_that_only_one_of_both_files_has_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let key = |kid: &str, seed| {
        let public_key = SigningKey::from_seed([seed; 32]).unwrap().public();
        format!("\"{}\"", TrustedKey { kid: kid.to_owned(), public_key })
    };
    let of = |device: &str, keys: [String; 3]| {
        format!("[device]\n{device}\n[commands]\ntrusted_keys = [{}]\n", keys.join(", "))
    };
    let of_agent = of("id = \"gw-1\"\ngroups = [\"canary\"]", [key("both", 1), key("ours", 2), key("two", 3)]);
    let mut config = config(dir.path(), &of_agent);
    let file = dir.path().join("policy.toml");
    let told = |config: &CheckedConfig, policy: &str| {
        fs::write(&file, policy).unwrap();
        let mut found = Vec::new();
        policy::look(config, &file, &mut found);
        found.into_iter().map(|finding| (finding.check, finding.subject, finding.severity)).collect::<Vec<_>>()
    };
    assert_eq!(told(&config, &of_agent), []);
    let expected = [
        ("device.id", Severity::Warning),
        ("canary", Severity::Warning),
        ("ours", Severity::Warning),
        ("two", Severity::Warning),
        ("roots", Severity::Notice),
    ];
    let differing = told(&config, &of("id = \"gw-2\"", [key("both", 1), key("roots", 4), key("two", 5)]));
    assert!(differing.iter().all(|(check, ..)| *check == "policy_differs"), "{differing:?}");
    assert_eq!(
        differing.iter().map(|(_, subject, severity)| (subject.as_str(), *severity)).collect::<Vec<_>>(),
        expected
    );
    config.commands = crate::config::Commands { require_signature: false, trusted_keys: Vec::new(), ..config.commands };
    let told = told(&config, &of_agent);
    assert_eq!(told, [], "an agent that obeys whoever publishes refuses no key");
}

#[test]
fn what_a_quarantine_needs_and_root_does_not_name_is_told_before_one_is_ordered() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    let of_agent = "[quarantine]\nallow_hosts = [\"192.0.2.7\"]\nstop_units = [\"app.service\"]\n";
    let told = |of_agent: &str, allow: &str, named: &str| {
        let allow = format!("[device]\nid = \"gw-1\"\n[allow]\nactions = [{allow}]\n[quarantine]\n{named}\n");
        fs::write(&file, allow).unwrap();
        let mut found = Vec::new();
        policy::look(&config(dir.path(), &format!("[device]\nid = \"gw-1\"\n{of_agent}")), &file, &mut found);
        assert!(
            found.iter().all(|one| (one.check, one.severity) == ("policy_differs", Severity::Warning)),
            "{found:?}"
        );
        found.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
    };
    let all = "allow_hosts = [\"192.0.2.0/24\"]\nstop_units = [\"app.service\"]";
    let allow = "\"quarantine\"";
    assert_eq!(told(of_agent, allow, all), [""; 0]);
    let [left_out] = told(of_agent, allow, "").try_into().unwrap();
    let both = "192.0.2.7 (quarantine.allow_hosts), app.service (quarantine.stop_units)";
    assert!(left_out.contains("in part (degraded)") && left_out.ends_with(both), "{left_out}");
    let [refused] = told(of_agent, allow, &format!("{all}\nbroker_ports = [443]")).try_into().unwrap();
    assert!(refused.contains("is refused (not_allowed)") && refused.contains("broker's port 8883 is not"), "{refused}");
    assert_eq!(told(of_agent, "", "broker_ports = []"), [""; 0], "none is put in force");
    let forgone = format!("[remediation]\nallow = [\"reboot\"]\n{of_agent}");
    assert_eq!(told(&forgone, allow, "broker_ports = []"), [""; 0], "none is asked for");
}

#[test]
fn a_file_that_holds_all_ladders_off_is_named_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let seen = Observation { inhibited: Some("Kim, until noon".to_owned()), ..Observation::default() };
    let found = judge(&config(dir.path(), ""), &seen, &Ok(Vec::new()), None).findings;
    assert_eq!((checks(&found), found[0].severity), (vec!["inhibited"], Severity::Info));
    assert!(found[0].what.ends_with("/run/fieldmedic/inhibit is there: Kim, until noon"), "{}", found[0].what);
}

#[test]
fn the_stores_own_disk_is_looked_at_wherever_it_is_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), "");
    let mut told = |floor: u64, free: Option<u64>| {
        config.store.min_free_bytes = floor;
        let mut found = Vec::new();
        gateway::store_disk(&config, free, &mut found);
        found
    };
    assert_eq!((told(4_096, Some(4_096)), told(4_096, None)), (vec![], vec![]));
    let found = told(4_096, Some(1_024));
    assert_eq!((checks(&found), found[0].severity), (vec!["store_no_room"], Severity::Error));
    assert!(found[0].what.contains("1.0 KiB free") && found[0].what.contains("4.0 KiB are to stay"), "{found:?}");
    config.store.path = dir.path().join("not/made/yet");
    config.store.min_free_bytes = u64::MAX;
    let clock = ClockReading { now: Now { mono: Mono(1), wall: Wall { unix: Unix(0), trusted: true } }, synced: true };
    let looked = Audit::new(config, Vec::new()).look(clock, &Ok(Vec::new()), None).findings;
    assert!(checks(&looked).contains(&"store_no_room"), "{looked:?}");
}

#[test]
fn a_program_of_a_rollback_that_can_not_be_run_is_told_before_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("back");
    let config = config(dir.path(), &format!("[rollback.modem]\nkind = \"command\"\nargv = [{program:?}]\n"));
    let told = || {
        let mut found = Vec::new();
        files::look(&config, &[], None, &mut found);
        found.retain(|finding| finding.check == "rollback_unfit");
        found
    };
    assert!(told()[0].what.starts_with("[rollback.modem]") && told()[0].what.contains("No such file"), "{:?}", told());
    let file = dir.path().join("box");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    std::os::unix::fs::symlink("box", &program).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(told()[0].what.contains("others may write to it"), "{:?}", told());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(told(), []);
}

#[test]
fn releases_that_can_not_be_gone_back_from_are_told_before_one_is_to_be_left() {
    let dir = tempfile::tempdir().unwrap();
    let app = dir.path().join("app");
    let config = config(dir.path(), &format!("[rollback.app]\nkind = \"slots\"\ndir = {app:?}\n"));
    let told = || {
        let mut found = Vec::new();
        files::look(&config, &[], None, &mut found);
        found.retain(|finding| finding.check == "rollback_unfit");
        found.pop().map(|finding| finding.what).unwrap_or_default()
    };
    assert!(told().contains("app/current is no link to releases/NAME: No such file"), "{}", told());
    fs::create_dir_all(app.join("v1")).unwrap();
    std::os::unix::fs::symlink("v1", app.join("current")).unwrap();
    assert!(told().ends_with("app/current is no link to releases/NAME"), "{}", told());
    fs::remove_file(app.join("current")).unwrap();
    fs::create_dir_all(app.join("releases/v1")).unwrap();
    std::os::unix::fs::symlink("releases/v1", app.join("current")).unwrap();
    assert_eq!(told(), "");
}

#[test]
fn releases_that_this_user_may_not_look_into_are_no_error() {
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let app = dir.path().join("app");
    fs::create_dir_all(app.join("releases/v1")).unwrap();
    std::os::unix::fs::symlink("releases/v1", app.join("current")).unwrap();
    let config = config(dir.path(), &format!("[rollback.app]\nkind = \"slots\"\ndir = {app:?}\n"));
    for shut in [app.clone(), app.join("releases")] {
        fs::set_permissions(&shut, fs::Permissions::from_mode(0o600)).unwrap();
        let look = || {
            // Root looks into everything; this thread alone is nobody from here on.
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(NOBODY)).unwrap();
            }
            let mut found = Vec::new();
            files::look(&config, &[], None, &mut found);
            found
        };
        let mut found = thread::scope(|scope| scope.spawn(look).join().unwrap());
        fs::set_permissions(&shut, fs::Permissions::from_mode(0o755)).unwrap();
        found.retain(|finding| finding.check == "rollback_unfit");
        let said = found.iter().any(|finding| finding.what.contains("this user may not look there"));
        assert!(said && found[0].severity == Severity::Warning, "{}: {found:?}", shut.display());
    }
}
