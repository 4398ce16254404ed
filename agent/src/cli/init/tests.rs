#![expect(clippy::disallowed_methods, reason = "a test looks at the files that were made")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use clap::Parser as _;
use tempfile::TempDir;

use super::*;
use crate::cli::keygen;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: InitArgs,
}

struct Bench(TempDir);

/// What came of a run: its exit code, stdout, stderr.
type Came = (u8, String, String);

impl Bench {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join("made").join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.file(name)).unwrap().permissions().mode() & 0o777
    }

    /// Runs with these flags; with `answers`, somebody is there to give them.
    fn run(&self, flags: &[&str], answers: Option<&str>) -> Result<Came, Ended> {
        let made = self.0.path().join("made").display().to_string();
        let line = Line::try_parse_from([&["init", "--out", &made], flags].concat()).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut input = answers.unwrap_or_default().as_bytes();
        let code = init(line.args, answers.is_some(), &mut input, &mut out, &mut err)?;
        Ok((code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap()))
    }

    fn runs(&self, flags: &[&str], answers: Option<&str>) -> Came {
        self.run(flags, answers).unwrap()
    }

    fn fails(&self, flags: &[&str]) -> String {
        match self.run(flags, None) {
            Err(Ended::Failed(error)) => format!("{error:#}"),
            other => panic!("{other:?}"),
        }
    }

    fn is_wrong(&self, flags: &[&str]) -> String {
        match self.run(flags, None) {
            Err(Ended::Wrong(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    fn config(&self) -> CheckedConfig {
        config::load(&[self.file("agent.toml")]).unwrap().config
    }
}

const URL: &str = "mqtt://127.0.0.1:1883";

/// A port where nobody listens.
fn nobody() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("mqtt://127.0.0.1:{port}")
}

#[test]
fn flags_make_a_configuration_a_policy_and_a_pair_that_go_together() {
    let bench = Bench::new();
    let flags = ["--url", "mqtt://b:1900", "--id", "gw-7", "--group", "canary", "--unit", "app.service"];
    let (code, out, _) = bench.runs(&[&flags[..], &["--new-key", "ops-9", "--no-check"]].concat(), None);

    assert_eq!(code, DONE);
    let config = bench.config();
    assert_eq!((config.device.id.as_str(), config.mqtt.url.to_string()), ("gw-7", "mqtt://b:1900".to_owned()));
    assert_eq!(config.remediation.units[0].as_str(), "app.service");
    let [key] = config.commands.trusted_keys.as_slice() else { panic!("{:?}", config.commands) };
    let public = config::TrustedKey::from_pem("ops-9", &bench.read("ops-9.pub")).unwrap();
    assert_eq!(*key, public);
    assert!(keygen_reads(&bench.read("ops-9.key")), "the private half");
    assert_eq!((bench.mode("ops-9.key"), bench.mode("ops-9.pub"), bench.mode("agent.toml")), (0o600, 0o644, 0o644));
    crate::helper::Policy::check_text(&bench.file("policy.toml"), &bench.read("policy.toml")).unwrap();
    for line in ["id = \"gw-7\"", "actions = [\"restart_unit\"]", "broker_ports = [1900]", &key.to_string()] {
        assert!(bench.read("policy.toml").contains(line), "{line}: {}", bench.read("policy.toml"));
    }
    assert!(out.contains("systemctl enable --now") && out.contains("--to gw-7 ping"), "{out}");
    assert!(out.contains("Signed commands may restart app.service: more"), "{out}");
}

fn keygen_reads(pem: &str) -> bool {
    crate::wire::keys::SigningKey::from_pem(pem).is_ok()
}

#[test]
fn without_an_id_the_gateway_is_called_as_its_host_wherever_that_is() {
    let bench = Bench::new();
    bench.runs(&["--url", URL, "--no-check"], None);
    let has_id = |name: &str| bench.read(name).lines().any(|line| line.starts_with("id ="));
    assert!(!has_id("agent.toml") && !has_id("policy.toml"), "{}", bench.read("agent.toml"));
}

#[test]
fn on_a_bench_everything_lies_in_one_directory_and_there_is_no_policy() {
    let bench = Bench::new();
    let (_, out, _) = bench.runs(&["--url", URL, "--no-check", "--bench"], None);
    let config = bench.config();
    assert_eq!((config.store.path, config.local.socket), (bench.file("store"), bench.file("agent.sock")));
    assert!(!bench.file("policy.toml").exists() && !out.contains("policy.toml"), "{out}");
    assert!(out.contains("fieldmedic run --config"), "{out}");
}

#[test]
fn whoever_commands_the_gateway_is_not_sent_to_the_broker_as_the_gateway() {
    let bench = Bench::new();
    let flags = ["--url", "mqtts://b", "--id", "gw-7", "--no-check", "--new-key", "ops-1"];
    for own in [&["--cert", "/c.pem", "--key", "/k.pem"][..], &["--username", "gw-7", "--password-file", "/p"]] {
        let (_, out, _) = bench.runs(&[&flags[..], own, &["--force"]].concat(), None);
        let line =
            "  fieldmedic send --url mqtts://b:8883 --username YOU --password-file FILE --key ops-1.key --to gw-7 ping";
        assert!(out.lines().any(|said| said == line) && out.contains("an account of your own"), "{out}");
    }
    let flags = ["--url", URL, "--id", "gw-7", "--no-check", "--new-key", "ops-1", "--bench", "--force"];
    let (_, out, _) = bench.runs(&flags, None);
    let line = format!("send --url {URL} --key {} --to gw-7 ping", bench.file("ops-1.key").display());
    assert!(out.contains(&line), "as it can be typed: {out}");
}

#[test]
fn told_the_same_again_it_changes_nothing_and_told_otherwise_it_refuses_until_it_is_forced() {
    let bench = Bench::new();
    let first = ["--url", URL, "--new-key", "ops-1", "--no-check"];
    bench.runs(&first, None);
    let before = [bench.read("agent.toml"), bench.read("ops-1.key")];
    let (code, out, _) = bench.runs(&first, None);
    assert_eq!((code, out.contains("wrote")), (DONE, false), "{out}");

    let other = ["--url", "mqtt://other", "--new-key", "ops-1", "--no-check"];
    let why = bench.fails(&other);
    assert!(why.contains("agent.toml") && why.contains("--force") && !why.contains("ops-1"), "{why}");
    assert_eq!([bench.read("agent.toml"), bench.read("ops-1.key")], before);

    bench.runs(&[&other[..], &["--force"]].concat(), None);
    assert_eq!(bench.config().mqtt.url.host, "other");
    assert_eq!(bench.read("ops-1.key"), before[1], "a key is never replaced");
}

#[test]
fn a_public_key_that_is_another_stays_even_if_it_is_forced() {
    let bench = Bench::new();
    let first = ["--url", URL, "--new-key", "ops-1", "--no-check"];
    bench.runs(&first, None);
    let other = keygen::make_pair("ops-1").unwrap().public_pem;
    fs::write(bench.file("ops-1.pub"), &other).unwrap();
    for flags in [&first[..], &["--force", "--url", "mqtt://other", "--new-key", "ops-1", "--no-check"]] {
        let why = bench.fails(flags);
        assert!(why.contains("ops-1.pub") && why.contains("never replaced") && !why.contains("--force"), "{why}");
    }
    assert_eq!((bench.read("ops-1.pub"), bench.config().mqtt.url.host.as_str()), (other, "127.0.0.1"));
}

#[test]
fn a_password_that_is_another_is_replaced_only_if_it_is_forced() {
    let bench = Bench::new();
    let flags = ["--url", URL, "--id", "gw", "--username", "gw", "--group", "a", "--unit", "a.service", "--no-check"];
    let flags = [&flags[..], &["--new-key", "ops-1"]].concat();
    bench.runs(&flags, Some("one\n"));
    let refused = bench.run(&flags, Some("two\n"));
    let Err(Ended::Failed(why)) = refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains("mqtt.password") && why.to_string().contains("--force"), "{why}");
    bench.runs(&[&flags[..], &["--force"]].concat(), Some("two\n"));
    assert_eq!(bench.read("secrets/mqtt.password"), "two\n");
}

#[test]
fn whoever_is_asked_hears_first_of_files_that_are_there_and_may_give_the_same_answers_again() {
    let bench = Bench::new();
    let flags = ["--id", "gw", "--username", "gw", "--password-file", "/p", "--group", "a", "--unit", "a.service"];
    let flags = [&flags[..], &["--new-key", "ops-1", "--no-check"]].concat();
    let answers = format!("{URL}\n");
    let (_, _, err) = bench.runs(&flags, Some(&answers));
    assert!(!err.contains("Already there"), "{err}");
    let (code, out, err) = bench.runs(&flags, Some(&answers));
    let (warning, question) = (err.find("Already there: ").unwrap(), err.find("Broker (mqtt://").unwrap());
    assert!(warning < question && err.contains("agent.toml and ") && err.contains("policy.toml. "), "{err}");
    assert_eq!((code, out.contains("wrote")), (DONE, false), "{out}");
    let (_, _, err) = bench.runs(&[&flags[..], &["--force"]].concat(), Some(&answers));
    assert!(!err.contains("Already there"), "{err}");
}

#[test]
fn systemd_is_named_only_where_it_is_what_starts_things() {
    let told = |by_systemd| {
        let mut out = Vec::new();
        start(by_systemd, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert!(told(true).contains("systemctl enable --now fieldmedic.service"));
    assert!(!told(false).contains("systemctl") && told(false).contains("fieldmedic run"), "{}", told(false));
}

#[test]
fn what_was_entered_is_judged_before_anything_is_written_and_told_by_the_flag_it_came_from() {
    let bench = Bench::new();
    let why = bench.is_wrong(&["--url", URL, "--ca", "/etc/ca.pem", "--group", "two words", "--no-check"]);
    assert!(why.contains("--ca: mqtt.tls.ca_file: is set") && why.contains("--group: device.groups"), "{why}");
    let why = bench.is_wrong(&["--url", URL, "--new-key", "no/name"]);
    assert!(why.contains("--new-key") && why.contains("no/name"), "{why}");
    let why = bench.is_wrong(&["--url", URL, "--trusted-key", "/nonexistent/ops.pub"]);
    assert!(why.contains("--trusted-key"), "{why}");
    let why = bench.is_wrong(&["--yes"]);
    assert!(why.contains("--url"), "{why}");
    assert!(!bench.file("").exists(), "nothing was written");
}

#[test]
fn a_public_key_without_its_private_half_is_no_pair_to_be_made_again() {
    let bench = Bench::new();
    bench.runs(&["--url", URL, "--new-key", "ops-1", "--no-check"], None);
    fs::remove_file(bench.file("ops-1.key")).unwrap();
    let why = bench.is_wrong(&["--url", URL, "--new-key", "ops-1", "--no-check"]);
    assert!(why.contains("--trusted-key") && why.contains("ops-1.pub"), "{why}");
}

#[test]
fn whoever_is_asked_is_asked_again_until_the_answer_can_be_used_and_may_leave_the_rest_empty() {
    let bench = Bench::new();
    let (code, _, err) =
        bench.runs(&["--no-check"], Some("http://b\nmqtts://b\ngw 1\ngw-1\n\n\ngw\nsecret \ng1 g/2\ncanary\n\nnew\n"));

    assert_eq!(code, DONE, "{err}");
    assert!(err.contains("found \"http://b\"") && err.contains("found \"gw 1\""), "{err}");
    assert!(err.contains("found \"g/2\"") && !err.contains("secret"), "{err}");
    let config = bench.config();
    assert_eq!((config.device.id.as_str(), config.device.groups.as_slice()), ("gw-1", &["canary".to_owned()][..]));
    assert_eq!(config.mqtt.tls.ca_file, None);
    assert_eq!(config.commands.trusted_keys[0].kid, "ops-1");
    let password = config.mqtt.password_file.unwrap();
    assert_eq!(fs::read_to_string(&password).unwrap(), "secret \n");
    assert_eq!(fs::metadata(&password).unwrap().permissions().mode() & 0o007, 0, "nobody else reads it");
    assert!(bench.file("ops-1.key").exists());
}

#[test]
fn an_input_that_ends_early_and_one_that_never_makes_sense_leave_nothing_behind() {
    for answers in ["mqtt://b\n".to_owned(), "nonsense\n".repeat(100)] {
        let bench = Bench::new();
        let ended = bench.run(&["--no-check"], Some(&answers));
        assert!(matches!(ended, Err(Ended::Failed(_))), "{ended:?}");
        assert!(!bench.file("").exists());
    }
}

#[test]
fn where_nobody_listens_the_one_who_is_asked_may_say_no_and_a_script_gets_the_files_and_a_failure() {
    let url = nobody();
    let flags = [
        "--url",
        &url,
        "--id",
        "gw-1",
        "--username",
        "gw",
        "--new-key",
        "ops-1",
        "--group",
        "a",
        "--unit",
        "a.service",
    ];
    for (answer, written) in [("n", false), ("", false), ("y", true)] {
        let bench = Bench::new();
        let (code, _, err) = bench.runs(&flags, Some(&format!("\n{answer}\n")));
        assert_eq!((code, bench.file("agent.toml").exists()), (FAILED, written), "{answer:?}: {err}");
        assert!(err.contains("is the broker running") && err.contains("out of reach (tcp)"), "{err}");
    }
    let bench = Bench::new();
    let (code, out, _) = bench.runs(&flags, None);
    assert_eq!((code, bench.file("agent.toml").exists()), (FAILED, true));
    assert!(out.contains("run the same command again"), "{out}");
}
