//! What a verified command asks for, parsed once: past this point a unit is a [`UnitName`] and an argument has its
//! type.

use std::collections::BTreeMap;
use std::slice;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::io::Act;
use super::observation::RELEASE;
use crate::config::reader::did_you_mean;
use crate::config::{
    Action, QuarantineLevel, RUNBOOK_NAME, Remedy, Rollback, Telemetry, UnitName, is_interface_name, is_runbook_name,
    parse_duration,
};
use crate::wire::token::whole;
use crate::wire::{CommandId, Reason, VerifiedCommand};
use crate::words::words;

/// How long a restart may take where the command doesn't say: systemd's own DefaultTimeoutStartSec.
const RESTART_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a runbook may take where the command doesn't say.
const RUN_TIMEOUT: Duration = Duration::from_secs(300);
/// The longest that a reboot may be put off.
const DELAY_MAX: Duration = Duration::from_secs(3_600);
/// Arguments of a runbook.
const RUN_ARGS_MAX: usize = 64;
/// The shortest interval that a command may set: below it a gateway would measure itself.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The longest intervals, as in the configuration.
const SAMPLE_MAX: Duration = Duration::from_secs(3600);
const REPORT_MAX: Duration = Duration::from_secs(24 * 3600);
const PUBLISH_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long other intervals stay in force where the command doesn't say.
const OVERRIDE_DEFAULT: Duration = Duration::from_secs(3600);
/// The longest that other intervals may stay in force.
const OVERRIDE_MAX: Duration = Duration::from_secs(24 * 3600);

words! {
    /// What a command is called.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[expect(missing_docs, reason = "the contract's table says what they do")]
    Name {
        Ping "ping",
        RestartUnit "restart_unit",
        RestartLink "restart_link",
        Reboot "reboot",
        Rollback "rollback",
        MarkGood "mark_good",
        Quarantine "quarantine",
        Release "release",
        Run "run",
        CollectDiagnostics "collect_diagnostics",
        SetIntervals "set_intervals",
        Cancel "cancel",
        CancelAll "cancel_all",
    }
}

impl Name {
    /// Whether what it does is told as a remedy, too.
    #[must_use]
    pub const fn is_remedy(self) -> bool {
        match self {
            Self::RestartUnit
            | Self::RestartLink
            | Self::Reboot
            | Self::Rollback
            | Self::MarkGood
            | Self::Quarantine
            | Self::Release
            | Self::Run => true,
            Self::Ping | Self::CollectDiagnostics | Self::SetIntervals | Self::Cancel | Self::CancelAll => false,
        }
    }

    /// The arguments that it takes.
    const fn args(self) -> &'static [&'static str] {
        match self {
            Self::RestartUnit => &["unit"],
            Self::Run => &["runbook", "args"],
            Self::RestartLink => &["interface", "now"],
            Self::Reboot => &["delay_s", "now"],
            Self::Rollback => &["target", "to", "now"],
            Self::MarkGood => &["target"],
            Self::Quarantine => &["level"],
            Self::Cancel => &["command_id"],
            Self::SetIntervals => &["sample", "report", "publish", "for"],
            Self::Ping | Self::Release | Self::CollectDiagnostics | Self::CancelAll => &[],
        }
    }
}

/// A command, ready to be admitted.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Answers.
    Ping,
    /// Acts on the gateway.
    Act(Act),
    /// Restarts the machine, after a while.
    Reboot {
        /// How long to wait.
        delay: Duration,
    },
    /// Takes a command back.
    Cancel(CommandId),
    /// The red button.
    CancelAll,
    /// Other rates for a while.
    SetIntervals(Intervals),
}

/// Rates that replace the config's for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    /// Instead of `telemetry.sample_interval`.
    pub sample: Option<Duration>,
    /// Instead of `telemetry.report_interval`.
    pub report: Option<Duration>,
    /// Instead of `telemetry.publish_interval`.
    pub publish: Option<Duration>,
    /// For how long.
    pub hold: Duration,
}

impl Intervals {
    /// What is in force: an interval that the command doesn't name follows those that it does, so that none is longer
    /// than the next.
    #[must_use]
    pub fn beside(&self, telemetry: &Telemetry) -> (Duration, Duration, Duration) {
        let least = self.sample.unwrap_or(Duration::ZERO);
        let most = self.publish.unwrap_or(Duration::MAX);
        let report = self.report.unwrap_or_else(|| telemetry.report_interval.min(most).max(least));
        let sample = self.sample.unwrap_or_else(|| telemetry.sample_interval.min(report));
        (sample, report, self.publish.unwrap_or_else(|| telemetry.publish_interval.max(report)))
    }

