#![expect(clippy::disallowed_methods, reason = "a broker and a gateway are played here")]

use clap::Parser;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::broker::Settings;
use crate::broker::serve::{Control, serve};
use crate::cli::FAILED;
use crate::config::{self, TrustedKey};
use crate::wire::VerifiedCommand;
use crate::wire::token::Audience;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);
const NONCE: &str = "QUJDREVGR0hJSktMTU5PUA";

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    args: SendArgs,
}

/// A broker, a key, and one gateway that answers as it is told.
struct Fleet {
    control: mpsc::Sender<Control>,
    url: BrokerUrl,
    keys: tempfile::TempDir,
    trusted: TrustedKey,
    gateway: Client,
}

impl Fleet {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = BrokerUrl { tls: false, host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let (control, orders) = mpsc::channel(1);
        drop(tokio::spawn(serve(listener, Settings::default(), orders)));
        let keys = tempfile::tempdir().unwrap();
        let trusted = keygen::write_pair(keys.path(), "ops-1").unwrap().trusted;
        let mut gateway = Client::connect(&Arc::new(Target::new(url.clone(), None)), "gw-1", None).await.unwrap();
        gateway.subscribe(&["fieldmedic/gw-1/commands", "fieldmedic/groups/canary/commands"]).await.unwrap();
        Self { control, url, keys, trusted, gateway }
    }

    async fn presence(&mut self, message: Json) {
        self.gateway.publish("fieldmedic/gw-1/presence", message.to_string().into(), true).await.unwrap();
    }

    /// `send` with these words; its key, URL and id are set.
    fn command_line(&self, words: &[&str]) -> SendArgs {
        let (url, key) = (self.url.to_string(), self.keys.path().join("ops-1.key").display().to_string());
        let line = [&["send", "--url", &url, "--key", &key, "--id", "c-1"], words].concat();
        CommandLine::try_parse_from(line).unwrap().args
    }

