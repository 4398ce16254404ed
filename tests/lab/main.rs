//! A gateway as it is shipped: the units of systemd/, the daemon without rights, root's helper behind its socket, and
//! the quarantine's boot unit, on a real systemd that is rebooted, crashed and cut off. Here is who may do what on it,
//! and who reaches it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that can't be set up fails, and it may touch the system that the agent's engine must not"
)]

#[path = "../common/mod.rs"]
mod common;
mod healing;
mod machine;
mod power;
mod site;
mod supervised;

use std::time::Instant;

use serde_json::json;

use common::operator::{claims, wrong_tokens};
use common::{Message, Operator, PREFIX, until};
use machine::HERE;
use site::{APP_PORT, DEVICE, Site};

#[test]
fn the_daemon_has_no_rights_and_the_helper_restarts_what_roots_policy_names() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    let status = machine.say(&["cat", &format!("/proc/{}/status", machine.show("fieldmedic.service", "MainPID"))]);
    let line = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(!line("Uid:").contains("\t0\t") && line("CapEff:").ends_with("\t0000000000000000"), "{status}");
    assert!(line("NoNewPrivs:").ends_with('1') && line("Seccomp:").ends_with('2'), "{status}");

    let before = machine.show("app.service", "MainPID");
    let result = site.command("restart_unit", json!({"unit": "app.service"}), "SUCCEEDED");
    let after = machine.show("app.service", "MainPID");
    assert_ne!(before, after);
    assert!(result["detail"].as_str().unwrap().contains(&after), "{result}");
    // The agent's configuration allows it, root doesn't.
    let result = site.command("restart_unit", json!({"unit": "ssh.service"}), "REJECTED");
    assert_eq!(result["reason"], "not_allowed", "{result}");
    assert!(machine.journal("fieldmedic-act.service").contains("refused: not_allowed"));
}

#[test]
fn a_quarantine_cuts_the_gateway_off_from_all_but_the_broker_over_reboots_and_crashes_until_it_is_released() {
    let Some(site) = Site::new("[quarantine]\nstop_units = [\"app.service\"]", "") else { return };
    let (machine, network) = (&site.machine, &site.network);
    assert!(network.reaches(APP_PORT));
    machine.say(&["ip", "link", "add", "br0", "type", "bridge"]);
    let mark = site.world.fleet.mark();
    let result = site.command("quarantine", json!({"level": "isolate"}), "SUCCEEDED");
    assert!(result["detail"].as_str().unwrap().contains("stopped: app.service"), "{result}");
    assert!(result["reason"].is_null() && site.rules().contains("table bridge fieldmedic_quarantine"), "{result}");
    site.says(mark, "isolate");
    assert!(!network.reaches(APP_PORT));
    assert_eq!(machine.show("app.service", "ActiveState"), "inactive");

    for end in ["crash", "reboot"] {
        let (mark, boots) = (site.world.fleet.mark(), machine.boots());
        if end == "crash" {
            machine.crash();
        } else {
            machine.run(&["systemctl", "reboot"]);
            machine.wait_for_boot(boots);
        }
        site.says(mark, "isolate");
        assert!(!network.reaches(APP_PORT), "after a {end}");
        assert!(site.rules().contains("table bridge fieldmedic_quarantine"), "after a {end}");
        // The rules were there before the network was.
        let since = |unit: &str| machine.show(unit, "ActiveEnterTimestampMonotonic").parse::<u64>().unwrap();
        assert!(since("fieldmedic-quarantine.service") <= since("uplink.service"), "after a {end}");
        // It was started at boot, and stopped again.
        until("app.service to be stopped", || machine.show("app.service", "ActiveState") == "inactive");
    }
    site.world.fleet.wait_for("what was stopped again to be told", |message| {
        message.body["name"] == "quarantine_units_stopped"
            && message.body["audit"]["detail"].as_str().unwrap().contains("stopped again: app.service")
    });
    assert_eq!(site.command("reboot", json!({}), "REJECTED")["reason"], "quarantined");
    let snapshot = site.command("collect_diagnostics", json!({}), "SUCCEEDED");
    assert!(snapshot["detail"].as_str().unwrap().contains("compressed"), "{snapshot}");

    let forged = claims(DEVICE, "release", json!({}));
    site.world.deliver(DEVICE, &Operator::new("ops-1").sign(&forged));
    site.world.fleet.wait_for("the forged release to be refused", |message| {
        message.body["command_id"] == forged["jti"] && message.body["reason"] == "bad_signature"
    });
    assert!(!network.reaches(APP_PORT) && site.rules().contains("fieldmedic"));

    let mark = site.world.fleet.mark();
    site.command("release", json!({}), "SUCCEEDED");
    site.says(mark, "none");
    assert!(network.reaches(APP_PORT));
    assert_eq!(machine.show("app.service", "ActiveState"), "active");
    assert!(!site.rules().contains("fieldmedic"));
    let (mark, boots) = (site.world.fleet.mark(), machine.boots());
    machine.run(&["systemctl", "reboot"]);
    machine.wait_for_boot(boots);
    site.says(mark, "none");
    assert!(network.reaches(APP_PORT));
}