    /// Holds them against what the configuration would take.
    fn check(self) -> Result<Self, (Reason, String)> {
        let named = [
            ("sample", self.sample, SAMPLE_MAX),
            ("report", self.report, REPORT_MAX),
            ("publish", self.publish, PUBLISH_MAX),
        ];
        let mut shorter: Option<(&str, Duration)> = None;
        for (name, interval, most) in named {
            let Some(interval) = interval else { continue };
            if interval > most {
                return Err(malformed(format!("args.{name} is {}, {} is the most", human(interval), human(most))));
            }
            if let Some((other, least)) = shorter.replace((name, interval)).filter(|(_, least)| *least > interval) {
                let (interval, least) = (human(interval), human(least));
                return Err(malformed(format!("args.{name} is {interval}, shorter than args.{other}, {least}")));
            }
        }
        Ok(self)
    }
}

fn human(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

impl Command {
    /// Reads a command's name and arguments.
    ///
    /// # Errors
    /// `unknown_command`, or `malformed` with what is wrong with which argument.
    pub fn parse(command: &VerifiedCommand) -> Result<Self, (Reason, String)> {
        let args = &command.args;
        let unknown = || {
            let hint = did_you_mean(&command.name, Name::ALL.iter().map(|name| name.word()));
            (Reason::UnknownCommand, format!("this version has no command {:?}{hint}", command.name))
        };
        let name = Name::parse(&command.name).ok_or_else(unknown)?;
        check_args(name, args)?;
        match name {
            Name::Ping => Ok(Self::Ping),
            Name::RestartUnit => {
                let unit = text(args, "unit")?;
                let unit = UnitName::parse(unit).map_err(|error| malformed(format!("args.unit: {error}")))?;
                Ok(Self::Act(Act::RestartUnit { unit }))
            }
            Name::Run => {
                let runbook = text(args, "runbook")?;
                if !is_runbook_name(runbook) {
                    return Err(malformed(format!("args.runbook: found {runbook:?}, expected {RUNBOOK_NAME}")));
                }
                Ok(Self::Act(Act::Run { runbook: runbook.to_owned(), args: words(args)? }))
            }
            Name::RestartLink => {
                let interface = text(args, "interface")?;
                if !is_interface_name(interface) {
                    return Err(malformed(format!("args.interface {interface:?} is no interface's name")));
                }
                Ok(Self::Act(Act::RestartLink { interface: interface.to_owned() }))
            }
            Name::Reboot => Ok(Self::Reboot { delay: delay(args)? }),
            Name::Rollback => {
                let target = text(args, "target")?.to_owned();
                let to = args.contains_key("to").then(|| text(args, "to").map(str::to_owned)).transpose()?;
                if let Some(to) = to.as_ref().filter(|to| !is_release(to)) {
                    return Err(malformed(format!("args.to {to:?} is no release's name")));
                }
                Ok(Self::Act(Act::Rollback { target, to }))
            }
            Name::MarkGood => Ok(Self::Act(Act::MarkGood { target: text(args, "target")?.to_owned() })),
            Name::Quarantine => Ok(Self::Act(Act::Quarantine { level: Some(level(args)?) })),
            Name::Release => Ok(Self::Act(Act::Quarantine { level: None })),
            Name::CollectDiagnostics => Ok(Self::Act(Act::CollectDiagnostics)),
            Name::Cancel => {
                let id = text(args, "command_id")?;
                let id = CommandId::parse(id)
                    .ok_or_else(|| malformed(format!("args.command_id {id:?} is no command id")))?;
                Ok(Self::Cancel(id))
            }
            Name::CancelAll => Ok(Self::CancelAll),
            Name::SetIntervals => intervals(args).map(Self::SetIntervals),
        }
    }

    /// Whether it takes a gateway off the air for a while, so that not all of a group are to do it at once. Who says
    /// when, or now, has thought of that.
    #[must_use]
    pub fn is_spread(&self, args: &Map<String, Json>) -> bool {
        let takes_it_off_the_air =
            matches!(self.act(), Some(Act::Reboot | Act::Rollback { .. } | Act::RestartLink { .. }));
        takes_it_off_the_air && !args.contains_key("delay_s") && args.get("now") != Some(&Json::Bool(true))
    }

    /// Whether it changes the gateway, so that its freshness has to be proven.
    #[must_use]
    pub fn is_disruptive(&self) -> bool {
        self.act().is_some_and(Act::changes)
    }

    /// What it does to the gateway.
    #[must_use]
    pub const fn act(&self) -> Option<&Act> {
        match self {
            Self::Act(act) => Some(act),
            Self::Reboot { .. } => Some(&Act::Reboot),
            Self::Ping | Self::Cancel(_) | Self::CancelAll | Self::SetIntervals(_) => None,
        }
    }
}

impl Act {
    /// What a step of a ladder does.
    #[must_use]
    pub fn of(remedy: &Remedy) -> Self {
        match remedy.clone() {
            Remedy::RestartUnit { unit } => Self::RestartUnit { unit },
            Remedy::RestartLink { interface } => Self::RestartLink { interface },
            Remedy::Reboot => Self::Reboot,
            Remedy::Rollback { target } => Self::Rollback { target, to: None },
            Remedy::Quarantine { level } => Self::Quarantine { level: Some(level) },
            Remedy::Run { runbook, args } => Self::Run { runbook, args },
            Remedy::CollectDiagnostics => Self::CollectDiagnostics,
            Remedy::SavePower(_) => Self::SavePower,
        }
    }

    /// What the config allows or forbids it as.
    #[must_use]
    pub const fn action(&self) -> Action {
        match self {
            Self::RestartUnit { .. } => Action::RestartUnit,
            Self::Run { .. } => Action::Run,
            Self::RestartLink { .. } => Action::RestartLink,
            Self::Reboot => Action::Reboot,
            Self::Rollback { .. } | Self::MarkGood { .. } => Action::Rollback,
            Self::Quarantine { .. } | Self::Refresh { .. } => Action::Quarantine,
            Self::CollectDiagnostics => Action::CollectDiagnostics,
            Self::SavePower => Action::SavePower,
        }
    }

    /// Whether it cuts the gateway off from others, or keeps it so, where this much is in force already.
    #[must_use]
    pub fn cuts_off(&self, in_force: Option<QuarantineLevel>) -> bool {
        let (Self::Quarantine { level: Some(level) } | Self::Refresh { level, .. }) = self else { return false };
        Some(*level).max(in_force) > Some(QuarantineLevel::Observe)
    }

    /// What it is called where it is told. What keeps a release isn't what leaves it, and what ends a quarantine or
    /// looks up the broker's addresses again is none, though the same leave is asked for.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::MarkGood { .. } => "mark_good",
            Self::Quarantine { level: None } => "release",
            Self::Refresh { .. } => "refresh_quarantine",
            _ => self.action().word(),
        }
    }

    /// Whether it changes the gateway.
    #[must_use]
    pub const fn changes(&self) -> bool {
        !matches!(self, Self::CollectDiagnostics | Self::SavePower)
    }

    /// Whether the config has to allow it: who may look, and who lets a gateway back in, needs no leave of who shut it.
    #[must_use]
    pub const fn needs_leave(&self) -> bool {
        let helps = matches!(self, Self::Quarantine { level: None } | Self::Refresh { .. });
        !helps && self.action().needs_leave()
    }

    /// The units that it starts again, by what can be rolled back.
    pub fn restarts<'a>(&'a self, rollback: &'a BTreeMap<String, Rollback>) -> &'a [UnitName] {
        match self {
            Self::RestartUnit { unit } => slice::from_ref(unit),
            Self::Rollback { target, .. } => rollback.get(target).map_or(&[], |rollback| &rollback.units),
            _ => &[],
        }
    }

    /// Whether it spends a budget: what restores a state, or keeps one, doesn't.
    #[must_use]
    pub const fn spends(&self) -> bool {
        !matches!(self, Self::MarkGood { .. } | Self::Quarantine { level: None } | Self::Refresh { .. })
    }

    /// Whether it disrupts the gateway as a whole: of these one is done at a time.
    #[must_use]
    pub const fn is_grave(&self) -> bool {
        matches!(
            self,
            Self::Reboot
                | Self::Rollback { .. }
                | Self::MarkGood { .. }
                | Self::RestartLink { .. }
                | Self::Quarantine { .. }
                | Self::Refresh { .. }
        )
    }

    /// Whether it shuts the gateway off, or lets it back.
    #[must_use]
    pub const fn shuts(&self) -> bool {
        matches!(self, Self::Quarantine { .. })
    }

    /// Whether it counts among the acts that run side by side.
    #[must_use]
    pub const fn takes_a_hand(&self) -> bool {
        !matches!(self, Self::Quarantine { .. } | Self::CollectDiagnostics)
    }

    /// What it works on: acts on one target run one after the other, others side by side.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::RestartUnit { unit } => format!("unit:{}", unit.as_str()),
            Self::Run { runbook, .. } => format!("runbook:{runbook}"),
            Self::RestartLink { interface } => format!("link:{interface}"),
            Self::Reboot => "gateway".into(),
            Self::Rollback { target, .. } | Self::MarkGood { target } => format!("{RELEASE}{target}"),
            Self::Quarantine { .. } | Self::Refresh { .. } => "quarantine".into(),
            Self::CollectDiagnostics => "diagnostics".into(),
            Self::SavePower => "power".into(),
        }
    }

    /// How long it may take where the command doesn't say.
    #[must_use]
    pub const fn default_timeout(&self) -> Duration {
        match self {
            Self::RestartUnit { .. }
            | Self::RestartLink { .. }
            | Self::CollectDiagnostics
            | Self::SavePower
            | Self::Reboot => RESTART_TIMEOUT,
            // A quarantine waits for the job that loads its rules, and then for those of its units.
            Self::Quarantine { .. }
            | Self::Refresh { .. }
            | Self::Run { .. }
            | Self::Rollback { .. }
            | Self::MarkGood { .. } => RUN_TIMEOUT,
        }
    }
}