    /// Runs `send` while the gateway takes the command, if it is to answer, and sends `answers`. What came of it, and
    /// the command as the gateway understood it.
    async fn send(&mut self, words: &[&str], answers: &[Json]) -> (Sent, Option<VerifiedCommand>) {
        let args = self.command_line(words);
        let gateway = &mut self.gateway;
        let trusted_keys = vec![self.trusted.clone()];
        let commands = config::Commands { trusted_keys, require_signature: true, max_clock_skew: Duration::ZERO };
        let answering = async {
            if answers.is_empty() {
                return None;
            }
            let message = gateway.next_message().await.unwrap();
            let group = message.topic.starts_with("fieldmedic/groups/").then_some("canary");
            let groups = ["canary".to_owned()];
            let audience = Audience { device: "gw-1", groups: &groups };
            let command = token::verify(&message.payload, &audience, group, &commands).unwrap();
            for answer in answers {
                let topic = format!("fieldmedic/{}/results", answer["device"].as_str().unwrap());
                gateway.publish(&topic, answer.to_string().into(), false).await.unwrap();
            }
            Some(command)
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let command_args = token::parse_args(&args.args).unwrap();
        let signer = Signer::of(&args).unwrap();
        let sending = async { send(&args, &signer, command_args, &mut out, &mut err).await.unwrap() };
        let (code, command) = timeout(PATIENCE, async { tokio::join!(sending, answering) }).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (Sent { code, out: text(out), err: text(err) }, command)
    }
}

/// What `send` did.
struct Sent {
    code: u8,
    out: String,
    err: String,
}

fn online() -> Json {
    json!({"device": "gw-1", "online": true, "nonce": NONCE})
}

fn result(device: &str, seq: u64, status: &str) -> Json {
    json!({"device": device, "seq": seq, "command_id": "c-1", "command": "ping", "status": status})
}

#[tokio::test]
async fn the_command_carries_what_was_typed_and_the_nonce_of_the_gateways_presence() {
    let mut fleet = Fleet::new().await;
    fleet.presence(online()).await;
    let words = ["--to", "gw-1", "--timeout", "90s", "--expires", "2m", "run", "runbook=fix", "args=[\"a\",\"b\"]"];
    let (sent, command) = fleet.send(&words, &[result("gw-1", 1, "SUCCEEDED")]).await;
    let command = command.unwrap();
    assert_eq!((sent.code, sent.err.as_str()), (DONE, ""));
    assert_eq!((command.id.as_str(), command.name.as_str(), command.timeout_s), ("c-1", "run", Some(90)));
    assert_eq!((command.kid.as_deref(), command.nonce.as_deref()), (Some("ops-1"), Some(NONCE)));
    assert_eq!(command.expires_at - command.issued_at, 120);
    assert_eq!(json!(command.args), json!({"runbook": "fix", "args": ["a", "b"]}));
}

#[tokio::test]
async fn a_snapshot_is_shown_as_its_text_once_all_of_it_is_there() {
    let mut fleet = Fleet::new().await;
    fleet.presence(online()).await;
    let part = |seq: u64, number: u64, output: &str| {
        let mut result = result("gw-1", seq, "IN_PROGRESS");
        (result["part"], result["parts"]) = (number.into(), 2.into());
        (result["encoding"], result["output"]) = ("base64".into(), output.into());
        result
    };
    // "units: failed\u{1b}\n"
    let answers = [part(1, 1, "dW5pdHM6"), part(2, 2, "IGZhaWxlZBsK"), result("gw-1", 3, "SUCCEEDED")];
    let (sent, _) = fleet.send(&["--to", "gw-1", "collect_diagnostics"], &answers).await;
    let shown = "gw-1 IN_PROGRESS part 1 of 2 of a snapshot\n\
                 gw-1 IN_PROGRESS a snapshot:\nunits: failed\u{fffd}\ngw-1 SUCCEEDED\n";
    assert!(sent.out.ends_with(shown), "{}", sent.out);
}

#[tokio::test]
async fn each_status_is_shown_once_until_the_last() {
    let mut fleet = Fleet::new().await;
    fleet.presence(online()).await;
    let mut running = result("gw-1", 1, "IN_PROGRESS");
    running["progress_pct"] = json!(40);
    let mut failed = result("gw-1", 2, "FAILED");
    failed["reason"] = json!("exit_code");
    failed["detail"] = json!("exit code 3");
    failed["output"] = json!("one\nt\u{1b}[2Jwo\n");
    let (mut another, later) = (result("gw-1", 3, "SUCCEEDED"), result("gw-1", 4, "SUCCEEDED"));
    another["command_id"] = json!("c-2");
    let answers = [running.clone(), running, another, failed, later];
    let (sent, _) = fleet.send(&["--to", "gw-1", "run", "runbook=fix"], &answers).await;
    let expected = "sent run as c-1 to fieldmedic/gw-1/commands\n\
        gw-1 IN_PROGRESS 40 %\n\
        gw-1 FAILED exit_code exit code 3\n\
        one\nt\u{fffd}[2Jwo\n";
    assert_eq!((sent.code, sent.out.as_str(), sent.err.as_str()), (FAILED, expected, ""));
}

#[tokio::test]
async fn json_gives_one_object_a_line_and_nothing_else() {
    let mut fleet = Fleet::new().await;
    fleet.presence(online()).await;
    let answers = [result("gw-1", 1, "IN_PROGRESS"), result("gw-1", 2, "SUCCEEDED")];
    let (sent, _) = fleet.send(&["--to", "gw-1", "--json", "ping"], &answers).await;
    let shown: Vec<Json> = sent.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((sent.code, shown), (DONE, answers.to_vec()));
    assert_eq!(sent.err, "fieldmedic: sent ping as c-1 to fieldmedic/gw-1/commands\n");
}

#[tokio::test]
async fn an_answer_is_waited_for_also_over_a_broken_connection() {
    let mut fleet = Fleet::new().await;
    fleet.presence(online()).await;
    let args = fleet.command_line(&["--to", "gw-1", "--wait", "20s", "ping"]);
    let signer = Signer::of(&args).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let sending = async { send(&args, &signer, BTreeMap::new(), &mut out, &mut err).await.unwrap() };
    let answering = async {
        fleet.gateway.next_message().await.unwrap();
        fleet.control.send(Control::Cut(Duration::from_millis(100))).await.unwrap();
        let target = Arc::new(Target::new(fleet.url.clone(), None));
        // Until somebody is there to hear it.
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let Ok(mut gateway) = Client::connect(&target, "gw-1", None).await else { continue };
            let answer = result("gw-1", 1, "SUCCEEDED").to_string();
            let _ = gateway.publish("fieldmedic/gw-1/results", answer.into(), false).await;
        }
    };
    let code = timeout(PATIENCE, async {
        tokio::select! {
            code = sending => code,
            () = answering => unreachable!(),
        }
    });
    assert_eq!(code.await.unwrap(), DONE);
    let err = String::from_utf8(err).unwrap();
    assert!(err.contains("the command is sent as c-1: connecting again"), "{err}");
}

