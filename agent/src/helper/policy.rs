//! Root's own policy: what the agent may have done, by whom, and how often. Read in the way of the agent's
//! configuration, every mistake at once with its line; what it doesn't name is not allowed. It must never be taken from
//! a file that others than root could have written.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::limits::Limits;
use super::protocol::Refusal;
use crate::act::program::who_else_writes;
use crate::act::quarantine::terms::Source;
use crate::act::rollback::unfit_slots;
use crate::agent_user::agent_user;
use crate::config::reader::{Section, parsed, text_of, unfit};
use crate::config::tree::{Node, Value};
use crate::config::{
    self, Action, Budget, ClockTrust, DeviceId, Network, Problem, Rollback, RollbackKind, Unfit, UnitName, policy, read,
};
use crate::engine::io::{Act, Ending, Trigger};
use crate::gather::gather;
use crate::wire::Reason;

/// Where it is looked for.
pub(crate) const DEFAULT_FILE: &str = "/etc/fieldmedic/policy.toml";
/// As in the agent's configuration.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(24 * 3600);

/// What may be done. configs/policy.toml says what each key means, and a test holds it against this.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Who may ask, beside root; `None`: nobody.
    pub(super) agent_uid: Option<u32>,
    /// Whom commands have to be addressed to.
    pub(crate) device: DeviceId,
    /// Or to one of these.
    pub(crate) groups: Vec<String>,
    /// Whose signatures count. A signature is always required.
    pub(crate) commands: config::Commands,
    /// When the wall clock is believed.
    pub(super) clock: ClockTrust,
    /// What may be done at all.
    pub(super) actions: Vec<Action>,
    /// What of it the gateway's own rules may have done, which nobody has signed.
    pub(super) local: Vec<Action>,
    /// Units that may be restarted.
    pub(super) units: Vec<UnitName>,
    /// Runbooks that may be run.
    pub(super) runbooks: Vec<String>,
    /// Interfaces that may be restarted.
    pub(super) interfaces: Vec<String>,
    /// What a quarantine may leave in reach, and stop.
    pub(super) quarantine: Limits,
    /// How often.
    pub(super) budget: BTreeMap<Action, Budget>,
    /// Where the runbooks lie.
    pub(super) runbook_dir: PathBuf,
    /// Whether they are kept in the helper's own sandbox, instead of being run by PID 1.
    pub(super) runbooks_confined: bool,
    /// What may be rolled back, and how.
    pub(super) rollback: BTreeMap<String, Rollback>,
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    /// Others than root could have written it.
    #[error("{path} {wrong}")]
    Untrusted {
        /// The file, or a directory above it.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// It can't be looked at.
    #[error("look at {path}: {why}")]
    Io {
        /// The file, or a directory above it.
        path: PathBuf,
        /// Why not.
        why: io::Error,
    },
    /// It has mistakes.
    #[error("{}, the first: {}", config::counted(.0), .0.first().map(ToString::to_string).unwrap_or_default())]
    Wrong(Vec<Problem>),
}

impl PolicyError {
    /// The same as an answer.
    #[must_use]
    pub(super) fn refusal(&self) -> Refusal {
        let ending = match self {
            Self::Untrusted { .. } | Self::Io { .. } => Ending::PolicyUntrusted,
            Self::Wrong(_) => Ending::PolicyWrong,
        };
        Refusal::new(ending, format!("policy: {self}"))
    }
}

impl Policy {
    /// Loads the policy of a file that nobody but root could have written.
    ///
    /// # Errors
    /// There is none to go by.
    pub(crate) fn load(file: &Path) -> Result<Self, PolicyError> {
        trusted(file)?;
        Self::read(file).map_err(PolicyError::Wrong)
    }

    /// Reads the policy of any file.
    ///
    /// # Errors
    /// Every mistake, in the order of lines.
    pub(crate) fn read(file: &Path) -> Result<Self, Vec<Problem>> {
        config::read_file(file, policy_of)
    }