#[test]
fn only_the_agent_reaches_the_broker_in_quarantine_and_root_on_the_console_ends_it() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    site.command("quarantine", json!({"level": "restrict"}), "SUCCEEDED");
    let port = site.world.broker.port();
    let connect = format!("exec 3<>/dev/tcp/{HERE}/{port}");
    let as_user = |user: &str| {
        machine
            .run(&["setpriv", "--reuid", user, "--clear-groups", "timeout", "2", "bash", "-c", &connect])
            .status
            .success()
    };
    assert!(as_user("fieldmedic"), "the agent's user reaches the broker");
    assert!(!as_user("nobody") && !as_user("root"), "and nobody else");

    let mark = site.world.fleet.mark();
    assert!(
        !machine
            .run(&["setpriv", "--reuid", "nobody", "--clear-groups", "fieldmedic", "release", "--local"])
            .status
            .success()
    );
    assert!(site.rules().contains("fieldmedic"));
    let said = machine.say(&["fieldmedic", "release", "--local"]);
    assert!(said.starts_with("released"), "{said}");
    assert!(!site.rules().contains("fieldmedic"));
    site.says(mark, "none");
    assert!(as_user("nobody"));
}

#[test]
fn what_a_quarantine_stops_is_stopped_again_after_a_boot_where_no_agent_runs() {
    let Some(site) = Site::new("[quarantine]\nstop_units = [\"app.service\"]", "") else { return };
    let machine = &site.machine;
    site.command("quarantine", json!({"level": "restrict"}), "SUCCEEDED");
    machine.say(&["systemctl", "disable", "fieldmedic.service"]);
    let boots = machine.boots();
    machine.run(&["systemctl", "reboot"]);
    machine.wait_for_boot(boots);
    until("the helper to stop what ran", || {
        machine.journal("fieldmedic-act.service").contains("app.service ran: stopped")
    });
    assert_eq!(machine.show("app.service", "ActiveState"), "inactive");
    assert_eq!(machine.show("fieldmedic.service", "ActiveState"), "inactive");
    machine.say(&["fieldmedic", "release", "--local"]);
    assert_eq!(machine.show("app.service", "ActiveState"), "active");
}

#[test]
fn a_release_succeeds_as_soon_as_what_kept_it_from_that_is_mended() {
    let Some(site) = Site::new("", "") else { return };
    let machine = &site.machine;
    site.command("quarantine", json!({"level": "isolate"}), "SUCCEEDED");
    let broken = "/etc/systemd/system/fieldmedic-quarantine.service.d/broken.conf";
    machine.write(broken, "[Service]\nExecStart=\nExecStart=/bin/false\nExecReload=\nExecStop=\nExecStop=/bin/false\n");
    machine.say(&["systemctl", "daemon-reload"]);
    site.command("release", json!({}), "FAILED");
    // It is tried again at once, and fails again.
    until("the unit to have failed", || machine.show("fieldmedic-quarantine.service", "ActiveState") == "failed");
    machine.say(&["rm", broken]);
    machine.say(&["systemctl", "daemon-reload"]);
    site.command("release", json!({}), "SUCCEEDED");
    assert!(!site.rules().contains("fieldmedic") && site.network.reaches(APP_PORT));
}

#[test]
fn a_release_that_leaves_the_rules_in_force_is_told_as_failed_and_the_gateway_stays_shut_over_a_boot() {
    let Some(site) = Site::new("", "") else { return };
    let (machine, network) = (&site.machine, &site.network);
    site.command("quarantine", json!({"level": "restrict"}), "SUCCEEDED");
    let broken = "/etc/systemd/system/fieldmedic-quarantine.service.d/broken.conf";
    machine.write(broken, "[Service]\nExecStop=\nExecStop=/bin/false\n");
    machine.say(&["systemctl", "daemon-reload"]);
    let result = site.command("release", json!({}), "FAILED");
    assert_eq!(result["reason"], "nft_failed", "{result}");
    assert!(!network.reaches(APP_PORT));

    let (mark, boots) = (site.world.fleet.mark(), machine.boots());
    machine.run(&["systemctl", "reboot"]);
    machine.wait_for_boot(boots);
    site.says(mark, "restrict");
    until("the rules to be in force", || site.rules().contains("fieldmedic"));
    assert!(!network.reaches(APP_PORT));

    machine.say(&["rm", broken]);
    machine.say(&["systemctl", "daemon-reload"]);
    site.command("release", json!({}), "SUCCEEDED");
    assert!(network.reaches(APP_PORT) && !site.rules().contains("fieldmedic"));
}

