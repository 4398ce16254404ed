//! What is shipped for the fleet's side, as it is shipped: the broker's configuration and ACLs, the consumer and the
//! signer, with the real agent; and the runbooks, run by it with programs in the place of those that they would call.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    unreachable_pub,
    reason = "a test that can't be set up fails, and it may touch the system that the agent's engine must not"
)]

#[path = "../common/mod.rs"]
mod common;

mod runbooks;
mod site;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use common::fleet::Message;
use common::process::{Process, output_of};
use common::tree::BATTERY;
use common::{PREFIX, SOON, Tree};
use site::Site;

/// Waits until consumer.py's store is as wanted: it doesn't announce itself.
fn until(site: &Site, consumer: &Process, what: &str, fits: impl Fn() -> bool) {
    const ASK_EVERY: Duration = Duration::from_millis(150);
    let deadline = Instant::now() + SOON;
    while !fits() {
        assert!(Instant::now() < deadline, "waited for {what}: {:?} {:#?}", site.stored(), consumer.log.so_far());
        std::thread::sleep(ASK_EVERY);
    }
}

/// Waits until the consumer has a number of a gateway's, and with it all that was sent before.
fn has(site: &Site, consumer: &Process, device: &str, seq: u64) {
    let key = (device.to_owned(), "events".to_owned(), seq);
    until(site, consumer, &format!("{key:?}"), || site.stored().contains_key(&key));
}

fn is_sample_of<'d>(device: &'d str) -> impl Fn(&Message) -> bool + use<'d> {
    move |message| message.topic == format!("{PREFIX}/{device}/telemetry")
}

#[test]
fn what_was_sent_is_stored_once_through_a_kill_of_the_consumer_and_restarts_of_the_broker() {
    let Some(mut site) = Site::new() else { return };
    let watcher = site.watch();
    let consumer = site.consumer();
    let plain = site.gateway("gw-plain");
    let packed = site.gateway("gw-packed").with("[telemetry]\nencoding = \"json+zstd\"");
    let agents = [plain.start(), packed.start()];
    for device in ["gw-plain", "gw-packed"] {
        watcher.wait_for("a sample", is_sample_of(device));
    }
    until(&site, &consumer, "samples of both", || {
        let stored = site.stored();
        ["gw-plain", "gw-packed"]
            .iter()
            .all(|device| stored.keys().any(|(of, kind, _)| of == device && kind == "telemetry"))
    });

    drop(consumer);
    let mark = watcher.mark();
    watcher.wait_since(mark, "a sample that no consumer takes", is_sample_of("gw-packed"));
    site.restart_broker();
    let mark = watcher.mark();
    watcher.wait_since(mark, "a sample after the broker's restart", is_sample_of("gw-packed"));
    let consumer = site.consumer();
    // And once more under one that runs.
    site.restart_broker();
    let mark = watcher.mark();
    watcher.wait_since(mark, "a sample after another restart", is_sample_of("gw-plain"));
    for agent in agents {
        assert_eq!(agent.sigterm(), Some(0));
    }
    // After all of it: what hasn't come by then doesn't.
    site.tells("gw-fence", 1);
    has(&site, &consumer, "gw-fence", 1);
    watcher.wait_for("the fence", |message| message.body["device"] == "gw-fence");

    let mut sent = BTreeSet::new();
    for message in watcher.so_far() {
        let body = [message.body.clone()];
        let records = if message.leaf() == "telemetry" { message.samples() } else { &body };
        let device = message.topic.split('/').nth(1).unwrap().to_owned();
        let seqs = records.iter().map(|record| record["seq"].as_u64().unwrap());
        sent.extend(seqs.map(|seq| (device.clone(), message.leaf().to_owned(), seq)));
    }
    let stored = site.stored();
    assert_eq!(stored.keys().cloned().collect::<BTreeSet<_>>(), sent);
    let twice: Vec<_> = stored.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(watcher.so_far().iter().any(|message| message.compressed), "nothing was compressed");
}

#[test]
fn a_message_that_could_not_be_stored_is_not_acknowledged_and_comes_again() {
    let Some(site) = Site::new() else { return };
    let consumer = site.consumer();
    let lock = site.lock();
    site.tells("gw-1", 7);
    // It has it, and can't put it anywhere.
    site.wait_for_broker(&["Sending PUBLISH to fleet-consumer", "gw-1/events"]);
    drop(consumer);
    drop(lock);
    assert!(site.stored().is_empty());
    has(&site, &site.consumer(), "gw-1", 7);
}