    /// Judges a text as such a file, before it is written there.
    ///
    /// # Errors
    /// As [`Policy::read`].
    pub(crate) fn check_text(file: &Path, text: &str) -> Result<(), Vec<Problem>> {
        config::read_file_text(file, text, policy_of).map(drop)
    }

    /// Whether it may be done, whoever wants it.
    ///
    /// # Errors
    /// `not_allowed`.
    pub(crate) fn permits(&self, act: &Act) -> Result<(), Refusal> {
        let action = act.action();
        let refuse = |what: String| Err(Refusal::because(Reason::NotAllowed, format!("root's policy: {what}")));
        // What lets a gateway back in, or keeps it within reach, must not be lost with the leave to shut it.
        if act.needs_leave() && !self.actions.contains(&action) {
            return refuse(format!("{action} is not in allow.actions"));
        }
        match act {
            Act::RestartUnit { unit } if !self.units.contains(unit) => refuse(format!("{unit} is not in allow.units")),
            Act::Run { runbook, .. } if !self.runbooks.contains(runbook) => {
                refuse(format!("{runbook:?} is not in allow.runbooks"))
            }
            Act::RestartLink { interface } if !self.interfaces.contains(interface) => {
                refuse(format!("{interface:?} is not in allow.interfaces"))
            }
            Act::Rollback { target, .. } | Act::MarkGood { target } if !self.rollback.contains_key(target) => {
                refuse(format!("there is no [rollback.{target:?}]: add it to policy.toml"))
            }
            // Done without it, it would leave a gateway that runs on in a slot that is marked bad.
            Act::Rollback { target, .. } if self.lacks_the_boot_of(target) => refuse(format!(
                "a reboot completes what [rollback.{target:?}] does, and reboot is not in allow.actions: add it there"
            )),
            _ => Ok(()),
        }
    }

    /// Whether a quarantine on terms that are made of this would keep the broker in reach.
    ///
    /// # Errors
    /// `not_allowed`: it would not be put in force.
    pub(crate) fn keeps_broker(&self, source: &Source) -> Result<(), Refusal> {
        self.quarantine.reach_broker_at(source.port)
    }

    /// Whether one may stop it.
    #[cfg(feature = "simulate")]
    pub(crate) fn lets_stop(&self, unit: &UnitName) -> bool {
        self.quarantine.lets_stop(unit)
    }

    /// What it would leave out, as far as that is known before names are asked for.
    pub(crate) fn leaves_out(&self, source: &Source) -> Option<String> {
        self.quarantine.leave_out(source)
    }

    /// What of rollbacks is allowed by halves; and where this is the gateway that it is for, what they lack there.
    pub(super) fn doubts(&self, is_here: bool) -> Vec<String> {
        if !self.actions.contains(&Action::Rollback) {
            return Vec::new();
        }
        if self.rollback.is_empty() {
            return vec!["rollback is in allow.actions, and there is no [rollback.NAME]: it is refused".into()];
        }
        let doubt = |(target, rollback): (&String, &Rollback)| {
            let refused = self.permits(&Act::Rollback { target: target.clone(), to: None });
            let wrong = refused.err().map(|refusal| format!("it is refused: {}", refusal.detail));
            let wrong = wrong.or_else(|| match &rollback.kind {
                RollbackKind::Slots { dir } if is_here => unfit_slots(dir),
                _ => None,
            });
            wrong.map(|wrong| format!("[rollback.{target}]: {wrong}"))
        };
        self.rollback.iter().filter_map(doubt).collect()
    }

    /// Whether to go back takes a boot that isn't allowed. Of a program of the integrator's that is told by its end
    /// only.
    fn lacks_the_boot_of(&self, target: &str) -> bool {
        let takes_a_boot = self.rollback.get(target).is_some_and(|rollback| rollback.kind == RollbackKind::Rauc);
        takes_a_boot && !self.actions.contains(&Action::Reboot)
    }