/// What may name a release: each kind of release knows more about its names.
pub(crate) fn is_release(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.contains(char::is_control)
}

/// What may name one of release directories: one component of a path, which is not hidden.
pub(crate) fn is_release_dir(name: &str) -> bool {
    is_release(name) && !name.starts_with('.') && !name.contains('/')
}

/// Arguments that a program can be given (execve(2)).
pub(crate) fn are_arguments(args: &[String]) -> bool {
    args.len() <= RUN_ARGS_MAX && args.iter().all(|arg| !arg.contains('\0'))
}

/// A misspelt argument must not be taken for its default.
fn check_args(name: Name, args: &Map<String, Json>) -> Result<(), (Reason, String)> {
    let known = name.args();
    match args.keys().find(|key| !known.contains(&key.as_str())) {
        Some(other) if known.is_empty() => return Err(malformed(format!("args.{other}: {name} takes no arguments"))),
        Some(other) => return Err(malformed(format!("args.{other} is unknown; {name} takes {}", known.join(", ")))),
        None => {}
    }
    match args.get("now").filter(|now| !now.is_boolean()) {
        Some(now) => Err(malformed(format!("args.now is {now}, true or false is expected"))),
        None => Ok(()),
    }
}

fn level(args: &Map<String, Json>) -> Result<QuarantineLevel, (Reason, String)> {
    const LEVELS: &str = "observe, restrict or isolate is expected";
    if !args.contains_key("level") {
        return Err(malformed(format!("args.level is missing, {LEVELS}")));
    }
    let word = text(args, "level")?;
    QuarantineLevel::parse(word).ok_or_else(|| malformed(format!("args.level is {word:?}, {LEVELS}")))
}

