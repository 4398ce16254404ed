//! What the fleet learns about a gateway whose every value is known.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that can't be set up fails, and it may touch the system that the agent's engine must not"
)]

#[path = "../common/mod.rs"]
mod common;
mod modem;

use std::path::Path;

use serde_json::{Value as Json, json};

use common::tree::{BATTERY, ETHERNET};
use common::{Bus, Fleet, Gateway, Message, PREFIX, Tree, World};
use modem::ModemManager;

/// How far a computed value may be off: the rounding of a division.
const EPSILON: f64 = 1e-6;

fn assert_reads(sample: &Json, group: &str, expected: &Json) {
    for (field, expected) in expected.as_object().unwrap() {
        let found = &sample[group][field];
        let same = match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => (found - expected).abs() < EPSILON,
            _ => found == expected,
        };
        assert!(same, "{group}.{field} is {found}, expected {expected}, in {sample:#}");
    }
}

/// A gateway with a made tree, running, and its first sample that has a load of the processors: from there on every
/// collector has had two rounds.
fn measured(world: &World, tree: &Tree, device: &str) -> (Gateway, common::Agent, Json) {
    tree.write("data/some.file", "x");
    let gateway = world.gateway(device).measuring(tree).with("[collect.host]\nmounts = [\"/\", \"/data\"]");
    let agent = gateway.start();
    let sample = world.fleet.sample_since(0, device, "a first sample", |sample| sample["battery"].is_object());
    (gateway, agent, sample)
}

fn any_sample(fleet: &Fleet, device: &str, what: &str, fits: impl Fn(&Json) -> bool) -> Json {
    fleet.sample_since(0, device, what, fits)
}

#[test]
fn the_battery_is_told_in_the_contracts_units_and_signs() {
    let (world, tree) = (World::new(), Tree::new());
    let (_gateway, _agent, sample) = measured(&world, &tree, "gw-battery");

    assert_reads(
        &sample,
        "battery",
        &json!({
            "present": true, "charge_pct": 80.0, "state": "discharging", "voltage_v": 12.1, "current_a": -0.5,
            "power_w": -6.05, "temperature_c": 25.3, "time_to_empty_s": 28_800.0, "health_pct": 90.0,
            "cycle_count": 123, "external_power": false, "supply": "BAT0",
        }),
    );

    tree.write(&format!("{BATTERY}/capacity"), "78");
    let sample = any_sample(&world.fleet, "gw-battery", "the charge to fall", |sample| {
        sample["battery"]["discharged_pct"].as_f64().is_some_and(|pct| pct > 0.0)
    });
    assert_reads(&sample, "battery", &json!({"discharged_pct": 2.0, "charge_pct": 78.0}));

    tree.write(&format!("{BATTERY}/status"), "Charging");
    tree.write("sys/class/power_supply/AC/online", "1");
    let sample = any_sample(&world.fleet, "gw-battery", "a whole interval of charging", |sample| {
        let battery = &sample["battery"];
        battery["external_power"] == true && battery["state"] == "charging" && battery["current_a_min"].is_null()
    });
    assert_reads(&sample, "battery", &json!({"current_a": 0.5, "time_to_empty_s": null}));
}

#[test]
fn a_modem_is_told_as_modem_manager_has_it_and_without_one_the_rest_is_told() {
    let (world, tree, bus) = (World::new(), Tree::new(), Bus::start());
    tree.write("sys/class/net/wwan0/type", "65534");
    tree.write("sys/class/net/wwan0/uevent", "DEVTYPE=wwan\nINTERFACE=wwan0");
    tree.write("sys/class/net/wwan0/operstate", "unknown");
    tree.write("sys/class/net/wwan0/carrier", "1");
    tree.write(
        "proc/net/route",
        "Iface\tDestination\tGateway\nwwan0\t00000000\t0100000A\t0003\t0\t0\t50\t00000000\t0\t0\t0",
    );
    let gateway = world.gateway("gw-modem").measuring(&tree);
    let start = || gateway.start_in(&[("DBUS_SYSTEM_BUS_ADDRESS", Path::new(bus.address()))]);
    let agent = start();
    let cellular = |sample: &Json| sample["link"]["type"] == "cellular";
    let alone = world.fleet.sample_since(0, "gw-modem", "a link without ModemManager", cellular);
    assert_reads(&alone, "link", &json!({"interface": "wwan0", "up": true, "rat": null, "signal_quality_pct": null}));
    assert_reads(&alone, "agent", &json!({"collect_faults": 0}));
    drop(agent);

    let _manager = ModemManager::on(&bus);
    let _agent = start();
    let told =
        any_sample(&world.fleet, "gw-modem", "what ModemManager says", |sample| sample["link"]["rat"].is_string());
    assert_reads(
        &told,
        "link",
        &json!({"rat": "5gnr", "signal_quality_pct": 64.0, "rsrp_dbm": null, "operator": null}),
    );
}

