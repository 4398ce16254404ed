//! Acts on the gateway: restarts units, runs runbooks. It does what it is told, once, within its time, and says how it
//! ended; whether it may is decided before (the engine). Several acts run side by side; how many is the engine's bound.
//! It acts itself, or has root's helper act, which decides again; never both.

pub mod client;
pub mod diagnostics;
pub mod jobs;
pub mod link;
pub(crate) mod object;
pub mod program;
pub mod quarantine;
pub mod rollback;
pub mod runbook;
pub mod supervisor;
pub mod systemd;
pub mod transient;
pub mod units;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::collect::inhibit::inhibited;
use crate::config::{Action, QuarantineLevel, UnitName};
use crate::engine::io::{Act, ActOutcome, ActStatus, Ending, Trigger};
use crate::engine::time::Mono;
use crate::wire::Reason;
use client::Client;
use diagnostics::Diagnostics;
use link::Interfaces;
use program::Program;
use quarantine::Quarantine;
use quarantine::terms::{Source, Terms};
use rollback::Rollbacks;
use units::Manager;

/// How long to wait before a helper that didn't say what it may do is asked again: the first time, and at most.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(256);

/// Something to do, and on whose word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub act: Act,
    /// Who wants it.
    pub trigger: Trigger,
    /// The command as it was received, where a command wants it: whoever acts may check it again.
    pub token: Option<String>,
    /// When to give up.
    pub timeout: Duration,
    /// For a quarantine: who stays in reach. Whoever acts may have no network to find that out.
    pub terms: Option<Terms>,
    /// When another process was asked for it: once the timeout has passed since then it is not begun any more.
    pub asked: Option<Mono>,
}

impl Order {
    /// An order for an act of this trigger.
    #[must_use]
    pub const fn new(act: Act, trigger: Trigger, token: Option<String>, timeout: Duration) -> Self {
        Self { act, trigger, token, timeout, terms: None, asked: None }
    }
}

/// What whoever acts on a gateway says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Able {
    /// What there are means for, and leave.
    pub actions: BTreeSet<Action>,
    /// What there are means for, and root's policy doesn't allow.
    pub withheld: BTreeSet<Action>,
    /// The quarantine that is in force, whatever the agent's own journal says.
    pub quarantine: Option<QuarantineLevel>,
}

/// What acts on this gateway.
#[derive(Debug)]
pub struct Actor {
    units: Manager,
    runbooks: PathBuf,
    /// Runbooks are run by PID 1, outside of what confines this process.
    apart: bool,
    interfaces: Interfaces,
    rollbacks: Rollbacks,
    /// What the agent itself may see, also where a helper does the rest.
    diagnostics: Option<Diagnostics>,
    /// How a quarantine is put in force, where it can be.
    quarantine: Option<Quarantine>,
    /// What the terms of one are made of, where the network can be asked.
    source: Option<Source>,
    /// Where there is one, nothing is done here: everything goes by it.
    helper: Option<Client>,
    /// Where the file is that inhibits automatic remedies, if that is asked here.
    inhibited_below: Option<PathBuf>,
}

impl Actor {
    /// Restarts units by this manager, and runs runbooks of this directory.
    #[must_use]
    pub fn new(units: Manager, runbooks: PathBuf) -> Self {
        Self {
            units,
            runbooks,
            apart: false,
            interfaces: Interfaces::None,
            rollbacks: Rollbacks::default(),
            diagnostics: None,
            quarantine: None,
            source: None,
            helper: None,
            inhibited_below: None,
        }
    }

    /// The same, with runbooks as units of their own.
    #[must_use]
    pub const fn running_apart(mut self, apart: bool) -> Self {
        self.apart = apart;
        self
    }

    /// The same, and able to restart interfaces.
    #[must_use]
    pub fn with_interfaces(mut self, interfaces: Interfaces) -> Self {
        self.interfaces = interfaces;
        self
    }

    /// The same, and able to go back to earlier releases.
    #[must_use]
    pub fn with_rollbacks(mut self, rollbacks: Rollbacks) -> Self {
        self.rollbacks = rollbacks;
        self
    }

    /// The same, and able to take snapshots.
    #[must_use]
    pub fn with_diagnostics(mut self, diagnostics: Diagnostics) -> Self {
        self.diagnostics = Some(diagnostics);
        self
    }

    /// The same, and able to put a quarantine in force.
    #[must_use]
    pub fn with_quarantine(mut self, quarantine: Quarantine) -> Self {
        self.quarantine = Some(quarantine);
        self
    }

