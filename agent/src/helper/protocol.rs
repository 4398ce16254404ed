//! What the agent and the root helper say to each other: a JSON object a datagram, over a SOCK_SEQPACKET socket. The
//! agent asks once a connection, either what it may ask for (`hello`) or for one act; the helper answers with
//! progress, of which the first says that it begins, and one end. What is read here has the right form and no more:
//! whether it may be done is judged elsewhere.
//!
//! ```text
//! > {"v":1,"act":{"name":"restart_unit","args":{"unit":"app.service"}},"timeout_s":90,"asked_ms":81244,"trigger":"command:c-1","token":"eyJ…"}
//! < {"progress":0}
//! < {"progress":40}
//! < {"status":"SUCCEEDED","reason":null,"detail":"app.service is active (running)","output":null}
//! ```
//!
//! The end of an act that is to enter a quarantine or to keep one up names with `quarantine` the level in force then,
//! and says with `stopped_again` where units had been started that it stops, with `keeps_stopped` that there are such.
//! Closing the connection, or anything more that is sent on it, such as `{"cancel":true}`, cancels the act. It is not
//! begun, either, once `timeout_s` have passed since `asked_ms`, which is CLOCK_BOOTTIME: the agent has told its end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::act::quarantine::terms::Terms;
use crate::act::{Able, Order};
use crate::config::{Action, QuarantineLevel, UnitName};
use crate::engine::command::{are_arguments, is_release};
use crate::engine::io::{Act, ActOutcome, ActStatus, Ending, Trigger};
use crate::engine::record::Status;
use crate::engine::time::Mono;
use crate::gather::gather;
use crate::text::tail;
use crate::wire::token::TIMEOUT_MAX_S;
use crate::wire::{CommandId, Reason};

/// The version spoken here.
const VERSION: u8 = 1;
/// The most bytes in a datagram, either way.
pub(crate) const DATAGRAM_MAX: usize = 64 * 1024;
/// The most bytes in the name of a rule (a topic word, as in the configuration).
const RULE_LEN_MAX: usize = 128;

/// Why something is not done: a fixed word, and what a human wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The word.
    pub(crate) reason: &'static str,
    /// The rest.
    pub(crate) detail: String,
}

impl Refusal {
    /// For a reason of the helper's own.
    #[must_use]
    pub(crate) fn new(ending: Ending, detail: impl Into<String>) -> Self {
        Self { reason: ending.word(), detail: detail.into() }
    }

    /// For a reason that the agent knows, too.
    #[must_use]
    pub(crate) fn because(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason: reason.word(), detail: detail.into() }
    }
}

/// What an agent asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// What would you do for me?
    Hello,
    /// Do this.
    Act(Box<Order>),
}

/// What a helper answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What it may do for the agent, and what is in force, to [`Request::Hello`].
    Able(Able),
    /// How far it is, in percent; the first says that it begins.
    Progress(u8),
    /// The end of it.
    Done(ActOutcome),
    /// Nothing was done.
    Refused {
        /// A [`Refusal::reason`].
        reason: String,
        /// A [`Refusal::detail`].
        detail: String,
    },
}

impl Request {
    /// Reads a datagram.
    ///
    /// # Errors
    /// `malformed`, with what is wrong with it.
    pub(crate) fn parse(datagram: &[u8]) -> Result<Self, Refusal> {
        let malformed = |detail: String| Refusal::because(Reason::Malformed, detail);
        let words: RequestWords =
            serde_json::from_slice(datagram).map_err(|error| malformed(format!("request: {error}")))?;
        let RequestWords { v, hello, act, timeout_s, asked_ms, trigger, token, terms } = words;
        if v != VERSION {
            return Err(malformed(format!("request: v is {v}, this helper speaks {VERSION}")));
        }
        let (act, timeout_s, trigger) = match (act, timeout_s, trigger) {
            (None, None, None) if hello => return Ok(Self::Hello),
            (Some(act), Some(timeout_s), Some(trigger)) if !hello => (act, timeout_s, trigger),
            _ => return Err(malformed("request: either hello, or act with timeout_s and trigger".into())),
        };
        if !(1..=TIMEOUT_MAX_S).contains(&timeout_s) {
            return Err(malformed(format!("request: timeout_s is {timeout_s}, 1 to {TIMEOUT_MAX_S} is expected")));
        }
        let trigger = trigger_of(&trigger)
            .ok_or_else(|| malformed("request: trigger is neither command:ID nor rule:NAME".into()))?;
        let act = act.parse().map_err(|wrong| malformed(format!("request: act: {wrong}")))?;
        let timeout = Duration::from_secs(timeout_s);
        let asked = asked_ms.map(Mono);
        Ok(Self::Act(Box::new(Order { act, trigger, token, timeout, terms, asked })))
    }

