//! Reboots, and power that goes at any moment: each is told for what it was, and nothing is done twice for it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::common::until;
use crate::site::{DEVICE, Site};

#[test]
fn a_commanded_reboot_is_announced_done_and_told_by_the_next_boot() {
    let Some(site) = Site::new("", "") else { return };
    let (mark, boots) = (site.world.fleet.mark(), site.machine.boots());
    let boot = site.machine.say(&["cat", "/proc/sys/kernel/random/boot_id"]);
    let id = site.order("reboot", json!({}));
    site.world.fleet.wait_since(mark, "the goodbye", |message| {
        message.leaf() == "presence" && message.body["online"] == false && message.body["reason"] == "rebooting"
    });
    site.machine.wait_for_boot(boots);
    site.world.fleet.result(&id, "SUCCEEDED");
    assert_ne!(site.machine.say(&["cat", "/proc/sys/kernel/random/boot_id"]), boot);
    assert_eq!(site.machine.boots(), boots + 1);
}

#[test]
fn a_reboot_that_root_orders_is_announced_too_and_a_stop_is_none() {
    let Some(site) = Site::new("", "") else { return };
    let goodbye = |mark: usize| {
        let message = site
            .world
            .fleet
            .wait_since(mark, "the goodbye", |message| message.leaf() == "presence" && message.body["online"] == false);
        message.body["reason"].clone()
    };
    let mark = site.world.fleet.mark();
    site.machine.say(&["systemctl", "stop", "fieldmedic.service"]);
    assert_eq!(goodbye(mark), "stopped");
    site.machine.say(&["systemctl", "start", "fieldmedic.service"]);
    site.world.fleet.presence(mark, DEVICE, true);
    let (mark, boots) = (site.world.fleet.mark(), site.machine.boots());
    site.machine.run(&["systemctl", "reboot"]);
    assert_eq!(goodbye(mark), "rebooting");
    site.machine.wait_for_boot(boots);
    let event = site.world.fleet.wait_since(mark, "what the next boot says of it", |message| {
        message.leaf() == "events" && message.body["name"] == "rebooted"
    });
    assert_eq!(event.body["reboot"]["reason"], "user", "{event:?}");
}

#[test]
fn a_runbook_runs_at_most_once_whenever_the_power_goes_and_its_status_is_told() {
    let Some(site) = Site::with("", "", |machine| {
        machine.write("/etc/fieldmedic/runbooks/mark", "#!/bin/sh\necho \"$1\" >> /var/marks\nsleep 0.3\n");
        fs::set_permissions(machine.file("/etc/fieldmedic/runbooks/mark"), fs::Permissions::from_mode(0o755)).unwrap();
    }) else {
        return;
    };
    let runs = |mark: &str| {
        let runs = site.machine.run(&["grep", "-cxF", mark, "/var/marks"]);
        String::from_utf8_lossy(&runs.stdout).trim().parse::<u32>().unwrap_or(0)
    };
    for moment_ms in [0, 20, 50, 100, 200, 400] {
        let mark = format!("after-{moment_ms}-$HOME-$$-ms");
        let seen = site.world.fleet.mark();
        let id = site.order("run", json!({"runbook": "mark", "args": [mark]}));
        // This is the moment at which the power goes.
        thread::sleep(Duration::from_millis(moment_ms));
        site.machine.crash();
        site.world.fleet.presence(seen, DEVICE, true);
        let end = site.world.fleet.wait_for(&format!("the end of {id}"), |message| {
            message.body["command_id"] == *id && message.body["status"] != "IN_PROGRESS" && message.leaf() == "results"
        });
        let runs = runs(&mark);
        assert!(runs <= 1, "{mark}: {runs} runs");
        assert!(end.body["status"] != "SUCCEEDED" || runs == 1, "{mark}: {end:?}, {runs} runs");
    }
    // And where nothing comes in between it does run.
    site.command("run", json!({"runbook": "mark", "args": ["uncut"]}), "SUCCEEDED");
    assert_eq!(runs("uncut"), 1);
}