    /// The same, and it finds out what the terms of a quarantine are.
    #[must_use]
    pub fn on_terms_of(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    /// The same, but all by root's helper where there is one that listens on `socket`.
    #[must_use]
    pub fn behind(self, socket: &Path) -> Self {
        Self { helper: Client::find(socket), ..self }
    }

    /// The same, and it does nothing by the gateway's own will while the file that inhibits that is there, below `root`
    /// or on this machine.
    #[must_use]
    pub fn inhibited_below(self, root: PathBuf) -> Self {
        Self { inhibited_below: Some(root), ..self }
    }

    /// What can be done here at all, of which the engine refuses the rest before it is tried, and what is in force. A
    /// helper that is silent is taken for able to do all: it judges again what it is asked for, and what is not asked
    /// for because of a slow start, as the release from a quarantine, would not be done at all.
    #[must_use]
    pub fn able(&self) -> Able {
        if let Some(able) = self.able_by_helper() {
            return able;
        }
        let behind = self.helper.is_some();
        let mut able = self.units.able();
        able.insert(Action::Run);
        if behind || self.interfaces != Interfaces::None {
            able.insert(Action::RestartLink);
        }
        if behind || !self.rollbacks.is_empty() {
            able.insert(Action::Rollback);
        }
        if behind || self.quarantine.is_some() {
            able.insert(Action::Quarantine);
        }
        if self.diagnostics.is_some() {
            able.insert(Action::CollectDiagnostics);
        }
        let quarantine = self.quarantine.as_ref().and_then(Quarantine::in_force);
        Able { actions: able, withheld: BTreeSet::new(), quarantine }
    }

    /// The same where root's helper says it; `None`: there is none, or it doesn't answer.
    #[must_use]
    pub fn able_by_helper(&self) -> Option<Able> {
        let mut able = self.helper.as_ref()?.able()?;
        able.actions.extend(self.diagnostics.as_ref().map(|_| Action::CollectDiagnostics));
        Some(able)
    }

    /// The same, asked again until it answers, or until the other end of `wanted` is gone; blocks until then.
    #[must_use]
    pub fn able_by_helper_at_last(&self, wanted: &mpsc::Receiver<()>) -> Option<Able> {
        let mut pause = ASK_AGAIN_MIN;
        while self.helper.is_some() {
            let able = self.able_by_helper();
            if able.is_some() || wanted.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return able;
            }
            pause = ASK_AGAIN_MAX.min(pause * 2);
        }
        None
    }

    /// There is a helper that has not said what it may do when it was asked last.
    #[must_use]
    pub fn has_silent_helper(&self) -> bool {
        self.helper.as_ref().is_some_and(Client::is_silent)
    }

    /// Brings to an end what was cut off, as by a kill, for as long as this is polled: where there is a helper that is
    /// its own to do.
    pub async fn complete(&self) -> Infallible {
        if self.helper.is_some() {
            return std::future::pending().await;
        }
        rollback::complete_due(|| self.rollbacks.clone(), || self.keeps_stopped()).await
    }

    fn keeps_stopped(&self) -> Vec<UnitName> {
        self.quarantine.as_ref().map(Quarantine::keeps_stopped).unwrap_or_default()
    }

    /// Does it, within the timeout, unless it is canceled; `progress` gets percentages on the way.
    pub async fn perform(
        &self,
        mut order: Order,
        canceled: oneshot::Receiver<()>,
        progress: impl FnMut(u8) + Send,
    ) -> ActOutcome {
        // To mark what runs as good changes nothing, and a boot loader that counts boots doesn't wait for a fitter.
        let is_remedy = order.trigger.is_remedy() && !matches!(order.act, Act::MarkGood { .. });
        let root = self.inhibited_below.as_deref().filter(|_| is_remedy);
        if let Some(why) = root.and_then(inhibited) {
            return ActOutcome::rejected(Reason::Inhibited, why);
        }
        let mut missing = Vec::new();
        if let (Act::Quarantine { level: Some(_) } | Act::Refresh { .. }, Some(source)) = (&order.act, &self.source) {
            let (terms, not_found) = source.terms().await;
            order.terms = Some(terms);
            missing = not_found;
        }
        let mut outcome = match &self.helper {
            // What the agent may see, and no more: a snapshot is no reason to ask root.
            Some(helper) if order.act != Act::CollectDiagnostics => helper.perform(order, canceled, progress).await,
            _ => self.perform_here(order, canceled, progress).await,
        };
        if outcome.status == ActStatus::Succeeded && !missing.is_empty() {
            let detail = outcome.detail.unwrap_or_default();
            outcome.detail = Some(format!("{detail}; no address was found for: {}", missing.join(", ")));
        }
        outcome
    }

