//! The runbooks that are shipped, run by the agent. What they would call is replaced, so that they touch nothing here.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use crate::common::{Agent, Gateway, World};
use crate::site::shipped;

/// An agent with the shipped runbooks, and programs in the place of others.
struct Bench {
    world: World,
    gateway: Gateway,
    _agent: Agent,
}

impl Bench {
    fn new(device: &str) -> Self {
        let world = World::new();
        let gateway = world.gateway(device);
        fs::create_dir(gateway.file("bin")).unwrap();
        for name in ["modem-reset", "free-space", "app-log"] {
            let (bin, runbook) = (gateway.file("bin"), shipped("runbooks").join(name));
            // The agent gives them its own PATH, and the file has to be the directory's.
            let script = format!("PATH={}:$PATH\nexport PATH\nexec {} \"$@\"", bin.display(), runbook.display());
            gateway.runbook(name, &script);
        }
        let agent = world.online(&gateway);
        Self { world, gateway, _agent: agent }
    }

    /// Puts a program in place, which notes each of its arguments.
    fn fake(&self, program: &str, script: &str) {
        let path = self.gateway.file("bin").join(program);
        let noted = self.noted_in(program);
        fs::write(&path, format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >>{}\n{script}\n", noted.display())).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    fn noted_in(&self, program: &str) -> PathBuf {
        self.gateway.file(&format!("{program}.noted"))
    }

    /// What a program was called with, all calls together.
    fn noted(&self, program: &str) -> Vec<String> {
        let noted = fs::read_to_string(self.noted_in(program)).unwrap_or_default();
        noted.lines().map(str::to_owned).collect()
    }

    /// Has it run by a command; the last result.
    fn run(&self, runbook: &str, args: &Json, status: &str) -> Json {
        let id = self.world.order(self.gateway.device(), "run", json!({"runbook": runbook, "args": args}));
        self.world.fleet.result(&id, status)
    }
}

/// Prints as mmcli 1.20 does: keys are filled up to the longest one, or cut off there, an empty list is its name alone,
/// and what is unknown is `--`. The modem is gone for one look after its reset, and back as number 1000.
const MODEM: &str = r#"
cd "$(dirname "$0")" || exit 1
case "$*" in
*--reset) echo 1 >was_reset; echo "successfully reseted the modem"; exit ;;
"-K -L")
    if [ ! -e was_reset ]; then number=0; elif [ ! -e looked ]; then number=; touch looked; else number=1000; fi
    if [ -z "$number" ]; then echo "modem-list : 0"; exit; fi
    echo "modem-list.length   : 1"
    echo "modem-list.value[1] : /org/freedesktop/ModemManager1/Modem/$number"
    exit ;;
esac
state=connected
device=/sys/devices/usb1/1-1
if [ -e was_reset ] && [ ! -e seen ]; then touch seen; state=--
elif [ -e was_reset ]; then state=registered; fi
printf '%-47.47s : %s\n' \
    modem.dbus-path "/org/freedesktop/ModemManager1/Modem/$3" \
    modem.generic.device-identifier 4e7c01f0a1 \
    modem.generic.manufacturer "QUALCOMM INCORPORATED" \
    modem.generic.supported-capabilities.length 1 \
    'modem.generic.supported-capabilities.value[1]' 'gsm-umts, lte' \
    modem.3gpp.eps.initial-bearer.settings.apn -- \
    modem.generic.device "$device" \
    modem.generic.drivers.length 1 \
    'modem.generic.drivers.value[1]' qmi_wwan \
    'modem.generic.ports.value[1]' 'cdc-wdm0 (qmi)' \
    modem.generic.unlock-retries.length 1 \
    'modem.generic.unlock-retries.value[1]' 'sim-pin (3)' \
    modem.generic.state "$state" \
    modem.generic.state-failed-reason -- \
    modem.generic.power-state on \
    modem.generic.signal-quality.value 73 \
    modem.generic.signal-quality.recent yes
"#;

#[test]
fn modem_reset_waits_until_the_modem_is_back_under_another_number() {
    let bench = Bench::new("gw-modem");
    bench.fake("mmcli", MODEM);
    bench.fake("sleep", "");
    // By the time of day a year passes between two looks: it is set when the modem is back.
    bench.fake("date", "cd \"$(dirname \"$0\")\" && echo >>years && echo $(($(wc -l <years) * 31536000))");
    let result = bench.run("modem-reset", &json!([]), "SUCCEEDED");
    let output = result["output"].as_str().unwrap();
    assert!(output.contains("before: modem 0 at /sys/devices/usb1/1-1 is connected"), "{output}");
    assert!(output.contains("after: modem 1000 at /sys/devices/usb1/1-1 is registered"), "{output}");
    bench.world.fleet.wait_for("its progress", |message| message.body["progress_pct"] == 50);
}