#[tokio::test]
async fn a_broker_that_stays_away_leaves_who_waits_with_the_commands_id() {
    let mut fleet = Fleet::new().await;
    fleet.presence(online()).await;
    let args = fleet.command_line(&["--to", "gw-1", "--wait", "2s", "ping"]);
    let signer = Signer::of(&args).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let sending = async { send(&args, &signer, BTreeMap::new(), &mut out, &mut err).await.unwrap() };
    let ending = async {
        fleet.gateway.next_message().await.unwrap();
        fleet.control.send(Control::Stop).await.unwrap();
    };
    let (code, ()) = timeout(PATIENCE, async { tokio::join!(sending, ending) }).await.unwrap();
    let err = String::from_utf8(err).unwrap();
    assert_eq!(code, FAILED, "{err}");
    for told in ["the command is sent as c-1", "was missed", "no answer within 2s"] {
        assert!(err.contains(told), "{told:?} is not in: {err}");
    }
}

#[tokio::test]
async fn a_key_that_no_gateway_can_have_is_not_signed_with() {
    let fleet = Fleet::new().await;
    let mut args = fleet.command_line(&["--to", "gw-1", "ping"]);
    let named = fleet.keys.path().join("ops 1.key");
    std::fs::copy(&args.key, &named).unwrap();
    args.key = named;
    let error = Signer::of(&args).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("ops 1.key is no key's id: 1 to 64 letters") && error.contains("--kid"), "{error}");
    args.kid = Some("ops-1".to_owned());
    assert!(Signer::of(&args).is_ok());
}

#[tokio::test]
async fn a_group_has_succeeded_when_all_who_answered_have() {
    let mut fleet = Fleet::new().await;
    let words = ["--to", "group:canary", "--wait", "3s", "ping"];
    let answers = [result("gw-1", 1, "SUCCEEDED"), result("gw-2", 1, "SUCCEEDED")];
    let (sent, command) = fleet.send(&words, &answers).await;
    assert_eq!((sent.code, command.unwrap().group.as_deref()), (DONE, Some("canary")));
    assert!(sent.out.contains("gw-1 SUCCEEDED") && sent.out.contains("gw-2 SUCCEEDED"), "{}", sent.out);
    let (sent, _) = fleet.send(&words, &[result("gw-1", 2, "SUCCEEDED"), result("gw-2", 2, "REJECTED")]).await;
    assert_eq!(sent.code, FAILED);
}

#[tokio::test]
async fn who_gets_no_answer_is_told_what_is_known_of_the_gateway() {
    let mut fleet = Fleet::new().await;
    let words = ["--to", "gw-1", "--wait", "300ms", "ping"];
    fleet.presence(online()).await;
    let (sent, _) = fleet.send(&words, &[]).await;
    let expected = "fieldmedic: no answer within 300ms: gw-1 was online when the command was sent\n";
    assert_eq!((sent.code, sent.err.as_str()), (FAILED, expected));

    fleet.presence(json!({"device": "gw-1", "online": false, "reason": "lost"})).await;
    let (sent, _) = fleet.send(&words, &[]).await;
    let offline = "gw-1 is offline (lost): a broker that has its session still keeps the command\n";
    let expected = format!("fieldmedic: {offline}fieldmedic: no answer within 300ms: {offline}");
    assert_eq!((sent.code, sent.err), (FAILED, expected));
}