    /// The same for the agent, which keeps the end of a rollback back while the machine goes down: what that cuts off
    /// the next boot judges, by the release that it runs, and as after a crash nothing is said of it before. Root's
    /// helper says at once how it ended: the agent waits for it no longer than for the act.
    pub async fn perform_or_go_down(
        &self,
        order: Order,
        canceled: oneshot::Receiver<()>,
        progress: impl FnMut(u8) + Send,
    ) -> ActOutcome {
        self.perform_unless(systemd::outwait_shutdown(), order, canceled, progress).await
    }

    async fn perform_unless(
        &self,
        down: impl Future<Output = ()>,
        order: Order,
        canceled: oneshot::Receiver<()>,
        progress: impl FnMut(u8) + Send,
    ) -> ActOutcome {
        let goes_back = matches!(order.act, Act::Rollback { .. });
        let outcome = self.perform(order, canceled, progress).await;
        if goes_back && may_be_cut_off(&outcome) {
            down.await;
        }
        outcome
    }

    async fn perform_here(
        &self,
        order: Order,
        mut canceled: oneshot::Receiver<()>,
        mut progress: impl FnMut(u8) + Send,
    ) -> ActOutcome {
        let Order { act, trigger, timeout, terms, .. } = order;
        let whose = match &trigger {
            Trigger::Command(id) => ("FIELDMEDIC_COMMAND_ID", id.as_str()),
            Trigger::Rule(rule) => ("FIELDMEDIC_RULE", rule.as_str()),
            Trigger::Own(own) => ("FIELDMEDIC_RULE", own.word()),
        };
        let terms = terms.unwrap_or_default();
        let kept =
            self.quarantine.as_ref().and_then(|quarantine| quarantine.keeps_from(&act, self.rollbacks.targets()));
        if let Some(detail) = kept {
            return ActOutcome::rejected(Reason::Quarantined, detail);
        }
        if let (Act::CollectDiagnostics, Some(diagnostics)) = (&act, &self.diagnostics) {
            return diagnostics.take(timeout, canceled).await;
        }
        if let (Act::Quarantine { .. } | Act::Refresh { .. }, Some(quarantine)) = (&act, &self.quarantine) {
            tokio::select! {
                () = quarantine.turn_comes() => {}
                // The sender goes with the completion, so an error here means that nobody can cancel any more.
                Ok(()) = &mut canceled => return ActOutcome::taken_back("canceled before it was begun"),
            }
        }
        match (act, &self.quarantine) {
            (Act::RestartUnit { unit }, _) => self.units.restart(&unit, timeout, canceled).await,
            (Act::Run { runbook, args }, _) => match runbook::resolve(&self.runbooks, &runbook, timeout).await {
                Ok(path) => {
                    let env = [whose];
                    let program = Program::new(&path, &args, &env);
                    let (apart, refused) = (self.apart, Ending::RunbookRefused);
                    let progress = &mut progress;
                    transient::run_where(apart, program, &runbook, refused, timeout, canceled, progress).await.outcome
                }
                Err(refusal) => refusal,
            },
            (Act::RestartLink { interface }, _) => self.interfaces.restart(&interface, timeout, canceled).await,
            (Act::Rollback { target, to }, _) => {
                let keeps_stopped = || self.keeps_stopped();
                self.rollbacks.rollback(&target, to.as_deref(), timeout, keeps_stopped, canceled).await
            }
            (Act::MarkGood { target }, _) => self.rollbacks.mark_good(&target, timeout, canceled).await,
            (Act::Reboot, _) => self.units.reboot(timeout).await,
            (Act::Quarantine { level: Some(level) }, Some(quarantine)) => quarantine.enter(level, terms).await,
            (Act::Quarantine { level: None }, Some(quarantine)) => quarantine.leave().await,
            (Act::Refresh { level, wide }, Some(quarantine)) => quarantine.refresh(level, wide, terms).await,
            // Not among what `able` names, so the engine does not ask for it.
            (act, _) => {
                ActOutcome::failed(Reason::NotSupported, format!("this gateway has no means to {}", act.action()))
            }
        }
    }
}

