//! A command as it is remembered: what stands of it in the journal, what is known besides as long as this run lasts,
//! and what is told of both. Decides nothing: where a command stands is set by whoever brought it there.

use std::time::Duration;

use minicbor::{Decode, Encode};

use super::Facts;
use super::judge::has_expired;
use crate::config::CheckedConfig;
use crate::engine::Identity;
use crate::engine::admission::Refusal;
use crate::engine::budget::Spending;
use crate::engine::command::{Command, Name};
use crate::engine::io::{Act, Trigger};
use crate::engine::keyed::{COMMAND_KEY, Write, write};
use crate::engine::reboot::CutOff;
use crate::engine::record::{CommandResult, Event, Status};
use crate::engine::time::{BootId, Mono};
use crate::text;
use crate::wire::token::{self, Audience};
use crate::wire::{CommandId, Reason, VerifiedCommand};

/// Keeps an entry of the ledger well under the keyed store's limit on a value.
const KEPT_TEXT_MAX: usize = 2_048;

/// A command in the ledger.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) stored: Stored,
    /// What it asks; `None` for one that came from the disk and won't run again.
    pub(super) command: Option<Command>,
    /// How it came, until it has begun.
    pub(super) origin: Option<Origin>,
    /// It carries this run's nonce: by no clock but that since boot it is valid until then.
    pub(super) fresh_until: Option<Mono>,
    /// One of a group's waits for its own turn until then, and what a new look is to judge for that.
    pub(super) begins_at: Option<Mono>,
    /// There was that look.
    pub(super) looked_for: bool,
    /// The messages to acknowledge once this is durable: it may have come more than once until then.
    pub(super) pkids: Vec<u16>,
    pub(super) durable: bool,
    pub(super) timeout: Option<Duration>,
    /// What its act has spent.
    pub(super) spending: Option<Spending>,
    /// All that is kept of what it printed, until that was reported; the journal keeps the end of it.
    pub(super) output: Option<Box<str>>,
    pub(super) progress_pct: u8,
    /// The seq under which its terminal status was last put into the outbox, unless that has given it up.
    pub(super) report_seq: Option<u64>,
    /// How it ended is on its way to the disk: it is told from there.
    pub(super) ending: bool,
}

/// A command as it came.
#[derive(Debug)]
pub(super) struct Origin {
    message: Box<str>,
    is_signed: bool,
    /// The group on whose topic it came.
    group: Option<String>,
}

/// A command as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Stored {
    #[n(0)]
    pub(super) name: Box<str>,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(super) digest: [u8; 32],
    #[n(2)]
    pub(super) expires_at: i64,
    #[n(3)]
    pub(super) status: Status,
    #[n(4)]
    pub(super) reason: Option<Box<str>>,
    #[n(5)]
    pub(super) detail: Option<Box<str>>,
    #[n(6)]
    pub(super) output: Option<Box<str>>,
    /// The terminal status reached the outbox.
    #[n(7)]
    pub(super) reported: bool,
    /// The boot in which it began: a reboot is judged by it.
    #[n(8)]
    pub(super) boot: Option<BootId>,
    /// What it works on.
    #[n(9)]
    pub(super) target: Option<Box<str>>,
    /// Its `iat`.
    #[n(10)]
    pub(super) issued_at: i64,
    /// A reboot whose goodbye has not begun, be it under way: the machine was not told to.
    #[n(11)]
    #[cbor(default)]
    pub(super) unannounced: bool,
    /// The release that it leaves, where it is known: another boot tells whether it did.
    #[n(12)]
    pub(super) leaves: Option<Box<str>>,
    /// Under which seq it did that: the outbox may give it up yet.
    #[n(13)]
    pub(super) seq: Option<u64>,
}

impl Entry {
    /// Whether it can't be valid any more, after it has waited.
    pub(super) fn has_expired(&self, facts: Facts<'_>) -> bool {
        self.fresh_until.is_some_and(|until| until < facts.now.mono)
            || has_expired(facts, self.stored.expires_at, self.fresh_until.is_some())
    }

    pub(super) fn new(stored: Stored) -> Self {
        Self {
            stored,
            command: None,
            origin: None,
            fresh_until: None,
            begins_at: None,
            looked_for: false,
            pkids: Vec::new(),
            durable: false,
            timeout: None,
            spending: None,
            output: None,
            progress_pct: 0,
            report_seq: None,
            ending: false,
        }
    }

    /// What it would do to the gateway, until it has ended.
    pub(super) fn act(&self) -> Option<&Act> {
        self.command.as_ref().and_then(Command::act)
    }

    /// It has ended, and the fleet will hear of it, were it after a crash.
    pub(super) fn is_over(&self) -> bool {
        self.stored.status.is_terminal() && self.stored.reported
    }

    /// How it ended: it does nothing any more.
    pub(super) fn end(&mut self, status: Status, reason: Option<&str>, detail: Option<&str>) {
        self.command = None;
        self.origin = None;
        self.stored.status = status;
        self.stored.reason = reason.map(Into::into);
        self.stored.detail = detail.map(|text| tail(text).into());
    }