    /// Whether the gateway's own rules may have it done.
    ///
    /// # Errors
    /// `not_allowed`.
    pub(super) fn permits_rules(&self, act: &Act) -> Result<(), Refusal> {
        let action = act.action();
        let refuse = |what: &str| {
            let detail = format!("root's policy: {what}: only a signed command may do it");
            Err(Refusal::because(Reason::NotAllowed, detail))
        };
        match act {
            _ if !self.local.contains(&action) => refuse(&format!("{action} is not in local.actions")),
            // The agent's own always go to the one before: any other is an operator's to name, and to sign for.
            Act::Rollback { to: Some(_), .. } => refuse("no rule names the release to go to"),
            // Who has taken over the agent must not get out of the quarantine that this has earned it.
            Act::Quarantine { level: None } => refuse("no rule leaves quarantine"),
            _ => Ok(()),
        }
    }

    /// Whether it may be done on this word, as far as that can be told without its signature, and what was done before.
    ///
    /// # Errors
    /// `not_allowed`.
    pub(crate) fn lets(&self, act: &Act, trigger: &Trigger) -> Result<(), Refusal> {
        self.permits(act)?;
        match (act, trigger) {
            // Nothing new: what is in force was judged when it was entered, and no refresh takes it to another level.
            // It may let the agent reach any address, at the ports that root's policy names.
            (Act::Refresh { .. }, _) | (_, Trigger::Command(_)) => Ok(()),
            (_, Trigger::Rule(_) | Trigger::Own(_)) => self.permits_rules(act),
        }
    }

    /// Whether somebody with this uid may ask.
    ///
    /// # Errors
    /// `peer_refused`.
    pub(super) fn admits(&self, uid: u32) -> Result<(), Refusal> {
        if uid == 0 || self.agent_uid == Some(uid) {
            return Ok(());
        }
        Err(Refusal::new(Ending::PeerRefused, format!("uid {uid} is neither root nor the agent's user")))
    }
}

/// Whether nobody but root, or who runs this, could have put this file there: it and all above it.
///
/// # Errors
/// What is wrong with which of them.
pub(super) fn trusted(file: &Path) -> Result<(), PolicyError> {
    match who_else_writes(file) {
        Ok(None) => Ok(()),
        Ok(Some((path, wrong))) => Err(PolicyError::Untrusted { path, wrong }),
        Err(why) => Err(PolicyError::Io { path: file.to_owned(), why }),
    }
}