/// Whether a machine that goes down would have ended a rollback so.
fn may_be_cut_off(outcome: &ActOutcome) -> bool {
    outcome.status == ActStatus::Interrupted || outcome.ending() == Some(Ending::UnitFailed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::tests::write_tree;
    use crate::engine::io::Own;
    use crate::wire::CommandId;

    #[tokio::test]
    async fn a_quarantine_that_is_canceled_while_it_waits_for_its_turn_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let turn = std::sync::Arc::default();
        let quarantine = Quarantine::new(dir.path().to_owned(), quarantine::Loader::None, 0);
        let quarantine = quarantine.in_turn(std::sync::Arc::clone(&turn));
        let actor = Actor::new(Manager::Systemd, "/nonexistent".into()).with_quarantine(quarantine);
        let (cancel, canceled) = oneshot::channel();
        let act = Act::Quarantine { level: Some(QuarantineLevel::Observe) };
        let order = Order::new(act, Trigger::Rule("hot".into()), None, Duration::from_secs(5));
        let _another = turn.lock().await;
        cancel.send(()).unwrap();
        let outcome = actor.perform(order, canceled, |_| ()).await;
        assert_eq!((outcome.status, actor.able().quarantine), (ActStatus::Canceled, None), "{outcome:?}");
    }

    #[tokio::test]
    async fn nothing_is_said_of_a_rollback_that_is_cut_off_before_the_machine_is_down_or_stays_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("act.sock");
        let helper = client::tests::ending(&socket, ActOutcome::failed(Ending::UnitFailed, "the job was canceled"), 4);
        let actor = Actor::new(Manager::Systemd, "/nonexistent".into()).behind(&socket);
        let target = || "app".to_owned();
        let (back, good) = (Act::Rollback { target: target(), to: None }, Act::MarkGood { target: target() });
        for (act, waits) in [(back, true), (good, false)] {
            // That the machine goes down takes longer than the act may.
            let order = Order::new(act, Trigger::Rule("hot".into()), None, Duration::ZERO);
            let (_keep, canceled) = oneshot::channel();
            let (asked, is_asked) = oneshot::channel();
            let down = async {
                asked.send(()).unwrap();
                std::future::pending::<()>().await;
            };
            let said = tokio::select! {
                outcome = actor.perform_unless(down, order.clone(), canceled, |_| ()) => Some(outcome),
                Ok(()) = is_asked => None,
            };
            assert_eq!(said.is_none(), waits, "{said:?}");
            let (_keep, canceled) = oneshot::channel();
            let outcome = actor.perform_unless(std::future::ready(()), order, canceled, |_| ()).await;
            assert_eq!(outcome.reason.as_deref(), Some("unit_failed"), "it stays up: {outcome:?}");
        }
        helper.join().unwrap();
    }

    #[tokio::test]
    async fn while_remedies_are_inhibited_only_a_command_and_what_goes_on_are_done() {
        let tree = tempfile::tempdir().unwrap();
        write_tree(tree.path(), &[("run/fieldmedic/inhibit", "the fitter is here\n")]);
        let actor = Actor::new(Manager::Systemd, tree.path().join("none")).inhibited_below(tree.path().to_owned());
        let command = Trigger::Command(CommandId::parse("c-1").unwrap());
        let rule = |name: &str| Trigger::Rule(name.to_owned());
        let own = Trigger::Own;
        let run = Act::Run { runbook: "tidy".to_owned(), args: Vec::new() };
        let target = || "app".to_owned();
        for (trigger, act, inhibits) in [
            (rule("full"), run.clone(), true),
            // Rules may have the names that the agent's own doings are told by.
            (rule("rollback"), run.clone(), true),
            (rule("quarantine"), run.clone(), true),
            (own(Own::Trial), Act::Rollback { target: target(), to: None }, true),
            (own(Own::Trial), Act::MarkGood { target: target() }, false),
            (own(Own::Quarantine), run.clone(), false),
            (own(Own::Rollback), run.clone(), false),
            (command, run, false),
        ] {
            let (_keep, canceled) = oneshot::channel();
            let order = Order::new(act, trigger.clone(), None, Duration::from_secs(5));
            let outcome = actor.perform(order, canceled, |_| {}).await;
            let is_inhibited = outcome.status == ActStatus::Rejected && outcome.reason.as_deref() == Some("inhibited");
            assert_eq!(is_inhibited, inhibits, "{trigger}: {outcome:?}");
            assert!(!inhibits || outcome.detail.is_some_and(|detail| detail.contains("the fitter")), "{trigger}");
        }
    }
}