#[test]
fn a_runbook_that_restarts_the_helper_runs_once_and_ends_with_it() {
    let Some(site) = Site::with("", "", |machine| {
        let book = "#!/bin/sh\necho ran >> /var/marks\nsystemctl restart fieldmedic-act.service\n";
        machine.write("/etc/fieldmedic/runbooks/mark", book);
        fs::set_permissions(machine.file("/etc/fieldmedic/runbooks/mark"), fs::Permissions::from_mode(0o755)).unwrap();
    }) else {
        return;
    };
    site.command("run", json!({"runbook": "mark", "args": []}), "INTERRUPTED");
    until("the runbook's unit to be gone", || {
        let units =
            site.machine.say(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "fieldmedic-runbook-*"]);
        units.is_empty() && site.machine.show("fieldmedic-act.service", "ActiveState") == "active"
    });
    assert_eq!(site.machine.say(&["cat", "/var/marks"]), "ran");
    site.command("restart_unit", json!({"unit": "app.service"}), "SUCCEEDED");
}

#[test]
fn every_remedy_is_done_at_most_once_whenever_the_power_goes_and_its_status_is_true() {
    const MOMENTS_MS: [u64; 6] = [0, 15, 40, 80, 160, 320];
    let Some(mut remedies) = Remedies::new() else { return };
    for moment in MOMENTS_MS.map(Duration::from_millis) {
        remedies.cut_restart(moment);
        remedies.cut_rollback(moment);
        remedies.cut_quarantine_and_release(moment);
        remedies.cut_reboot(moment);
    }
    let ends = &remedies.ends;
    println!("how remedies ended that were cut off: {ends:?}");
    let wrong = ends.keys().find(|(name, status)| match status.as_str() {
        "SUCCEEDED" | "INTERRUPTED" | "FAILED" => false,
        // It waited for the look at the rules that each start begins with, and was never begun.
        "CANCELED" => *name != "release",
        _ => true,
    });
    assert_eq!(wrong, None, "{ends:?}");
    // Never to act at all would be at most once, too.
    remedies.assert_each_is_done_uncut();
}

/// A gateway on which each remedy leaves a trace, and how those ended that were cut off.
struct Remedies {
    site: Site,
    /// Boots before the application's starts were counted.
    boots_before: u32,
    ends: BTreeMap<(&'static str, String), usize>,
}

impl Remedies {
    fn new() -> Option<Self> {
        const CONFIG: &str = "[rollback.app]\nkind = \"slots\"\ndir = \"/opt/app\"\ntrial = \"1h\"\n\
                              [remediation.budget]\nrestart_unit = \"50/1h\"\nreboot = \"50/1h\"\nrollback = \"50/1h\"";
        const POLICY: &str = "[rollback.app]\nkind = \"slots\"\ndir = \"/opt/app\"\n\
                              [budget]\nrestart_unit = \"50/1h\"\nreboot = \"50/1h\"\nrollback = \"50/1h\"";
        const APP: &str =
            "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo started >>/var/starts'\n";
        let site = Site::with_releases(CONFIG, POLICY, "")?;
        site.machine.write("/etc/systemd/system/app.service", APP);
        site.machine.say(&["rm", "-f", "/var/starts"]);
        site.machine.crash();
        let boots_before = site.machine.boots();
        Some(Self { site, boots_before, ends: BTreeMap::new() })
    }

    /// How often the application was started but for the boots.
    fn restarts(&self) -> usize {
        let starts = self.site.machine.say(&["cat", "/var/starts"]).lines().count();
        starts - usize::try_from(self.site.machine.boots() - self.boots_before + 1).unwrap()
    }

    fn current(&self) -> String {
        self.site.machine.say(&["readlink", "/opt/app/current"])
    }