/// `delay_s`: whole seconds.
fn delay(args: &Map<String, Json>) -> Result<Duration, (Reason, String)> {
    let Some(value) = args.get("delay_s") else { return Ok(Duration::ZERO) };
    let seconds = value.as_number().and_then(whole).filter(|seconds| *seconds <= DELAY_MAX.as_secs());
    let expected = || malformed(format!("args.delay_s is {value}, 0 to {} seconds are expected", DELAY_MAX.as_secs()));
    seconds.map(Duration::from_secs).ok_or_else(expected)
}

fn text<'a>(args: &'a Map<String, Json>, key: &str) -> Result<&'a str, (Reason, String)> {
    match args.get(key) {
        Some(Json::String(text)) => Ok(text),
        Some(other) => Err(malformed(format!("args.{key} is {other}, a string is expected"))),
        None => Err(malformed(format!("args.{key} is missing"))),
    }
}

/// `args`: a list of words, or one word.
fn words(args: &Map<String, Json>) -> Result<Vec<String>, (Reason, String)> {
    let list = match args.get("args") {
        None => return Ok(Vec::new()),
        Some(Json::Array(list)) => list.as_slice(),
        Some(one) => slice::from_ref(one),
    };
    if list.len() > RUN_ARGS_MAX {
        return Err(malformed(format!("args.args has {} words, the limit is {RUN_ARGS_MAX}", list.len())));
    }
    list.iter()
        .map(|word| match word {
            Json::String(word) if !word.contains('\0') => Ok(word.clone()),
            Json::Number(number) => Ok(number.to_string()),
            Json::Bool(flag) => Ok(flag.to_string()),
            other => Err(malformed(format!("args.args holds {other}, a string or number is expected"))),
        })
        .collect()
}