pub(super) fn policy_of(s: &mut Section<'_>) -> Policy {
    if s.has("mqtt") {
        s.error_of_file("mqtt", "this is the agent's configuration (agent.toml), not root's policy (policy.toml)");
    }
    let agent_uid = s.optional("agent_uid", |node| whole(node, "a uid, such as 996")).or_else(agent_uid);
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (device, groups) =
        s.table("device", |s| (read::device_id(s, &hostname), s.list("groups", vec![], "[\"canary\"]", read::group)));
    let commands = s.table("commands", |s| {
        let directory = s.directory_of("trusted_keys");
        let example = "[\"ops-1:BASE64URL\"] or [\"ops-1.pub\"]";
        let trusted_keys = s.list("trusted_keys", vec![], example, |node| key(node, &directory));
        read::refuse_equal_kids(s, &trusted_keys);
        let skew = s.duration("max_clock_skew", Duration::from_secs(300), Duration::ZERO..=CLOCK_SKEW_MAX);
        config::Commands { trusted_keys, require_signature: true, max_clock_skew: skew }
    });
    let clock = s.table("clock", |s| s.word("trust", ClockTrust::Kernel, ClockTrust::ALL));
    let allow = s.table("allow", |s| Allow {
        actions: s.list("actions", vec![], "[\"restart_unit\"]", policy::action_that_needs_leave),
        units: s.list("units", vec![], "[\"app.service\"]", parsed(UnitName::parse)),
        runbooks: s.list("runbooks", vec![], "[\"free-space\"]", policy::runbook_name),
        interfaces: s.list("interfaces", vec![], "[\"wwan0\"]", read::interface),
    });
    let local = s.table("local", |s| {
        let local = s.list("actions", vec![], "[\"restart_unit\"]", policy::action_that_needs_leave);
        if let Some(beyond) = local.iter().find(|action| !allow.actions.contains(action)) {
            s.error("actions", format!("\"{beyond}\" is not in allow.actions"));
        }
        local
    });
    let budget = s.table("budget", policy::budget);
    let (runbook_dir, runbooks_confined) =
        s.table("runbooks", |s| (s.absolute_path("dir", "/etc/fieldmedic/runbooks"), s.flag("confined", false)));
    let quarantine = s.table("quarantine", |s| Limits {
        broker_ports: s.list("broker_ports", vec![1883, 8883], "[8883]", port),
        allow_hosts: s.list("allow_hosts", vec![], "[\"192.0.2.0/24\"]", network),
        stop_units: s.list("stop_units", vec![], "[\"app.service\"]", parsed(UnitName::parse)),
    });
    let rollback = s.named_tables("rollback", policy::rollback);
    let rollback = gather(rollback.into_iter().filter_map(|(name, target)| Some((name, target?))));
    let Allow { actions, units, runbooks, interfaces } = allow;
    Policy {
        agent_uid,
        device,
        groups,
        commands,
        clock,
        actions,
        local,
        units,
        runbooks,
        interfaces,
        quarantine,
        budget,
        runbook_dir,
        runbooks_confined,
        rollback,
    }
}

fn network(node: &Node) -> Result<Network, Unfit> {
    const EXPECTED: &str = "an address or a network, such as \"192.0.2.0/24\"";
    let unfit = || unfit(node, EXPECTED);
    text_of(node).and_then(|text| text.parse().ok()).ok_or_else(unfit)
}

struct Allow {
    actions: Vec<Action>,
    units: Vec<UnitName>,
    runbooks: Vec<String>,
    interfaces: Vec<String>,
}

/// A key, or the file of one: who could write that could command.
fn key(node: &Node, directory: &Path) -> Result<config::TrustedKey, Unfit> {
    if let Some(name) = text_of(node).filter(|text| text.ends_with(".pub")) {
        trusted(&directory.join(name)).map_err(|error| Unfit {
            found: format!("{name:?}, which can't be trusted ({error})"),
            expected: "a file of root that nobody else may write to".into(),
        })?;
    }
    read::trusted_key(node, directory)
}

fn port(node: &Node) -> Result<u16, Unfit> {
    const EXPECTED: &str = "a TCP port from 1 to 65535, such as 8883";
    let port = whole(node, EXPECTED)?;
    if port == 0 { Err(unfit(node, EXPECTED)) } else { Ok(port) }
}

fn whole<T: TryFrom<i64>>(node: &Node, expected: &str) -> Result<T, Unfit> {
    let number = match node.value {
        Value::Integer(number) => T::try_from(number).ok(),
        _ => None,
    };
    number.ok_or_else(|| unfit(node, expected))
}