    /// The datagram that [`Request::parse`] reads back.
    #[must_use]
    pub(crate) fn to_datagram(&self) -> Vec<u8> {
        let words = match self {
            Self::Hello => RequestWords { v: VERSION, hello: true, ..RequestWords::default() },
            Self::Act(order) => RequestWords {
                v: VERSION,
                hello: false,
                act: Some(ActWords::of(&order.act)),
                // Rounded up: an act must not be given less time than it was meant to have.
                timeout_s: Some(order.timeout.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)),
                asked_ms: order.asked.map(|asked| asked.0),
                trigger: Some(order.trigger.to_string()),
                token: order.token.clone(),
                terms: order.terms.clone(),
            },
        };
        serde_json::to_vec(&words).unwrap_or_default()
    }
}

impl Answer {
    /// Reads a datagram; `None` if it is no answer.
    #[must_use]
    pub(crate) fn parse(datagram: &[u8]) -> Option<Self> {
        Some(match serde_json::from_slice(datagram).ok()? {
            AnswerWords::Able { able, withheld, quarantine } => Self::Able(Able {
                actions: gather(able.iter().filter_map(|word| Action::parse(word))),
                withheld: gather(withheld.iter().filter_map(|word| Action::parse(word))),
                quarantine: quarantine.as_deref().and_then(QuarantineLevel::parse),
            }),
            AnswerWords::Progress { progress } => Self::Progress(progress.min(100)),
            AnswerWords::End { status, reason, detail, release, quarantine, stopped_again, keeps_stopped, output } => {
                let status = ActStatus::of(Status::parse(&status)?)?;
                if status == ActStatus::Rejected {
                    let (reason, detail) = (reason.unwrap_or_default(), detail.unwrap_or_default());
                    return Some(Self::Refused { reason, detail });
                }
                let quarantine = quarantine.as_deref().and_then(QuarantineLevel::parse);
                Self::Done(ActOutcome {
                    status,
                    reason,
                    detail,
                    release,
                    quarantine,
                    stopped_again,
                    keeps_stopped,
                    output,
                    attachment: None,
                })
            }
        })
    }

    /// The datagram that [`Answer::parse`] reads back. An output that would make it too long loses its beginning.
    #[must_use]
    pub(crate) fn to_datagram(&self) -> Vec<u8> {
        let mut answer = self.clone();
        loop {
            let datagram = serde_json::to_vec(&AnswerWords::of(&answer)).unwrap_or_default();
            let Self::Done(ActOutcome { output: Some(output), .. }) = &mut answer else { return datagram };
            if datagram.len() <= DATAGRAM_MAX || output.is_empty() {
                return datagram;
            }
            // JSON writes a control character in six bytes: how much has to go is found by halving.
            *output = tail(output, output.len() / 2).to_owned();
        }
    }
}

/// What the agent does of its own accord reads as a rule's: root has the same answer to both.
fn trigger_of(text: &str) -> Option<Trigger> {
    let plain = |name: &str| (1..=RULE_LEN_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
    match text.split_once(':')? {
        ("command", id) => CommandId::parse(id).map(Trigger::Command),
        ("rule", name) if plain(name) => Some(Trigger::Rule(name.to_owned())),
        _ => None,
    }
}

/// A request as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestWords {
    v: u8,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    hello: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    act: Option<ActWords>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trigger: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    terms: Option<Terms>,
}

/// An act as it is written: a command's name and arguments, defaults spelled out.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "name", content = "args", rename_all = "snake_case", deny_unknown_fields)]
enum ActWords {
    RestartUnit {
        unit: String,
    },
    Run {
        runbook: String,
        #[serde(default)]
        args: Vec<String>,
    },
    RestartLink {
        interface: String,
    },
    Reboot {},
    Rollback {
        target: String,
        #[serde(default)]
        to: Option<String>,
    },
    MarkGood {
        target: String,
    },
    Quarantine {
        level: String,
    },
    Release {},
    Refresh {
        level: String,
        wide: bool,
    },
    CollectDiagnostics {},
    SavePower {},
}

impl ActWords {
    fn of(act: &Act) -> Self {
        match act.clone() {
            Act::RestartUnit { unit } => Self::RestartUnit { unit: unit.as_str().to_owned() },
            Act::Run { runbook, args } => Self::Run { runbook, args },
            Act::RestartLink { interface } => Self::RestartLink { interface },
            Act::Reboot => Self::Reboot {},
            Act::Rollback { target, to } => Self::Rollback { target, to },
            Act::MarkGood { target } => Self::MarkGood { target },
            Act::Quarantine { level: Some(level) } => Self::Quarantine { level: level.word().to_owned() },
            Act::Quarantine { level: None } => Self::Release {},
            Act::Refresh { level, wide } => Self::Refresh { level: level.word().to_owned(), wide },
            Act::CollectDiagnostics => Self::CollectDiagnostics {},
            Act::SavePower => Self::SavePower {},
        }
    }