#[test]
fn a_hostile_operator_is_refused_with_the_reason_and_costs_little() {
    let Some(site) = Site::new("", "") else { return };
    let (machine, operator, before) =
        (&site.machine, &site.world.operator, site.machine.show("app.service", "MainPID"));
    let restart = || claims(DEVICE, "restart_unit", json!({"unit": "app.service"}));
    let mut tokens: Vec<(&str, String)> =
        wrong_tokens(operator, restart).into_iter().map(|wrong| (wrong.reason, wrong.token)).collect();
    tokens.push(("malformed", "{}".repeat(1_000)));
    let mut unheard_of = restart();
    unheard_of["cmd"] = json!({"name": "drop-tables", "args": {"all": true}});
    tokens.push(("unknown_command", operator.sign(&unheard_of)));
    for (reason, token) in &tokens {
        let mark = site.world.fleet.mark();
        site.world.deliver(DEVICE, token);
        site.world.fleet.wait_since(mark, &format!("a refusal as {reason}"), |message| {
            message.leaf() == "results" && message.body["reason"] == *reason && message.body["status"] == "REJECTED"
        });
        site.world.fleet.wait_since(mark, &format!("the audit of {reason}"), |message| {
            message.body["type"] == "audit" && message.body["audit"]["reason"] == *reason
        });
    }
    // A genuine one that is recorded and sent again, and another one under its id.
    let genuine = claims(DEVICE, "ping", json!({}));
    let token = operator.sign(&genuine);
    for times in 1..=3 {
        site.world.deliver(DEVICE, &token);
        site.world.fleet.results(genuine["jti"].as_str().unwrap(), "SUCCEEDED", times);
    }
    let mut other = restart();
    other["jti"] = genuine["jti"].clone();
    site.world.deliver(DEVICE, &operator.sign(&other));
    site.world.fleet.wait_for("the replay to be refused", |message| {
        message.leaf() == "results"
            && message.body["command_id"] == genuine["jti"]
            && message.body["reason"] == "replayed"
    });

    // And a siege by all of them, in volleys that the broker's queue holds.
    const VOLLEYS: usize = 6;
    let spent = || machine.show("fieldmedic.service", "CPUUsageNSec").parse::<u64>().unwrap();
    let volley: String = (0..900).map(|n| format!("{}\n", tokens[n % tokens.len()].1)).collect();
    let sent = VOLLEYS * volley.lines().count();
    // What is genuine and was refused once is answered from the ledger, and counts no more.
    const COUNTED: [&str; 4] = ["bad_signature", "unknown_key", "wrong_audience", "too_large"];
    let counted = (0..900).filter(|n| COUNTED.contains(&tokens[n % tokens.len()].0)).count();
    let (mark, cpu, began) = (site.world.fleet.mark(), spent(), Instant::now());
    for volleys in 1..=VOLLEYS {
        site.world.broker.publish_lines(&format!("{PREFIX}/{DEVICE}/commands"), &volley);
        site.world.fleet.wait_all(common::SOON * 2, "all of them to be counted", |messages| {
            let samples = messages[mark..].iter().flat_map(Message::samples);
            let counts = samples.filter_map(|sample| sample["agent"]["commands_refused"].as_object());
            let sum: u64 = counts
                .flatten()
                .filter(|(reason, _)| COUNTED.contains(&reason.as_str()))
                .filter_map(|(_, n)| n.as_u64())
                .sum();
            (sum >= (volleys * counted) as u64).then_some(())
        });
    }
    let (took, cost_ms) = (began.elapsed().as_secs_f64(), (spent() - cpu) as f64 / 1e6);
    println!(
        "{sent} hostile commands in {took:.1} s, {:.0} a second: {:.0} us of CPU each, {:.1} % of one processor",
        sent as f64 / took,
        cost_ms * 1_000.0 / sent as f64,
        cost_ms / took / 10.0,
    );
    let told = site.world.fleet.so_far()[mark..].iter().filter(|message| message.body["type"] == "audit").count();
    assert!(told < sent / 10, "{told} events for {sent} messages");
    site.command("ping", json!({}), "SUCCEEDED");
    assert_eq!(machine.show("app.service", "MainPID"), before, "nothing of it was done");
}

#[test]
fn a_snapshot_of_a_confined_agent_names_what_has_failed_and_what_the_journal_says() {
    let Some(site) = Site::new("", "") else { return };
    let id = site.order("collect_diagnostics", json!({}));
    site.world.fleet.result(&id, "SUCCEEDED");
    let text = site.world.fleet.snapshot(&id);
    for word in ["broken.service failed", "addresses: ", "10.77.0.2", "Started", "app.service", "tcp"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
}