#[tokio::test]
async fn to_look_for_a_gateway_that_never_said_it_is_there_is_part_of_the_wait() {
    let mut fleet = Fleet::new().await;
    let began = Instant::now();
    let (sent, _) = fleet.send(&["--to", "gw-1", "--wait", "1s", "ping"], &[]).await;
    assert!(sent.code == FAILED && sent.err.contains("never said that it is there"), "{}", sent.err);
    let took = began.elapsed();
    assert!(took < PRESENCE_MAX + Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn a_command_that_is_still_running_when_the_wait_ends_has_not_succeeded() {
    let mut fleet = Fleet::new().await;
    fleet.presence(online()).await;
    let (sent, _) = fleet.send(&["--to", "gw-1", "--wait", "3s", "ping"], &[result("gw-1", 1, "IN_PROGRESS")]).await;
    let expected = "fieldmedic: gw-1 is still at IN_PROGRESS after 3s; its end will come as a result\n";
    assert_eq!((sent.code, sent.err.as_str()), (FAILED, expected));
}

#[tokio::test]
async fn a_gateway_that_nobody_knows_is_told_of_and_not_waited_for() {
    let mut fleet = Fleet::new().await;
    let (sent, _) = fleet.send(&["--to", "gw-9", "--wait", "0s", "ping"], &[]).await;
    assert_eq!(sent.code, DONE);
    assert!(sent.err.starts_with("fieldmedic: gw-9 has never said that it is there"), "{}", sent.err);
    assert!(sent.err.contains("nobody is subscribed to fieldmedic/gw-9/commands"), "{}", sent.err);
    let (sent, _) = fleet.send(&["--to", "gw-9", "--wait", "300ms", "ping"], &[]).await;
    let told = "no answer within 300ms: nobody is subscribed to fieldmedic/gw-9/commands: the broker has not kept";
    assert!(sent.code == FAILED && sent.err.contains(told), "{}", sent.err);
}

#[tokio::test]
async fn print_needs_no_broker() {
    let fleet = Fleet::new().await;
    let mut args = fleet.command_line(&["--to", "gw-1", "--print", "ping"]);
    args.url.port = 1;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = send(&args, &Signer::of(&args).unwrap(), BTreeMap::new(), &mut out, &mut err).await.unwrap();
    assert_eq!((code, out.iter().filter(|byte| **byte == b'.').count(), err.len()), (DONE, 2, 0));
}

#[tokio::test]
async fn a_command_that_no_gateway_would_take_is_not_sent() {
    let fleet = Fleet::new().await;
    let args = fleet.command_line(&["--to", "gw-1", "--print", "ping"]);
    let long = BTreeMap::from([("pad".to_owned(), Json::String("x".repeat(COMMAND_LEN_MAX)))]);
    let signer = Signer::of(&args).unwrap();
    let error = send(&args, &signer, long, &mut Vec::new(), &mut Vec::new()).await.unwrap_err().to_string();
    assert!(error.contains("gateways take at most 32768 B"), "{error}");
}

#[test]
fn mistakes_on_the_command_line_are_told_before_anything_is_done() {
    let parse = |words: &[&str]| {
        let line = [&["send", "--url", "mqtt://b", "--key", "k"], words].concat();
        CommandLine::try_parse_from(line).err().map(|error| error.to_string())
    };
    assert_eq!(parse(&["--to", "gw-1", "ping"]), None);
    for (words, message) in [
        (["--to", "a/b", "ping", "x=1"], "--to"),
        (["--to", "group:", "ping", "x=1"], "--to"),
        (["--to=gw-1", "--timeout", "0", "ping"], "1 to 86400 whole seconds"),
        (["--to=gw-1", "--timeout", "1500ms", "ping"], "such as 90 or 90s"),
        (["--to=gw-1", "--timeout", "soon", "ping"], "such as 90 or 90s"),
        (["--to=gw-1", "--id", "a b", "ping"], "A-Z a-z 0-9"),
        (["--to=gw-1", "--kid", "x y", "ping"], "letters, digits and . _ -"),
        (["--to=gw-1", "--wait", "soon", "ping"], "--wait"),
        (["--to=gw-1", "--cert-file", "c.pem", "ping"], "--key-file"),
        (["--to=gw-1", "--expires", "0s", "ping"], "more than 0s is expected"),
    ] {
        let error = parse(&words).unwrap_or_default();
        assert!(error.contains(message), "{words:?}: {error}");
    }
}

#[test]
fn what_is_wrong_with_a_connection_is_told_in_flags() {
    let url = BrokerUrl::parse("mqtts://b").unwrap();
    let none = Tls { ca_file: None, cert_file: None, key_file: None, alpn: Vec::new() };
    let told = |tls: &Tls| {
        let fault = Target::new(url.clone(), Some(tls.clone())).closed(false);
        describe(fault).to_string()
    };
    assert!(told(&none).ends_with("does it ask for a client certificate (--cert-file)?"), "{}", told(&none));
    assert_eq!(in_flags("set mqtt.tls.cert_file and key_file"), "set --cert-file and --key-file");
}