fn agent_uid() -> Option<u32> {
    agent_user().map(|user| user.uid)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test writes a policy and reads the one that is shipped")]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        fs::write(&path, text).unwrap();
        chmod(&path, 0o644);
        (dir, path)
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn errors(text: &str) -> Vec<String> {
        let (_dir, path) = file(text);
        let errors = Policy::read(&path).unwrap_err();
        errors.iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect()
    }

    #[test]
    fn an_empty_policy_allows_nothing() {
        let (_dir, path) = file("[device]\nid = \"gw-1\"\n");
        let policy = Policy::load(&path).unwrap();
        assert!(policy.actions.is_empty() && policy.local.is_empty() && policy.commands.trusted_keys.is_empty());
        assert_eq!(policy.permits(&Act::Reboot).unwrap_err().reason, "not_allowed");
        assert_eq!(policy.permits_rules(&Act::Reboot).unwrap_err().reason, "not_allowed");
    }

    #[test]
    fn a_rule_may_enter_quarantine_and_only_a_command_may_leave_it() {
        let (_dir, path) = file("[allow]\nactions = [\"quarantine\"]\n[local]\nactions = [\"quarantine\"]\n");
        let policy = Policy::load(&path).unwrap();
        let [enter, leave] = [Some(config::QuarantineLevel::Restrict), None].map(|level| Act::Quarantine { level });
        assert_eq!((policy.permits(&leave), policy.permits_rules(&enter)), (Ok(()), Ok(())));
        assert_eq!(policy.permits_rules(&leave).unwrap_err().reason, "not_allowed");
    }

    #[test]
    fn a_rule_goes_back_to_the_release_before_and_to_no_other() {
        let allowed = "actions = [\"rollback\"]\n";
        let slots = "[rollback.app]\nkind = \"slots\"\ndir = \"/opt/app\"\n";
        let (_dir, path) = file(&format!("[allow]\n{allowed}[local]\n{allowed}{slots}"));
        let policy = Policy::load(&path).unwrap();
        let [back, to] = [None, Some("1.0".to_owned())].map(|to| Act::Rollback { target: "app".into(), to });
        assert_eq!((policy.permits(&to), policy.permits_rules(&back)), (Ok(()), Ok(())));
        assert_eq!(policy.permits_rules(&to).unwrap_err().reason, "not_allowed");
    }

    #[test]
    fn a_rollback_that_a_reboot_completes_takes_the_leave_for_both() {
        let (act, mark) = (Act::Rollback { target: "fw".into(), to: None }, Act::MarkGood { target: "fw".into() });
        for (more, is_let) in [("", false), (", \"reboot\"", true)] {
            let (_dir, path) =
                file(&format!("[allow]\nactions = [\"rollback\"{more}]\n[rollback.fw]\nkind = \"rauc\"\n"));
            let policy = Policy::load(&path).unwrap();
            let told = policy.permits(&act).err().map(|refusal| refusal.detail).unwrap_or_default();
            assert_eq!((told.is_empty(), policy.permits(&mark)), (is_let, Ok(())), "{told}");
            assert!(is_let || told.ends_with("reboot is not in allow.actions: add it there"), "{told}");
        }
    }

    #[test]
    fn a_rollback_that_is_set_up_by_halves_is_doubtful_and_where_it_is_to_be_done_also_for_its_directory() {
        let (dir, path) = file("");
        let doubts = |more: &str, is_here| {
            fs::write(&path, more).unwrap();
            Policy::load(&path).unwrap().doubts(is_here).join("\n")
        };
        assert_eq!(doubts("[rollback.fw]\nkind = \"rauc\"\n", true), "", "who allows none may name one");
        let allow = "[allow]\nactions = [\"rollback\"]\n";
        assert!(doubts(allow, false).contains("there is no [rollback.NAME]"));
        let told = doubts(&format!("{allow}[rollback.fw]\nkind = \"rauc\"\n"), false);
        assert!(told.starts_with("[rollback.fw]: it is refused") && told.contains("reboot is not in"), "{told}");
        let slots = format!("{allow}[rollback.app]\nkind = \"slots\"\ndir = {:?}\n", dir.path());
        assert_eq!(doubts(&slots, false), "", "an image is made elsewhere");
        assert!(doubts(&slots, true).contains("current is no link to releases/NAME"), "{}", doubts(&slots, true));
        fs::create_dir_all(dir.path().join("releases/1")).unwrap();
        symlink("releases/1", dir.path().join("current")).unwrap();
        assert_eq!(doubts(&slots, true), "");
    }

    #[test]
    fn mistakes_are_told_all_at_once_with_their_lines() {
        let text = "agent_uid = -1\n[allow]\nactions = [\"format\"]\nunit = []\n[local]\nactions = [\"run\"]\n\
                    [quarantine]\nbroker_ports = [0, 65535]\n";
        let told = errors(text);
        assert_eq!(told.len(), 5, "{told:#?}");
        assert!(told[0].starts_with("1: agent_uid: found -1"), "{told:#?}");
        assert!(told[1].starts_with("3: allow.actions: found \"format\""), "{told:#?}");
        assert!(told[2].starts_with("4: unknown key \"allow.unit\"; did you mean \"units\"?"), "{told:#?}");
        assert!(told[3].starts_with("6: local.actions: \"run\" is not in allow.actions"), "{told:#?}");
        assert!(told[4].starts_with("8: quarantine.broker_ports: found 0, expected a TCP port from 1"), "{told:#?}");
    }

    #[test]
    fn the_agents_configuration_is_told_from_a_policy_with_mistakes() {
        let told = errors("[device]\nid = \"gw-1\"\n[mqtt]\nurl = \"mqtt://b\"\n");
        assert_eq!(told, ["1: this is the agent's configuration (agent.toml), not root's policy (policy.toml)"]);
    }

    #[test]
    fn a_file_that_others_may_write_is_no_policy() {
        let (dir, path) = file("");
        assert!(Policy::load(&path).is_ok());
        chmod(&path, 0o664);
        assert_eq!(Policy::load(&path).unwrap_err().refusal().reason, "policy_untrusted");
        chmod(&path, 0o644);
        chmod(dir.path(), 0o777);
        let told = Policy::load(&path).unwrap_err().to_string();
        assert!(told.contains(" has mode 777, others may write to it"), "{told}");
    }

    #[test]
    fn a_key_that_others_may_write_is_no_key() {
        let (dir, path) = file("[commands]\ntrusted_keys = [\"ops-1.pub\"]\n");
        let key = dir.path().join("ops-1.pub");
        fs::write(&key, crate::wire::keys::public_pem([1; 32])).unwrap();
        chmod(&key, 0o644);
        assert_eq!(Policy::load(&path).unwrap().commands.trusted_keys.len(), 1);
        chmod(&key, 0o646);
        let told = Policy::load(&path).unwrap_err().to_string();
        assert!(told.contains("policy.toml:2: ") && told.contains("has mode 646, others may write to it"), "{told}");
    }

    #[test]
    fn a_link_is_no_way_around_it() {
        let (theirs, path) = file("");
        let ours = tempfile::tempdir().unwrap();
        symlink(&path, ours.path().join("policy.toml")).unwrap();
        let load = || Policy::load(&ours.path().join("policy.toml"));
        assert!(load().is_ok());
        for dir in [&theirs, &ours] {
            chmod(dir.path(), 0o777);
            assert!(matches!(load(), Err(PolicyError::Untrusted { .. })), "{load:?}", load = load());
            chmod(dir.path(), 0o755);
        }
    }

    #[test]
    fn the_policy_that_is_shipped_names_every_key_and_loads() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/policy.toml");
        let (policy, known) = config::keys_read(&shipped, policy_of);
        policy.unwrap();
        let text = fs::read_to_string(&shipped).unwrap();
        let mut section = String::new();
        let mut named = BTreeSet::new();
        for line in text.lines() {
            let line = line.trim_start_matches('#').trim();
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = if name.starts_with("rollback.") { "rollback.*.".into() } else { format!("{name}.") };
            } else if let Some((key, _)) = line.split_once(" = ") {
                named.insert(format!("{section}{key}"));
            }
        }
        let known = known.iter().filter(|key| key.contains('.') || *key == "agent_uid");
        let missing: Vec<_> = known.filter(|key| !named.contains(*key)).collect();
        assert!(missing.is_empty(), "not in configs/policy.toml: {missing:?}; named are {named:?}");
    }
}