#[test]
fn the_link_is_told_with_the_growth_of_its_counters_and_each_interface_by_name() {
    let (world, tree) = (World::new(), Tree::new());
    let (_gateway, _agent, sample) = measured(&world, &tree, "gw-link");

    assert_reads(&sample, "link", &json!({"type": "ethernet", "interface": "eth0", "up": true}));
    assert_eq!(sample["link"]["interfaces"]["wlan0"]["type"], "wifi", "{sample:#}");
    assert_eq!(sample["link"]["interfaces"]["wlan0"]["up"], true, "{sample:#}");

    let growth = [
        ("statistics/rx_bytes", 6_000, "rx_bytes", 5_000),
        ("statistics/tx_bytes", 2_700, "tx_bytes", 700),
        ("statistics/rx_errors", 4, "rx_errors", 1),
        ("statistics/tx_errors", 6, "tx_errors", 2),
        ("statistics/rx_dropped", 8, "rx_dropped", 3),
        ("statistics/tx_dropped", 10, "tx_dropped", 4),
        ("carrier_changes", 5, "carrier_changes", 3),
    ];
    for (file, value, field, grown) in growth {
        tree.write(&format!("{ETHERNET}/{file}"), &value.to_string());
        let sample = any_sample(&world.fleet, "gw-link", field, |sample| sample["link"][field] == grown);
        let of_interface = &sample["link"]["interfaces"]["eth0"][field];
        assert_eq!(*of_interface, grown, "interfaces.eth0.{field} in {sample:#}");
    }

    // The wired route goes: the one over the air takes its place, with its signal.
    let routes = std_text(&tree, "proc/net/route");
    let without_eth0: Vec<&str> = routes.lines().filter(|line| !line.starts_with("eth0")).collect();
    tree.write("proc/net/route", &without_eth0.join("\n"));
    let sample = any_sample(&world.fleet, "gw-link", "the other link", |sample| sample["link"]["type"] == "wifi");
    assert_reads(&sample, "link", &json!({"interface": "wlan0", "rssi_dbm": -56.0}));
}

#[test]
fn data_is_counted_against_its_monthly_budget_over_a_restart_and_each_mark_is_told_once() {
    let (world, tree) = (World::new(), Tree::new());
    let gateway = world.gateway("gw-data").measuring(&tree).with("[collect.link.monthly_budget]\neth0 = \"10kB\"");
    let used = |mark: usize, bytes: u64, percent: f64| {
        let fits = |sample: &Json| sample["link"]["interfaces"]["eth0"]["month_bytes"] == bytes;
        let sample = world.fleet.sample_since(mark, "gw-data", &format!("{bytes} bytes"), fits);
        assert_eq!(sample["link"]["interfaces"]["eth0"]["budget_used_pct"], percent, "{sample:#}");
    };
    let told = |severity: &str| {
        let is_mark = |message: &Message| message.body["name"] == "data_budget" && message.body["severity"] == severity;
        world.fleet.wait_for(severity, is_mark).body["link"].clone()
    };
    let agent = gateway.start();
    used(0, 0, 0.0);
    tree.write(&format!("{ETHERNET}/statistics/rx_bytes"), "10000");
    used(0, 9_000, 90.0);
    let expected = json!({"interface": "eth0", "month_bytes": 9_000, "budget_bytes": 10_000, "budget_used_pct": 90.0});
    assert_eq!(told("warning"), expected);

    assert_eq!(agent.sigterm(), Some(0));
    let mark = world.fleet.mark();
    let _agent = gateway.start();
    used(mark, 9_000, 90.0);
    tree.write(&format!("{ETHERNET}/statistics/tx_bytes"), "5000");
    used(mark, 12_000, 120.0);
    assert_eq!(told("error")["month_bytes"], 12_000);
    let marks = world.fleet.so_far().into_iter().filter(|message| message.body["name"] == "data_budget").count();
    assert_eq!(marks, 2, "the first mark is not told again after the restart");
}

#[test]
fn the_connection_is_told_with_its_round_trip_and_its_time() {
    let (mut world, tree) = (World::new(), Tree::new());
    let (gateway, _agent, _sample) = measured(&world, &tree, "gw-rtt");

    let sample = any_sample(&world.fleet, "gw-rtt", "a whole interval online", |sample| {
        sample["link"]["broker_rtt_ms"].as_f64().is_some_and(|ms| ms >= 0.0)
            && sample["link"]["connected_s"].as_f64().is_some_and(|s| s > 0.5)
    });
    assert!(sample["link"]["expected_s"].as_f64().unwrap() > 0.5, "{sample:#}");

    world.broker.stop();
    gateway.wait_for_status("the loss of the broker", |status| status["broker"]["online"] == false);
    world.broker.resume();
    any_sample(&world.fleet, "gw-rtt", "a reconnect", |sample| sample["link"]["reconnects"] == 1);
}