#[test]
fn modem_reset_says_so_where_the_modem_stays_away_or_there_is_none() {
    let bench = Bench::new("gw-no-modem");
    bench.fake("mmcli", "echo 'modem-list : 0'");
    assert!(bench.run("modem-reset", &json!([]), "FAILED")["output"].as_str().unwrap().contains("there is no modem"));

    bench.fake("mmcli", &MODEM.replace("device=/sys/devices/usb1/1-1", "device=--"));
    let result = bench.run("modem-reset", &json!([1234]), "FAILED");
    assert!(result["output"].as_str().unwrap().contains("doesn't say where it is plugged in"), "{result}");
    assert!(!bench.noted("mmcli").contains(&"--reset".to_owned()));

    bench.fake("mmcli", &MODEM.replace("number=1000", "number="));
    bench.fake("sleep", "");
    // Each look at the clock is a minute later.
    bench.fake("cut", "cd \"$(dirname \"$0\")\" && echo >>minutes && echo $(($(wc -l <minutes) * 60))");
    let result = bench.run("modem-reset", &json!([0]), "FAILED");
    assert_eq!(result["detail"], "exit code 1", "{result}");
    let output = result["output"].as_str().unwrap();
    assert!(output.contains("after: the modem at /sys/devices/usb1/1-1 is gone, 180 s later"), "{output}");
}

#[test]
fn free_space_does_each_step_and_tells_what_it_freed_and_which_failed() {
    let bench = Bench::new("gw-space");
    bench.fake("journalctl", "");
    bench.fake("apt-get", "echo 'E: Could not get lock'; exit 100");
    bench.fake("systemd-tmpfiles", "");
    bench.fake("df", "echo Filesystem; echo /dev/root 100000 50000 $(wc -l <$(dirname $0)/../df.noted) 50% /");
    let result = bench.run("free-space", &json!([32]), "FAILED");
    let output = result["output"].as_str().unwrap();
    for said in
        ["journal, to 32 MiB: ", " KiB freed", "apt's downloads: failed: E: Could not get lock", "temporary files: "]
    {
        assert!(output.contains(said), "{said} is not in {output}");
    }
    assert_eq!(bench.noted("journalctl"), ["--rotate", "--vacuum-size=32M"]);
    assert_eq!(bench.noted("apt-get"), ["clean"]);
    assert_eq!(bench.noted("systemd-tmpfiles"), ["--clean"]);

    bench.fake("apt-get", "");
    bench.run("free-space", &json!([]), "SUCCEEDED");
    assert_eq!(bench.noted("journalctl").last().unwrap(), "--vacuum-size=64M");
}

#[test]
fn app_log_shows_the_lines_of_one_unit_between_two_times() {
    let bench = Bench::new("gw-log");
    bench.fake("journalctl", "echo a line of the journal");
    let result = bench.run("app-log", &json!(["app@1.service", "2026-11-18 11:00:00", "now", 20]), "SUCCEEDED");
    assert_eq!(result["output"], "a line of the journal\n");
    let asked = ["--unit=app@1.service", "--since=2026-11-18 11:00:00", "--until=now", "--lines=20"];
    assert_eq!(bench.noted("journalctl")[2..], asked);
}

#[test]
fn arguments_that_mean_harm_reach_no_program() {
    const HARM: [&str; 8] = ["; touch harm", "$(touch harm)", "`touch harm`", "--help", "-1", "*", "..", "1\n2"];
    let bench = Bench::new("gw-harm");
    for program in ["journalctl", "mmcli", "apt-get", "systemd-tmpfiles"] {
        bench.fake(program, "");
    }
    let mut calls: Vec<(&str, Json)> = vec![
        ("app-log", json!([])),
        ("app-log", json!(["app.service", "-1h"])),
        ("app-log", json!(["app.service", "-1h", "now", "99999"])),
        ("free-space", json!([1])),
        ("free-space", json!([64, 64])),
        ("modem-reset", json!([0, 0])),
    ];
    for harm in HARM {
        calls.extend([("modem-reset", json!([harm])), ("free-space", json!([harm]))]);
        if harm != ".." {
            calls.push(("app-log", json!([harm, "-1h", "now"])));
        }
        calls.push(("app-log", json!(["app.service", "-1h", "now", harm])));
        if harm != "-1" && harm != ".." && harm != "--help" {
            calls.push(("app-log", json!(["app.service", harm, "now"])));
        }
    }
    for (runbook, args) in calls {
        let result = bench.run(runbook, &args, "FAILED");
        assert_eq!(result["detail"], "exit code 2", "{runbook} {args}: {result}");
    }
    for program in ["journalctl", "mmcli", "apt-get", "systemd-tmpfiles"] {
        assert_eq!(bench.noted(program), Vec::<String>::new(), "{program}");
    }
}