#[test]
fn numbers_in_any_order_are_stored_once_each_and_anew_for_a_device_that_is_forgotten() {
    let Some(site) = Site::new() else { return };
    let consumer = site.consumer();
    for seq in [9, 3, 9, 4, 1, 3, 2, 5, 4] {
        site.tells("gw-1", seq);
    }
    site.tells("gw-2", 9);
    has(&site, &consumer, "gw-2", 9);
    let count = |device: &str| site.stored().iter().filter(|((of, ..), _)| of == device).map(|(_, n)| n).sum::<usize>();
    assert_eq!(count("gw-1"), 6);
    assert_eq!(site.query("SELECT first, last FROM seen WHERE device = 'gw-1'"), ["1 5", "9 9"]);

    let forget = ["forget", "gw-1", "--db", site.db().to_str().unwrap()].map(str::to_owned);
    output_of(Command::new(site::shipped("fleet/consumer.py")).args(forget));
    site.tells("gw-1", 1);
    site.tells("gw-2", 10);
    has(&site, &consumer, "gw-2", 10);
    assert_eq!(count("gw-1"), 7, "its numbers begin anew, and what it sent stays");
    let printed = std::fs::read_to_string(site.file("printed")).unwrap();
    let printed: Vec<Json> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seqs: Vec<u64> = printed.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [9, 3, 4, 1, 2, 5, 9, 1, 10]);
}

#[test]
fn a_number_that_comes_again_from_another_boot_is_kept_aside_and_told_once() {
    let Some(site) = Site::new() else { return };
    let consumer = site.consumer();
    let tell = |seq: u64, boot: &str| {
        let event = json!({"v": 1, "device": "gw-1", "boot": boot, "seq": seq, "time": null, "type": "lifecycle"});
        site.says("gw-1", &format!("{PREFIX}/gw-1/events"), event.to_string().as_bytes());
    };
    for (seq, boot) in [(1, "old"), (2, "old"), (1, "old"), (1, "new"), (2, "new"), (3, "new")] {
        tell(seq, boot);
    }
    has(&site, &consumer, "gw-1", 3);
    assert_eq!(site.stored().len(), 3);
    let refused = site.query("SELECT why FROM refused ORDER BY id");
    let why = |seq: u64| format!("seq {seq} used before, by another boot: was the store replaced? forget gw-1");
    assert_eq!(refused, [why(1), why(2)]);
    let told = consumer.log.wait_since(0, "a word about it", |lines| {
        let told = lines.iter().filter(|line| line.contains("by another boot")).count();
        (told > 0).then_some(told)
    });
    assert_eq!(told, 1, "{:?}", consumer.log.so_far());
}

#[test]
fn what_is_no_message_is_kept_aside_and_holds_up_nothing() {
    let Some(site) = Site::new() else { return };
    let consumer = site.consumer();
    let bomb = zstd::encode_all(&[b' '; 1 << 24][..], 1).unwrap();
    let deep = "[".repeat(100_000);
    let bad: [&[u8]; 11] = [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[]",
        b"{\"v\":2,\"device\":\"gw-1\",\"seq\":1}",
        b"{\"v\":1,\"device\":\"gw-2\",\"seq\":1}",
        b"{\"v\":1,\"device\":\"gw-1\",\"seq\":-1}",
        b"{\"v\":1,\"device\":\"gw-1\",\"seq\":18446744073709551615}",
        b"{\"v\":1,\"device\":\"gw-1\",\"seq\":1,\"value\":NaN}",
        &bomb,
        deep.as_bytes(),
    ];
    for payload in bad {
        site.says("gw-1", &format!("{PREFIX}/gw-1/events"), payload);
    }
    site.says("gw-1", &format!("{PREFIX}/gw-1/telemetry"), b"{\"v\":1,\"device\":\"gw-1\",\"seq\":2,\"samples\":[7]}");
    site.tells("gw-1", 3);
    has(&site, &consumer, "gw-1", 3);
    assert_eq!(site.stored().len(), 1);
    assert_eq!(site.query("SELECT count(*), max(length(payload)) FROM refused"), ["12 4096"]);
}