    /// What it printed: all of it until that was reported, and its end for whoever asks again.
    pub(super) fn keep_output(&mut self, output: Option<String>) {
        self.stored.output = output.as_deref().map(|text| kept(text).into());
        self.output = output.map(Into::into);
    }

    /// The contract's `remediation` event of a command that acts on the gateway: as of a ladder's step. One that was
    /// refused is told of as such, but for what a dry run would have done.
    pub(super) fn remediation(&self, id: &CommandId) -> Option<Event> {
        let Stored { name, status, reason, boot, target, .. } = &self.stored;
        let is_dry = reason.as_deref() == Some(Reason::DryRun.word());
        if !self.stored.name().is_some_and(Name::is_remedy) || *status == Status::Queued || (boot.is_none() && !is_dry)
        {
            return None;
        }
        let trigger = Trigger::Command(id.clone()).to_string();
        let event = Event::remediation(status.severity(), name, id.as_str(), &trigger)
            .with("action", &**name)
            .with_some("target", target.as_deref())
            .with("status", status.word())
            .with_some("reason", reason.as_deref());
        Some(event.with_some("detail", self.stored.detail.as_deref().filter(|_| is_dry)))
    }
}

impl Origin {
    pub(super) fn of(command: &VerifiedCommand) -> Self {
        Self { message: command.message.clone(), is_signed: command.token().is_some(), group: command.group.clone() }
    }

    /// How it was signed, where it was.
    pub(super) fn token(&self) -> Option<&str> {
        self.is_signed.then_some(&self.message)
    }

    /// Verifies it once more: its key may have been taken away since, or the gateway have left the group.
    pub(super) fn verify(&self, config: &CheckedConfig) -> Result<(), Refusal> {
        let audience = Audience::of(&config.device);
        let verified = token::verify(self.message.as_bytes(), &audience, self.group.as_deref(), &config.commands);
        verified.map(drop).map_err(|refusal| (refusal.reason, refusal.detail))
    }
}

impl Stored {
    /// In the place of an entry that can't be read.
    pub(super) fn unreadable() -> Self {
        Self {
            name: "?".into(),
            digest: [0; 32],
            expires_at: i64::MAX,
            status: Status::Interrupted,
            reason: None,
            detail: None,
            output: None,
            reported: true,
            boot: None,
            target: None,
            leaves: None,
            seq: None,
            issued_at: i64::MAX,
            unannounced: false,
        }
    }

    pub(super) fn new(command: &VerifiedCommand, status: Status) -> Self {
        Self {
            name: command.name.as_str().into(),
            digest: command.digest,
            expires_at: command.expires_at,
            status,
            reason: None,
            detail: None,
            output: None,
            reported: false,
            boot: None,
            target: None,
            leaves: None,
            seq: None,
            issued_at: command.issued_at,
            unannounced: false,
        }
    }

    /// Which command it is; `None`: of another version, or unreadable.
    pub(super) fn name(&self) -> Option<Name> {
        Name::parse(&self.name)
    }

    /// How it ended, with its reason and detail, if the agent stopped before it had.
    pub(super) fn end_of_cut_off(&self, identity: &Identity) -> Option<(Status, Option<&'static str>, String)> {
        let is_other_boot = self.boot.is_some_and(|began| began != identity.boot);
        match self.status {
            Status::InProgress if !self.unannounced || is_other_boot => {
                let cut_off = CutOff {
                    name: &self.name,
                    target: self.target.as_deref(),
                    is_done: self.reason.as_deref() == Some(Reason::NeedsReboot.word()),
                    leaves: self.leaves.as_deref(),
                    is_other_boot,
                };
                Some(cut_off.judge(identity))
            }
            Status::Queued | Status::InProgress => {
                let detail = "the agent stopped before it began".to_owned();
                Some((Status::Canceled, Some(Reason::Interrupted.word()), detail))
            }
            _ => None,
        }
    }

    /// What is told of it.
    pub(super) fn result(&self, id: &CommandId) -> CommandResult {
        CommandResult {
            command_id: Some(id.as_str().into()),
            command: Some(self.name.clone()),
            status: self.status,
            reason: self.reason.clone(),
            detail: self.detail.clone(),
            output: self.output.clone(),
            progress_pct: None,
            part: None,
        }
    }
}

pub(super) fn key(id: &CommandId) -> String {
    format!("{COMMAND_KEY}{id}")
}

pub(super) fn put(id: &CommandId, stored: &Stored) -> Write {
    write(key(id), stored)
}

/// The end of a text: what a program says last is what matters.
pub(super) fn tail(text: &str) -> &str {
    text::tail(text, KEPT_TEXT_MAX)
}

/// What of an output is kept for whoever asks again, and that it is not all.
fn kept(output: &str) -> String {
    let end = tail(output);
    match output.len() - end.len() {
        0 => end.to_owned(),
        left_out => format!("… {left_out} B before this were told once and are not kept\n{end}"),
    }
}