fn intervals(args: &Map<String, Json>) -> Result<Intervals, (Reason, String)> {
    let intervals = Intervals {
        sample: duration(args, "sample")?,
        report: duration(args, "report")?,
        publish: duration(args, "publish")?,
        hold: duration(args, "for")?.unwrap_or(OVERRIDE_DEFAULT),
    };
    let set = [intervals.sample, intervals.report, intervals.publish];
    if set.iter().flatten().any(|interval| *interval < INTERVAL_MIN) {
        return Err(malformed("an interval is shorter than 1s".into()));
    }
    if set.iter().all(Option::is_none) {
        return Err(malformed("none of args.sample, args.report and args.publish is there".into()));
    }
    if intervals.hold < INTERVAL_MIN {
        return Err(malformed("args.for is shorter than 1s: nothing would come of it".into()));
    }
    if intervals.hold > OVERRIDE_MAX {
        return Err(malformed("args.for is longer than 24h: change the config for that".into()));
    }
    intervals.check()
}

/// "30s", or a number of seconds.
fn duration(args: &Map<String, Json>, key: &str) -> Result<Option<Duration>, (Reason, String)> {
    match args.get(key) {
        None => Ok(None),
        Some(value) => {
            let read = match value {
                Json::Number(seconds) => whole(seconds).map(Duration::from_secs),
                Json::String(text) => parse_duration(text),
                _ => None,
            };
            read.map(Some).ok_or_else(|| malformed(format!("args.{key} is {value}, \"30s\" is expected")))
        }
    }
}

const fn malformed(detail: String) -> (Reason, String) {
    (Reason::Malformed, detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_misspelt_or_left_out_is_told_with_what_is_there() {
        let told = |name: &str, args: Json| {
            let Json::Object(args) = args else { panic!("{args}") };
            Command::parse(&VerifiedCommand { name: name.into(), args, ..command() }).unwrap_err().1
        };
        let unknown = told("restart-unit", json!({"unit": "app.service"}));
        assert_eq!(unknown, r#"this version has no command "restart-unit"; did you mean "restart_unit"?"#);
        assert_eq!(told("format", json!({})), r#"this version has no command "format""#);
        let levels = ", observe, restrict or isolate is expected";
        assert_eq!(told("quarantine", json!({})), format!("args.level is missing{levels}"));
        assert_eq!(told("quarantine", json!({"level": "all"})), format!("args.level is \"all\"{levels}"));
    }

    fn command() -> VerifiedCommand {
        VerifiedCommand {
            id: CommandId::parse("c-1").unwrap(),
            kid: None,
            group: None,
            issued_at: 0,
            expires_at: 0,
            not_before: None,
            nonce: None,
            name: String::new(),
            args: Map::new(),
            timeout_s: None,
            digest: [0; 32],
            message: Box::default(),
        }
    }

    #[test]
    fn what_ends_or_keeps_something_is_not_called_what_begins_or_leaves_it() {
        let target = || "firmware".to_owned();
        let acts = [
            Act::Quarantine { level: Some(QuarantineLevel::Isolate) },
            Act::Quarantine { level: None },
            Act::Rollback { target: target(), to: None },
            Act::MarkGood { target: target() },
        ];
        assert_eq!(acts.map(|act| act.word()), ["quarantine", "release", "rollback", "mark_good"]);
    }
}