#[test]
fn errors_that_are_made_up_end_no_question_about_errors() {
    let Some(site) = Site::new() else { return };
    let consumer = site.consumer();
    let count = "9".repeat(400);
    for (seq, fingerprint) in [(1, r#""\ud800""#), (2, "[7]"), (3, r#""a""#)] {
        let error = format!(r#"{{"fingerprint":{fingerprint},"template":{{}},"count":{count}}}"#);
        let event = format!(r#"{{"v":1,"device":"gw-1","seq":{seq},"time":null,"type":"error","error":{error}}}"#);
        site.says("gw-1", &format!("{PREFIX}/gw-1/events"), event.as_bytes());
    }
    has(&site, &consumer, "gw-1", 3);
    let (clusters, code) = site.ask(&["errors"]);
    assert_eq!((clusters.len(), code), (3, Some(0)), "{clusters:?}");
}

#[test]
fn options_with_which_nothing_can_be_collected_are_refused() {
    let Some(site) = Site::new() else { return };
    std::fs::write(site.file("empty"), "").unwrap();
    let url = "mqtt://127.0.0.1:1";
    for (url, password) in
        [("mqtt://127.0.0.1:99999", "reader.password"), ("mqtt://[h", "reader.password"), (url, "empty"), (url, "none")]
    {
        let mut collect = Command::new(site::shipped("fleet/consumer.py"));
        collect.arg("collect").arg("--db").arg(site.db()).args(["--url", url, "--username", "reader"]);
        let output = collect.arg("--password-file").arg(site.file(password)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{url} {password}: {said}");
    }
}

#[test]
fn the_fleet_is_cut_by_attributes_errors_are_grouped_and_who_is_lost_is_told() {
    let Some(site) = Site::new() else { return };
    let watcher = site.watch();
    let consumer = site.consumer();
    let trees = ["80", "30"].map(|charge| {
        let tree = Tree::new();
        tree.write("etc/os-release", "VERSION_ID=12\nIMAGE_VERSION=2.0.10");
        tree.write(&format!("{BATTERY}/capacity"), charge);
        tree
    });
    let full = site
        .gateway("gw-full")
        .measuring(&trees[0])
        .with("[device]\ngroups = [\"canary\", \"odd\"]\n[device.attributes]\nsite = \"plant-7\"")
        .start();
    let low = site.gateway("gw-low").measuring(&trees[1]).start();
    for device in ["gw-full", "gw-low"] {
        watcher.wait_for("its battery", |message| {
            message.topic == format!("{PREFIX}/{device}/attributes")
                && message.body["dynamic"]["battery_band"].is_string()
        });
        watcher.wait_for("a sample", is_sample_of(device));
    }
    for tree in &trees {
        for seq in 0..3 {
            tree.kernel_says(3, seq + 1, &format!("disk /dev/sd{seq} failed with {seq}"));
        }
    }
    let told = |device: &str| {
        let messages = watcher.so_far();
        let errors =
            messages.iter().filter(|message| message.body["device"] == device).map(|message| &message.body["error"]);
        errors.filter_map(|error| error["count"].as_u64()).sum::<u64>()
    };
    until(&site, &consumer, "all lines to be told", || told("gw-full") == 3 && told("gw-low") == 3);
    assert_eq!(full.sigterm(), Some(0));
    low.kill9();
    watcher.wait_for("the will", |message| message.body["reason"] == "lost");
    site.tells("gw-fence", 1);
    has(&site, &consumer, "gw-fence", 1);

    let names = |question: &[&str]| {
        let (rows, code) = site.ask(question);
        (rows.iter().map(|row| row["device"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), code)
    };
    let firmware = ["devices", "--firmware", "2.0.10"];
    assert_eq!(names(&firmware), (vec!["gw-full".to_owned(), "gw-low".to_owned()], Some(0)));
    assert_eq!(names(&[&firmware[..], &["--battery-over", "50"]].concat()), (vec!["gw-full".to_owned()], Some(0)));
    assert_eq!(names(&["devices", "--where", "static.site=plant-7"]), (vec!["gw-full".to_owned()], Some(0)));
    assert_eq!(names(&["devices", "--firmware", "2.0.11"]), (vec![], Some(0)));
    assert_eq!(names(&["devices", "--where", "groups=canary"]), (vec!["gw-full".to_owned()], Some(0)), "one of two");
    let consumer_says = |args: &[&str]| {
        let output = Command::new(site::shipped("fleet/consumer.py")).args(args).arg("--db").arg(site.db()).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = consumer_says(&["devices", "--where", "site=plant-7"]);
    assert!(code == Some(2) && said.contains("static.site=plant-7?"), "{said}");

    let (clusters, _) = site.ask(&["errors", "--since", "1h"]);
    let cluster = clusters.iter().find(|cluster| cluster["template"] == "disk <path> failed with <n>").unwrap();
    assert_eq!(cluster["devices"], json!({"gw-full": 3, "gw-low": 3}), "{cluster}");
    assert_eq!(cluster["count"], 6, "{cluster}");
    assert_eq!(cluster["fingerprint"].as_str().map(str::len), Some(16), "{cluster}");

    let (silent, code) = site.ask(&["silent", "--after", "1h"]);
    assert_eq!((silent.len(), code), (1, Some(1)), "{silent:?}");
    assert_eq!((&silent[0]["device"], &silent[0]["presence"]), (&json!("gw-low"), &json!("lost")));
    assert_eq!(names(&["silent", "--after", "0s"]).0.len(), 3);

    // What is retained of it is taken away, which it could do itself: it is missed until somebody forgets it here.
    let retire = ["-r", "-n", "-t", &format!("{PREFIX}/gw-low/presence")];
    output_of(site.as_person("mosquitto_pub", "admin").args(retire));
    let said = |lines: &[String]| lines.iter().any(|line| line.contains("forget gw-low")).then_some(());
    consumer.log.wait_since(0, "a word about gw-low", said);
    assert_eq!(names(&["silent", "--after", "1h"]), (vec!["gw-low".to_owned()], Some(1)));
    let forget = ["forget", "gw-low", "--db", site.db().to_str().unwrap()].map(str::to_owned);
    output_of(Command::new(site::shipped("fleet/consumer.py")).args(forget));
    assert_eq!(names(&["silent", "--after", "1h"]), (vec![], Some(0)));
    let (code, said) = consumer_says(&["forget", "gw-low"]);
    assert!(code == Some(1) && said.contains("gw-low was never heard of"), "{said}");
}

#[test]
fn a_command_that_sign_py_signed_succeeds_on_a_device_and_in_a_group() {
    let Some(site) = Site::new() else { return };
    let watcher = site.watch();
    let gateway = site.gateway("gw-1").with("[device]\ngroups = [\"canary\"]");
    gateway.runbook("say", "echo \"$#: $1 and $2\"");
    let _agent = gateway.start();
    watcher.presence(0, "gw-1", true);

    let id = site.order("gw-1", &["ping"]);
    assert_eq!(watcher.result(&id, "SUCCEEDED")["command"], "ping");
    let id = site.order("group:canary", &["--timeout", "30", "run", "runbook=say", "args=[\"one\",2]"]);
    assert_eq!(watcher.result(&id, "SUCCEEDED")["output"], "2: one and 2\n");
    let id = site.order("gw-1", &["--expires", "-1", "ping"]);
    assert_eq!(watcher.result(&id, "REJECTED")["reason"], "expired");
}

#[test]
fn what_sign_py_would_sign_otherwise_than_it_was_meant_is_refused() {
    let Some(site) = Site::new() else { return };
    for words in [["unit=a.service", "unit=b.service"], ["delay=NaN", "by=1"], ["delay=1e999", "by=1"]] {
        let mut sign = Command::new(site::shipped("fleet/sign.py"));
        sign.arg(site.operator.private_key()).args(["--aud", "gw-1", "ping"]).args(words);
        let output = sign.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut sign = Command::new(site::shipped("fleet/sign.py"));
    let output = sign.args(["/nonexistent/ops-1.key", "--aud", "gw-1", "ping"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.ends_with("/nonexistent/ops-1.key can't be read: No such file or directory\n"), "{said}");
}

#[test]
fn who_forges_anothers_message_or_name_is_heard_by_nobody() {
    const OWN: [&str; 3] = ["gw-a/telemetry", "gw-a/events", "gw-a/results"];
    const RETAINED: [&str; 2] = ["gw-a/presence", "gw-a/attributes"];
    const ORDERS: [&str; 3] = ["gw-a/commands", "gw-b/commands", "groups/canary/commands"];
    let Some(site) = Site::new() else { return };
    let watcher = site.watch();
    let _agent = site.gateway("gw-a").with("[device]\ngroups = [\"canary\"]").start();
    watcher.presence(0, "gw-a", true);

    let site = &site;
    let forge = |who: &str, publish: &dyn Fn() -> Command, topics: &[&str]| {
        for topic in topics {
            let topic = format!("{PREFIX}/{topic}");
            // Whatever mosquitto_pub makes of the answer: it came as far as the broker, and there to nobody.
            let _ = publish().args(["-V", "5", "-i", who, "-r", "-m", "forged", "-t", &topic]).output();
            site.wait_for_broker(&[&format!("Denied PUBLISH from {who} "), &format!("'{topic}'")]);
        }
    };
    let person = |name| move || site.as_person("mosquitto_pub", name);
    forge("gw-b", &|| site.as_gateway("mosquitto_pub", "gw-b"), &[&OWN[..], &RETAINED, &ORDERS].concat());
    forge("reader", &person("reader"), &[&OWN[..], &RETAINED, &ORDERS].concat());
    forge("operator", &person("operator"), &[&OWN[..], &RETAINED].concat());
    forge("admin", &person("admin"), &[&OWN[..], &ORDERS].concat());

    // The certificate's name is taken and not this one, so gw-a isn't thrown out.
    let event = json!({"v": 1, "device": "gw-b", "seq": 1}).to_string();
    let own = ["-V", "5", "-i", "gw-a", "-m", &event, "-t", &format!("{PREFIX}/gw-b/events")];
    output_of(site.as_gateway("mosquitto_pub", "gw-b").args(own));
    watcher.wait_for("what gw-b may say", |message| message.topic == format!("{PREFIX}/gw-b/events"));
    let wrong = |message: &Message| message.body.is_null() || message.body["online"] == false;
    let wrong: Vec<Message> = watcher.so_far().into_iter().filter(wrong).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_gateway_hears_its_own_commands_and_nothing_of_anothers() {
    let Some(site) = Site::new() else { return };
    let watcher = site.watch();
    let _agent = site.gateway("gw-a").start();
    watcher.presence(0, "gw-a", true);
    watcher.wait_for("its attributes", |message| message.topic == format!("{PREFIX}/gw-a/attributes"));
    // From here on its session collects what it may read, what is retained first.
    let all = ["-i", "gw-b", "-c", "-t", "#"];
    output_of(site.as_gateway("mosquitto_sub", "gw-b").args(all).arg("-E"));

    let id = site.order("gw-a", &["ping"]);
    watcher.result(&id, "SUCCEEDED");
    site.order("gw-b", &["ping"]);
    let first = ["-C", "1", "-W", "30", "-F", "%t"];
    let heard = output_of(site.as_gateway("mosquitto_sub", "gw-b").args(all).args(first));
    assert_eq!(String::from_utf8(heard).unwrap().trim(), format!("{PREFIX}/gw-b/commands"));
}

#[test]
fn a_will_and_what_is_retained_reach_a_reader_also_after_the_brokers_restart() {
    let Some(mut site) = Site::new() else { return };
    let watcher = site.watch();
    let agent = site.gateway("gw-a").start();
    watcher.presence(0, "gw-a", true);
    watcher.wait_for("its attributes", |message| message.topic == format!("{PREFIX}/gw-a/attributes"));
    agent.kill9();
    watcher.wait_for("the will", |message| message.body["reason"] == "lost");

    site.restart_broker();
    let two = ["-t", &format!("{PREFIX}/gw-a/+"), "-C", "2", "-W", "30", "-F", "%r %t"];
    let retained = String::from_utf8(output_of(site.as_person("mosquitto_sub", "reader").args(two))).unwrap();
    let retained: BTreeSet<&str> = retained.lines().collect();
    assert_eq!(retained, BTreeSet::from(["1 fieldmedic/gw-a/attributes", "1 fieldmedic/gw-a/presence"]));
}

#[test]
fn strangers_are_not_let_in() {
    let Some(site) = Site::new() else { return };
    let publish = ["-t", "x", "-m", "y"];
    let mut let_in = vec![
        site.as_person("mosquitto_pub", "nobody").args(publish).output(),
        site.as_person("mosquitto_pub", "reader").args(publish).args(["-P", "wrong"]).output(),
        site.without_certificate("mosquitto_pub").args(publish).output(),
    ];
    let_in.retain(|output| output.as_ref().unwrap().status.success());
    assert!(let_in.is_empty(), "{let_in:?}");
}