#[test]
fn the_host_is_told_from_proc_and_sys() {
    let (world, tree) = (World::new(), Tree::new());
    let (_gateway, _agent, sample) = measured(&world, &tree, "gw-host");

    assert_reads(
        &sample,
        "host",
        &json!({
            "load1": 0.52, "mem_used_pct": 75.0, "mem_available_bytes": 256_000_000_u64, "swap_used_pct": 25.0,
            "flash_life_used_pct": 20.0, "temperature_c": 51.5, "uptime_s": 12_345.67,
        }),
    );
    assert_eq!(sample["host"]["psi"], json!({"cpu": 2.5, "memory": 0.75, "io": 12.25}), "{sample:#}");
    assert!(sample["host"]["clock_synced"].is_boolean(), "{sample:#}");
    for mount in ["/", "/data"] {
        let disk = &sample["host"]["disk"][mount];
        assert!((0.0..=100.0).contains(&disk["used_pct"].as_f64().unwrap_or(-1.0)), "{mount} in {sample:#}");
        assert!(disk["free_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{mount} in {sample:#}");
    }

    // 300 of the next 400 jiffies were work.
    tree.write("proc/stat", "cpu  300 0 200 900 0 0 0 0 0 0");
    any_sample(&world.fleet, "gw-host", "a load of 75 %", |sample| {
        let most = if sample["host"]["cpu_pct_max"].is_null() { "cpu_pct" } else { "cpu_pct_max" };
        sample["host"][most].as_f64().is_some_and(|pct| (pct - 75.0).abs() < EPSILON)
    });
}

#[test]
fn the_agent_tells_what_it_uses_itself() {
    let (world, tree) = (World::new(), Tree::new());
    let (_gateway, _agent, _sample) = measured(&world, &tree, "gw-self");

    let sample = any_sample(&world.fleet, "gw-self", "all of the agent's own fields", |sample| {
        ["rss_bytes", "cpu_pct", "outbox_records", "outbox_bytes", "store_written_bytes", "threads", "publishes"]
            .iter()
            .all(|field| sample["agent"][field].is_number())
    });
    assert_eq!(sample["agent"]["version"], env!("CARGO_PKG_VERSION"), "{sample:#}");
    assert!(sample["agent"]["rss_bytes"].as_u64().unwrap() > 1 << 20, "{sample:#}");
    assert_eq!(sample["agent"]["dropped"], Json::Null, "nothing was dropped, so nothing is told: {sample:#}");
}

#[test]
fn a_gauge_that_moved_within_its_interval_is_told_with_its_range() {
    let (world, tree) = (World::new(), Tree::new());
    tree.write(&format!("{BATTERY}/voltage_now"), "11900000");
    let high = "[[rules]]\nname = \"high\"\nmetric = \"battery.voltage_v\"\nabove = 12.0\n";
    let often = "[telemetry]\nsample_interval = \"100ms\"\n";
    let _agent = world.gateway("gw-range").measuring(&tree).with(&format!("{often}{high}")).start();
    any_sample(&world.fleet, "gw-range", "a first sample", |sample| sample["battery"].is_object());

    // One that moves just between two intervals has no range in either. The rule says when a round has read it.
    let range = (0..5).find_map(|_| {
        let mark = world.fleet.mark();
        let move_to = |microvolts, state| {
            tree.write(&format!("{BATTERY}/voltage_now"), microvolts);
            world.fleet.wait_since(mark, state, |message| message.body["alarm"]["state"] == state)
        };
        move_to("12100000", "raised");
        let back = move_to("11900000", "cleared").body["mono_ms"].as_u64();
        let is_after = |sample: &Json| sample["mono_ms"].as_u64() >= back;
        let battery = world.fleet.sample_since(mark, "gw-range", "the move", is_after)["battery"].clone();
        Some(battery).filter(|battery| !battery["voltage_v_min"].is_null())
    });
    let battery = range.expect("a range in one of five moves");
    assert_eq!((&battery["voltage_v_min"], &battery["voltage_v_max"]), (&json!(11.9), &json!(12.1)));
}

#[test]
fn an_error_line_is_an_event_at_once_and_its_repeats_are_counts() {
    let (world, tree) = (World::new(), Tree::new());
    let (_gateway, _agent, _sample) = measured(&world, &tree, "gw-errors");

    tree.kernel_says(3, 10, "ata1: link 17 is slow to respond");
    let first = world
        .fleet
        .wait_for("the first of a cluster", |message| message.leaf() == "events" && message.body["type"] == "error");
    assert_eq!(first.body["severity"], "error", "{first:?}");
    assert_eq!(first.body["error"]["source"], "kernel", "{first:?}");
    assert_eq!(first.body["error"]["exemplar"], "ata1: link 17 is slow to respond", "{first:?}");
    assert_eq!(first.body["error"]["count"], 1, "{first:?}");
    let fingerprint = first.body["error"]["fingerprint"].clone();
    assert!(fingerprint.is_string(), "{first:?}");

    let mark = world.fleet.mark();
    tree.kernel_says(3, 11, "ata1: link 18 is slow to respond");
    let repeat = world.fleet.wait_since(mark, "a count of the repeats", |message| {
        message.leaf() == "events" && message.body["error"]["fingerprint"] == fingerprint
    });
    assert_eq!(repeat.body["error"]["template"], first.body["error"]["template"], "{repeat:?}");

    any_sample(&world.fleet, "gw-errors", "errors in a sample", |sample| {
        sample["errors"]["count"].as_u64().is_some_and(|count| count > 0)
            && sample["errors"]["kernel_errors"] == sample["errors"]["count"]
            && sample["errors"]["by_severity"]["error"] == sample["errors"]["count"]
    });

    tree.kernel_says(3, 12, "Out of memory: Killed process 42 (hog) total-vm:1kB");
    any_sample(&world.fleet, "gw-errors", "an OOM kill", |sample| sample["errors"]["oom_kills"] == 1);
}

#[test]
fn an_application_reports_its_own_errors_and_what_nobody_can_read_is_counted() {
    let (world, tree) = (World::new(), Tree::new());
    let (gateway, _agent, _sample) = measured(&world, &tree, "gw-app");
    let app = std::os::unix::net::UnixDatagram::unbound().unwrap();
    app.connect(gateway.file("errors.sock")).unwrap();

    app.send(br#"{"message":"pump 3 is stuck","severity":"crit","app":"pumpd"}"#).unwrap();
    let told = world.fleet.wait_for("the application's error", |message| {
        message.leaf() == "events" && message.body["error"]["source"] == "app"
    });
    assert_eq!((&told.body["severity"], &told.body["error"]["exe"]), (&json!("critical"), &json!("pumpd")), "{told:?}");
    assert_eq!(told.body["error"]["template"], "pump <n> is stuck", "{told:?}");

    app.send(b"pump 3 is stuck").unwrap();
    any_sample(&world.fleet, "gw-app", "a refused line", |sample| sample["errors"]["app_refused"]["malformed"] == 1);
}

#[test]
fn every_message_carries_who_when_and_in_which_order() {
    let (world, tree) = (World::new(), Tree::new());
    let (_gateway, _agent, _sample) = measured(&world, &tree, "gw-order");
    world.order("gw-order", "ping", json!({}));
    world.fleet.wait_for("a result", |message| message.leaf() == "results");

    let boot = std_text(&tree, "proc/sys/kernel/random/boot_id");
    for message in world.fleet.so_far() {
        if message.leaf() == "commands" {
            continue;
        }
        let body = &message.body;
        assert_eq!((&body["v"], &body["device"]), (&json!(1), &json!("gw-order")), "{message:?}");
        assert_eq!(body["boot"], boot.trim(), "{message:?}");
        assert!(body["seq"].as_u64().is_some_and(|seq| seq > 0), "{message:?}");
        assert!(body["mono_ms"].is_u64(), "{message:?}");
        let time = body["time"].as_str().unwrap_or_default();
        assert!(time.len() == "2026-01-01T00:00:00.000Z".len() && time.ends_with('Z'), "{message:?}");
    }
    let topic = format!("{PREFIX}/gw-order/telemetry");
    let messages = world.fleet.so_far();
    let samples = messages.iter().filter(|message| message.topic == topic).flat_map(Message::samples);
    let seqs: Vec<u64> = samples.filter_map(|sample| sample["seq"].as_u64()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "telemetry comes oldest first: {seqs:?}");
}

#[test]
fn telemetry_can_travel_compressed_and_reads_the_same() {
    let (world, tree) = (World::new(), Tree::new());
    let gateway = world.gateway("gw-zstd").measuring(&tree).with("[telemetry]\nencoding = \"json+zstd\"");
    let _agent = gateway.start();

    let message = world.fleet.wait_for("telemetry", |message| message.leaf() == "telemetry");
    assert!(message.compressed, "{message:?}");
    assert_reads(&message.samples()[0], "battery", &json!({"charge_pct": 80.0}));
}

/// A file of the tree, as the test wrote it.
fn std_text(tree: &Tree, file: &str) -> String {
    std::fs::read_to_string(tree.path(file)).unwrap()
}