    /// Names are held against root's lists later, which no path and no option is on; what stands on no list has to be
    /// fit to be handed to a program.
    fn parse(self) -> Result<Act, String> {
        match &self {
            Self::Run { args, .. } if !are_arguments(args) => return Err("too many arguments, or a NUL in one".into()),
            Self::Rollback { to: Some(to), .. } if !is_release(to) => return Err(format!("{to:?} names no release")),
            _ => {}
        }
        Ok(match self {
            Self::RestartUnit { unit } => {
                Act::RestartUnit { unit: UnitName::parse(&unit).map_err(|error| error.to_string())? }
            }
            Self::Run { runbook, args } => Act::Run { runbook, args },
            Self::RestartLink { interface } => Act::RestartLink { interface },
            Self::Reboot {} => Act::Reboot,
            Self::Rollback { target, to } => Act::Rollback { target, to },
            Self::MarkGood { target } => Act::MarkGood { target },
            Self::Quarantine { level } => Act::Quarantine { level: Some(level_of(&level)?) },
            Self::Release {} => Act::Quarantine { level: None },
            Self::Refresh { level, wide } => Act::Refresh { level: level_of(&level)?, wide },
            Self::CollectDiagnostics {} => Act::CollectDiagnostics,
            Self::SavePower {} => Act::SavePower,
        })
    }
}

fn level_of(word: &str) -> Result<QuarantineLevel, String> {
    QuarantineLevel::parse(word).ok_or_else(|| format!("{word:?} is no level"))
}

/// An answer as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum AnswerWords {
    Able {
        able: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        withheld: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quarantine: Option<String>,
    },
    Progress {
        progress: u8,
    },
    End {
        status: String,
        reason: Option<String>,
        detail: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        release: Option<Box<str>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quarantine: Option<String>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stopped_again: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keeps_stopped: bool,
        output: Option<String>,
    },
}