    /// Has 2.0 run, with 1.0 to go back to.
    fn put_2_0_in_place(&self) {
        let machine = &self.site.machine;
        machine.say(&["ln", "-sfn", "releases/2.0", "/opt/app/current"]);
        machine.say(&["ln", "-sfn", "releases/1.0", "/opt/app/previous"]);
        machine.say(&["rm", "-f", "/opt/app/.fieldmedic.json"]);
    }

    fn is_shut(&self) -> bool {
        self.site.rules().contains("fieldmedic_quarantine")
    }

    /// Cuts a command off; how it ended.
    fn cut(&mut self, name: &'static str, args: Json, moment: Duration) -> (String, Json) {
        let (status, end) = self.site.cut(name, args, moment);
        *self.ends.entry((name, status.clone())).or_default() += 1;
        (status, end)
    }

    fn cut_restart(&mut self, moment: Duration) {
        let before = self.restarts();
        let (status, end) = self.cut("restart_unit", json!({"unit": "app.service"}), moment);
        let done = self.restarts() - before;
        assert!(done <= 1 && (status != "SUCCEEDED" || done == 1), "restart_unit, {moment:?}: {end}, {done} times");
    }

    fn cut_rollback(&mut self, moment: Duration) {
        self.put_2_0_in_place();
        let (status, end) = self.cut("rollback", json!({"target": "app"}), moment);
        let now = self.current();
        assert!(
            now == "releases/1.0" || (now == "releases/2.0" && status != "SUCCEEDED"),
            "rollback, {moment:?}: {end}, and it is {now}"
        );
    }

    fn cut_quarantine_and_release(&mut self, moment: Duration) {
        for (name, args, succeeded) in
            [("quarantine", json!({"level": "restrict"}), "restrict"), ("release", json!({}), "none")]
        {
            let (status, _) = self.cut(name, args, moment);
            // What was cut off leaves the gateway as it was, or shut; what is said of it is what is in force.
            until("presence to say what is in force", || {
                let messages = self.site.world.fleet.so_far();
                let says =
                    messages.iter().rfind(|message| message.leaf() == "presence" && message.body["online"] == true);
                let says = says.unwrap().body["quarantine"].clone();
                let in_force = if self.is_shut() { "restrict" } else { "none" };
                says == in_force && (status != "SUCCEEDED" || says == succeeded)
            });
        }
        if self.is_shut() {
            self.site.command("release", json!({}), "SUCCEEDED");
        }
    }

    fn cut_reboot(&mut self, moment: Duration) {
        let (seen, boots) = (self.site.world.fleet.mark(), self.site.machine.boots());
        let (status, end) = self.cut("reboot", json!({}), moment);
        assert_eq!(status, "SUCCEEDED", "{moment:?}: it was another boot, whoever brought it about: {end}");
        let done = self.site.machine.boots() - boots;
        assert!(done <= 2, "reboot, {moment:?}: {done} boots");
        self.site.world.fleet.presence(seen, DEVICE, true);
        self.site.let_pass(3);
        assert_eq!(self.site.machine.boots() - boots, done, "reboot, {moment:?}: once and no more");
    }

    fn assert_each_is_done_uncut(&self) {
        let (site, machine) = (&self.site, &self.site.machine);
        let before = self.restarts();
        site.command("restart_unit", json!({"unit": "app.service"}), "SUCCEEDED");
        assert_eq!(self.restarts() - before, 1);
        self.put_2_0_in_place();
        site.command("rollback", json!({"target": "app"}), "SUCCEEDED");
        assert_eq!(self.current(), "releases/1.0");
        site.command("quarantine", json!({"level": "restrict"}), "SUCCEEDED");
        assert!(self.is_shut());
        site.command("release", json!({}), "SUCCEEDED");
        assert!(!self.is_shut());
        let before = machine.boots();
        let id = site.order("reboot", json!({}));
        machine.wait_for_boot(before);
        site.world.fleet.result(&id, "SUCCEEDED");
        site.let_pass(3);
        assert_eq!(machine.boots() - before, 1);
    }
}