impl AnswerWords {
    fn of(answer: &Answer) -> Self {
        match answer.clone() {
            Answer::Able(Able { actions, withheld, quarantine }) => Self::Able {
                able: actions.iter().map(|action| action.word().to_owned()).collect(),
                withheld: withheld.iter().map(|action| action.word().to_owned()).collect(),
                quarantine: quarantine.map(|level| level.word().to_owned()),
            },
            Answer::Progress(progress) => Self::Progress { progress },
            Answer::Refused { reason, detail } => Self::of(&Answer::Done(ActOutcome::rejected(reason, detail))),
            Answer::Done(outcome) => Self::End {
                status: outcome.status.status().word().to_owned(),
                reason: outcome.reason,
                detail: outcome.detail,
                release: outcome.release,
                quarantine: outcome.quarantine.map(|level| level.word().to_owned()),
                stopped_again: outcome.stopped_again,
                keeps_stopped: outcome.keeps_stopped,
                output: outcome.output,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        let network = "192.0.2.0/24".parse().unwrap();
        let stop = vec![UnitName::parse("app.service").unwrap()];
        let broker = vec!["[2001:db8::1]:8883".parse().unwrap()];
        Terms { broker, port: 8883, hosts: vec![network], hosts_missing: true, stop }
    }

    #[test]
    fn every_act_is_read_back_as_it_was_written() {
        let unit = UnitName::parse("app.service").unwrap();
        let acts = [
            Act::RestartUnit { unit },
            Act::Run { runbook: "fix".into(), args: vec!["--all".into()] },
            Act::RestartLink { interface: "wwan0".into() },
            Act::Reboot,
            Act::Rollback { target: "firmware".into(), to: Some("1.2".into()) },
            Act::Rollback { target: "firmware".into(), to: None },
            Act::MarkGood { target: "firmware".into() },
            Act::Quarantine { level: Some(QuarantineLevel::Restrict) },
            Act::Quarantine { level: None },
            Act::Refresh { level: QuarantineLevel::Isolate, wide: true },
            Act::CollectDiagnostics,
            Act::SavePower,
        ];
        let commanded = Trigger::Command(CommandId::parse("c-1").unwrap());
        for act in acts {
            for (trigger, token) in [(commanded.clone(), Some("a.b.c".to_owned())), (Trigger::Rule("hot".into()), None)]
            {
                let terms = (act.action() == Action::Quarantine).then(terms);
                let order = Order::new(act.clone(), trigger, token, Duration::from_secs(7));
                let order = Order { terms, asked: Some(Mono(81_244)), ..order };
                let request = Request::Act(Box::new(order));
                assert_eq!(Request::parse(&request.to_datagram()), Ok(request));
            }
        }
        assert_eq!(Request::parse(&Request::Hello.to_datagram()), Ok(Request::Hello));
    }

    #[test]
    fn a_request_of_any_other_form_is_refused_as_malformed() {
        let act = r#""act":{"name":"reboot","args":{}},"timeout_s":5"#;
        let wrong = [
            String::new(),
            "null".into(),
            "[".repeat(60_000),
            r#"{"v":2,"hello":true}"#.into(),
            r#"{"v":1}"#.into(),
            format!(r#"{{"v":1,{act}}}"#),
            format!(r#"{{"v":1,"hello":true,{act},"trigger":"rule:x"}}"#),
            format!(r#"{{"v":1,{act},"trigger":"rule:x","more":1}}"#),
            format!(r#"{{"v":1,{act},"trigger":"rule:"}}"#),
            format!(r#"{{"v":1,{act},"trigger":"command:../x"}}"#),
            r#"{"v":1,"act":{"name":"reboot","args":{}},"timeout_s":0,"trigger":"rule:x"}"#.into(),
            r#"{"v":1,"act":{"name":"reboot","args":{"now":1}},"timeout_s":5,"trigger":"rule:x"}"#.into(),
            r#"{"v":1,"act":{"name":"exec","args":{}},"timeout_s":5,"trigger":"rule:x"}"#.into(),
            r#"{"v":1,"act":{"name":"restart_unit","args":{"unit":"../x"}},"timeout_s":5,"trigger":"rule:x"}"#.into(),
            r#"{"v":1,"act":{"name":"run","args":{"runbook":"x","args":["a\u0000b"]}},"timeout_s":5,"trigger":"rule:x"}"#.into(),
            r#"{"v":1,"act":{"name":"rollback","args":{"target":"x","to":"1\n2"}},"timeout_s":5,"trigger":"rule:x"}"#.into(),
            format!(
                r#"{{"v":1,"act":{{"name":"run","args":{{"runbook":"x","args":{:?}}}}},"timeout_s":5,"trigger":"rule:x"}}"#,
                vec!["a"; 65]
            ),
        ];
        for datagram in wrong {
            let shown: String = datagram.chars().take(100).collect();
            let refused = Request::parse(datagram.as_bytes()).expect_err(&shown);
            assert_eq!(refused.reason, "malformed", "{shown}");
        }
    }

    #[test]
    fn an_answer_keeps_the_end_of_an_output_that_is_too_long() {
        let output = format!("{}the end", "\u{1}".repeat(20_000));
        let outcome = ActOutcome { output: Some(output), ..ActOutcome::succeeded("done") };
        let datagram = Answer::Done(outcome).to_datagram();
        assert!(datagram.len() <= DATAGRAM_MAX, "{} B", datagram.len());
        let Some(Answer::Done(outcome)) = Answer::parse(&datagram) else { panic!("no answer") };
        assert!(outcome.output.unwrap().ends_with("\u{1}the end"));
        // What is too long of something else is not waited for.
        let outcome = ActOutcome { output: Some("the end".into()), ..ActOutcome::succeeded("d".repeat(DATAGRAM_MAX)) };
        let datagram = Answer::Done(outcome).to_datagram();
        assert_eq!(Answer::parse(&datagram).map(|_| datagram.len() > DATAGRAM_MAX), Some(true));
    }

    #[test]
    fn answers_are_read_back_as_they_were_written() {
        let answers = [
            Answer::Able(Able { actions: [Action::Run, Action::Reboot].into(), ..Able::default() }),
            Answer::Able(Able {
                actions: [].into(),
                withheld: [Action::Rollback].into(),
                quarantine: Some(QuarantineLevel::Isolate),
            }),
            Answer::Progress(40),
            Answer::Done(ActOutcome::timed_out("late")),
            Answer::Done(ActOutcome { release: Some("2.0".into()), ..ActOutcome::succeeded("2.0 is good") }),
            Answer::Done(ActOutcome {
                quarantine: Some(QuarantineLevel::Restrict),
                stopped_again: true,
                keeps_stopped: true,
                ..ActOutcome::succeeded("done")
            }),
            Answer::Refused { reason: "replayed".into(), detail: "again".into() },
        ];
        for answer in answers {
            assert_eq!(Answer::parse(&answer.to_datagram()), Some(answer));
        }
        assert_eq!(Answer::parse(b"{}"), None);
    }
}
