//! Serves the socket: one request a connection, so many connections, so many requests a second. Each request is judged
//! by the policy as it stands in the file now, and what is refused is told to the agent and to the log. What runs ends
//! with the connection that asked for it.

#![expect(clippy::disallowed_methods, reason = "the helper's tasks and their bounds are here")]

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::judge::judge;
use super::ledger::{Ledger, Moment};
use super::link::{Link, Received};
use super::pace::{self, Lines, Strangers, Told};
use super::policy::Policy;
use super::protocol::{Answer, Refusal, Request};
use crate::act::link::Interfaces;
use crate::act::quarantine::{self, Loader, Quarantine};
use crate::act::rollback::{Rollbacks, complete_due};
use crate::act::units::Manager;
use crate::act::{Actor, Order};
use crate::bucket::Bucket;
use crate::collect::clock::Clock;
use crate::config::{Action, QuarantineLevel};
use crate::engine::io::{Act, ActOutcome, ActStatus, Ending};
use crate::engine::remedies::spends_nothing;
use crate::engine::time::{BootId, Mono};
use crate::wire::Reason;

/// Connections at a time, and so acts at a time; one more is refused as `busy`.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may take to ask.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// How long to wait before accepting again when it failed.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How often it is looked whether what a quarantine stops runs again: soon after a start, which may be a boot, and then
/// seldom.
const STOP_AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];
/// An agent that looks itself does so each minute, and tells what it finds.
const AGENT_LOOKS_WITHIN: Duration = Duration::from_secs(150);

/// The helper.
#[derive(Debug)]
pub(super) struct Helper {
    policy: PathBuf,
    /// Where the state of a quarantine lies.
    dir: PathBuf,
    turn: Arc<tokio::sync::Mutex<()>>,
    boot: BootId,
    state: Mutex<State>,
}

/// What changes from request to request.
#[derive(Debug)]
struct State {
    clock: Clock,
    ledger: Ledger,
    requests: Bucket,
    refusals: Lines,
    /// When an agent last had a quarantine put in force, or in force again.
    held: Option<Mono>,
    /// Whom the policy named when it was read last.
    agent_uid: Option<u32>,
    /// Those whom it didn't name: apart from the agent, so that they use up none of its requests.
    strangers: Strangers,
}

/// What to do for a request.
enum Decision {
    Tell(Answer),
    /// `counted`: in the ledger, then.
    Act {
        order: Box<Order>,
        actor: Box<Actor>,
        counted: Option<Moment>,
        /// What of a quarantine root's policy leaves out.
        left_out: Option<String>,
    },
}

impl Helper {
    /// Goes by this policy and this ledger; keeps what it knows of a quarantine in `dir`.
    #[must_use]
    pub(super) fn new(policy: PathBuf, dir: PathBuf, boot: BootId, clock: Clock, ledger: Ledger) -> Self {
        let (requests, strangers, refusals) = (pace::requests(), Strangers::default(), Lines::default());
        let agent_uid = Policy::load(&policy).ok().and_then(|policy| policy.agent_uid);
        let state = State { clock, ledger, requests, refusals, held: None, agent_uid, strangers };
        Self { policy, dir, turn: Arc::default(), boot, state: Mutex::new(state) }
    }

    /// Serves until SIGTERM.
    ///
    /// # Errors
    /// The system gives no signals.
    pub(super) async fn serve(self, listener: UnixListener) -> io::Result<()> {
        let helper = Arc::new(self);
        let mut completing = std::pin::pin!(helper.complete_rollbacks());
        let mut holding = std::pin::pin!(helper.keep_stopped());
        let mut terminated = signal(SignalKind::terminate())?;
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                never = &mut completing => match never {},
                never = &mut holding => match never {},
                _ = terminated.recv() => return Ok(()),
            };
            let link = match accepted {
                Ok((stream, _)) => Link::new(stream),
                Err(error) => {
                    tracing::warn!("accept: {error}");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let uid = match link.peer_uid() {
                Ok(uid) => uid,
                Err(error) => {
                    tracing::debug!("connection: {error}");
                    continue;
                }
            };
            let place = helper.admit(uid).and_then(|()| {
                let full = || format!("{CONNECTIONS_MAX} connections are open already");
                Arc::clone(&places).try_acquire_owned().map_err(|_| Refusal::because(Reason::Busy, full()))
            });
            let place = match place {
                Ok(place) => place,
                Err(refusal) => {
                    link.try_send(&helper.refuse(refusal).to_datagram());
                    continue;
                }
            };
            let helper = Arc::clone(&helper);
            tokio::spawn(async move {
                if let Err(error) = helper.converse(&link, uid).await {
                    tracing::debug!("connection: {error}");
                }
                drop(place);
            });
        }
    }

    /// Tells the log of rollbacks that are set up by halves, and restarts what is due, without an end.
    async fn complete_rollbacks(&self) -> Infallible {
        for (target, wrong) in self.rollbacks().unfit().await {
            tracing::warn!("[rollback.{target}] could not go back as it is: {wrong}");
        }
        complete_due(|| self.rollbacks(), || quarantine::keeps_stopped(&self.dir)).await
    }

    /// Keeps stopped what a quarantine stops, where no agent has it done: after a boot it all runs again, and the agent
    /// may not.
    async fn keep_stopped(&self) -> Infallible {
        let quarantine = Quarantine::new(self.dir.clone(), Loader::None, 0).in_turn(Arc::clone(&self.turn));
        let [mut pause, seldom] = STOP_AGAIN;
        loop {
            // An agent that runs asks for it as it starts, and tells the fleet.
            sleep(pause).await;
            pause = (pause * 2).min(seldom);
            if !self.agent_looks() {
                match quarantine.stop_again().await {
                    Ok(stopped) => stopped.iter().for_each(|unit| tracing::warn!("quarantine: {unit} ran: stopped")),
                    Err(error) => tracing::warn!("quarantine: what it stops may run: {error}"),
                }
            }
        }
    }

    fn agent_looks(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = state.clock.now().mono;
        state.held.is_some_and(|held| now.since(held) <= AGENT_LOOKS_WITHIN)
    }

    /// What root's policy lets be rolled back now.
    fn rollbacks(&self) -> Rollbacks {
        let policy = Policy::load(&self.policy).ok().filter(|policy| policy.actions.contains(&Action::Rollback));
        policy.map_or_else(Rollbacks::default, |policy| Rollbacks::new(policy.rollback, true, Some(self.boot)))
    }

    /// Lets somebody with this uid take a place. Who may only connect, as others of the socket's group, keeps nobody
    /// out who may ask: it is refused before it has said anything, and has the policy read so often only.
    fn admit(&self, uid: u32) -> Result<(), Refusal> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Judged again with the request.
        if uid == 0 || state.agent_uid == Some(uid) {
            return Ok(());
        }
        let mono = state.clock.now().mono;
        if !state.strangers.take(uid, mono) {
            return Err(pace::too_often());
        }
        let policy = Policy::load(&self.policy).map_err(|error| error.refusal())?;
        policy.admits(uid)?;
        state.agent_uid = policy.agent_uid;
        Ok(())
    }

    async fn converse(&self, link: &Link, uid: u32) -> io::Result<()> {
        let received = timeout(REQUEST_MAX, link.recv()).await.unwrap_or(Ok(Received::Closed))?;
        let decision = match received {
            Received::Closed => return Ok(()),
            Received::TooLong => Err(Refusal::because(Reason::TooLarge, "a request has at most 64 KiB")),
            Received::Datagram(datagram) => self.decide(link, uid, &datagram),
        };
        let answer = match decision {
            Ok(Decision::Tell(answer)) => answer,
            Ok(Decision::Act { order, actor, counted, left_out }) => {
                let act = order.act.clone();
                // If nobody is there to hear it, it does not begin.
                if let Err(error) = link.send(&Answer::Progress(0).to_datagram()).await {
                    self.not_done(&act, counted);
                    return Err(error);
                }
                let outcome = in_part(perform(link, *order, &actor).await, left_out);
                self.ended(&act, counted, &outcome);
                Answer::Done(outcome)
            }
            Err(refusal) => self.refuse(refusal),
        };
        link.send(&answer.to_datagram()).await
    }

    /// What follows from the end of an act for those after it.
    fn ended(&self, act: &Act, counted: Option<Moment>, outcome: &ActOutcome) {
        if spends_nothing(outcome) {
            return self.not_done(act, counted);
        }
        if matches!(act, Act::Rollback { .. }) && outcome.reason.as_deref() == Some(Reason::NeedsReboot.word()) {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).ledger.owe_boot(self.boot);
        }
    }

    /// What it had spent of its budget is free again.
    fn not_done(&self, act: &Act, counted: Option<Moment>) {
        let Some(moment) = counted.filter(|_| act.spends()) else { return };
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ledger.give_back(act.action(), &moment);
    }

    fn decide(&self, link: &Link, uid: u32, datagram: &[u8]) -> Result<Decision, Refusal> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        // Before anything that costs more than this.
        let mono = state.clock.now().mono;
        if !state.requests.take(mono) {
            return Err(pace::too_often());
        }
        // Read each time: what root changes holds at once, and there is nothing to reload.
        let policy = Policy::load(&self.policy).map_err(|error| error.refusal())?;
        state.agent_uid = policy.agent_uid;
        policy.admits(uid)?;
        let uid = policy.agent_uid.unwrap_or_default();
        let quarantine = Quarantine::new(self.dir.clone(), Loader::BootUnit, uid).in_turn(Arc::clone(&self.turn));
        let in_force = quarantine.in_force();
        let actor = Actor::new(Manager::Systemd, policy.runbook_dir.clone())
            .running_apart(!policy.runbooks_confined)
            .with_rollbacks(Rollbacks::new(policy.rollback.clone(), true, Some(self.boot)))
            .with_interfaces(Interfaces::Apart);
        match Request::parse(datagram)? {
            Request::Hello => {
                let mut able = actor.with_quarantine(quarantine).able();
                // Of which targets is told when one is asked for, by what the policy says then.
                able.actions.insert(Action::Rollback);
                let allowed = |action: &Action| policy.actions.contains(action);
                (able.actions, able.withheld) = able.actions.into_iter().partition(allowed);
                Ok(Decision::Tell(Answer::Able(able)))
            }
            Request::Act(mut order) => {
                // Before it is counted: what is not done spends nothing.
                if let Some(outcome) = taken_back(link, &order, mono) {
                    return Ok(Decision::Tell(Answer::Done(outcome)));
                }
                if let Act::Refresh { level, .. } = &mut order.act {
                    let none = || Refusal::new(Ending::NotInForce, quarantine.why_none());
                    // Nobody judges it: what is more than that has to be ordered.
                    *level = (*level).min(in_force.ok_or_else(none)?);
                }
                if let Some(detail) = quarantine.keeps_from(&order.act, &policy.rollback) {
                    return Err(Refusal::because(Reason::Quarantined, detail));
                }
                let left_out = cut(&mut order, &policy, &quarantine, in_force)?;
                state.clock.set_trust(policy.clock);
                let moment = Moment::of(self.boot, &mut state.clock);
                let by_rule = order.act == Act::Reboot && order.trigger.is_automatic();
                // It is part of a rollback that was judged, and as often as it takes: one that comes ends this boot.
                let completes = by_rule && state.ledger.owes_boot(self.boot);
                if completes {
                    policy.permits(&order.act)?;
                } else {
                    judge(&order, &policy, &mut state.ledger, &moment)?;
                }
                if matches!(order.act, Act::Quarantine { .. } | Act::Refresh { .. }) {
                    state.held = Some(mono);
                }
                let actor = Box::new(actor.with_quarantine(quarantine));
                Ok(Decision::Act { order, actor, counted: (!completes).then_some(moment), left_out })
            }
        }
    }

    /// Tells the log, so far as there is room for it, and makes the answer.
    fn refuse(&self, refusal: Refusal) -> Answer {
        let Refusal { reason, detail } = refusal;
        let detail = plain(&detail);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mono = state.clock.now().mono;
        match state.refusals.tell(reason, mono) {
            Told::Yes { left_out: 0 } => tracing::warn!(reason, "refused: {reason}: {detail}"),
            Told::Yes { left_out } => {
                tracing::warn!(reason, "refused: {reason}: {detail} ({left_out} more like it before)");
            }
            Told::No => {}
        }
        Answer::Refused { reason: reason.to_owned(), detail }
    }
}

/// Cuts the terms of a quarantine down to root's policy; what is left out of them.
///
/// # Errors
/// `not_allowed`: nobody could release it from afar.
fn cut(
    order: &mut Order,
    policy: &Policy,
    quarantine: &Quarantine,
    in_force: Option<QuarantineLevel>,
) -> Result<Option<String>, Refusal> {
    if !matches!(order.act, Act::Quarantine { level: Some(_) } | Act::Refresh { .. }) {
        return Ok(None);
    }
    let (cuts_off, terms) = (order.act.cuts_off(in_force), order.terms.take().unwrap_or_default());
    if cuts_off {
        policy.quarantine.reach_broker_at(terms.port)?;
    }
    // Those of before, too: root may have allowed more then.
    let (terms, left_out) = policy.quarantine.cut(quarantine.with_older_hosts(terms));
    order.terms = Some(terms);
    Ok(left_out.filter(|_| cuts_off))
}

/// The same for an end that left something out.
fn in_part(outcome: ActOutcome, left_out: Option<String>) -> ActOutcome {
    let Some(left_out) = left_out.filter(|_| outcome.status == ActStatus::Succeeded) else { return outcome };
    let detail = outcome.detail.unwrap_or_default();
    ActOutcome { detail: Some(format!("{detail}; {left_out}")), ..outcome }.but(Ending::Degraded)
}

/// How what must not be begun any more ends: whoever asked for it is gone or has changed their mind, or has told by now
/// that it ran out of time, as where this process was stopped for a while.
fn taken_back(link: &Link, order: &Order, now: Mono) -> Option<ActOutcome> {
    let waited = order.asked.map_or(Duration::ZERO, |asked| now.since(asked));
    let outcome = if link.has_more() {
        ActOutcome::taken_back("canceled before it was begun")
    } else if waited >= order.timeout {
        ActOutcome::not_begun(format!("root's helper came to it after {} s: it was not begun", waited.as_secs()))
    } else {
        return None;
    };
    let (action, target) = (order.act.word(), plain(&order.act.target()));
    let why = outcome.detail.as_deref().unwrap_or_default();
    tracing::warn!(
        "{action} of {target} for {}: {why}, {:.1} s after it was asked for",
        order.trigger,
        waited.as_secs_f32()
    );
    Some(outcome)
}

/// Does it; a connection that closes, or says anything more, cancels it.
async fn perform(link: &Link, order: Order, actor: &Actor) -> ActOutcome {
    let (what, trigger) = (format!("{} of {}", order.act.word(), plain(&order.act.target())), order.trigger.clone());
    tracing::info!("{what} for {trigger} begins");
    let (cancel, canceled) = oneshot::channel();
    let outcome = {
        let progress = |percent| link.try_send(&Answer::Progress(percent).to_datagram());
        let mut acting = std::pin::pin!(actor.perform(order, canceled, progress));
        tokio::select! {
            outcome = &mut acting => outcome,
            _ = link.recv() => {
                // Gone already if it has just ended.
                let _ = cancel.send(());
                acting.await
            }
        }
    };
    let reason = outcome.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let detail = outcome.detail.as_deref().map(|detail| format!(": {}", plain(detail))).unwrap_or_default();
    tracing::info!("{what} for {trigger} ended: {}{reason}{detail}", outcome.status.status().word());
    outcome
}

/// On one line of the log, and not longer than that: what an agent says may be anything.
fn plain(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    let shown = |c: char| if c.is_ascii_graphic() || c == ' ' { c.to_string() } else { c.escape_default().to_string() };
    text.chars().take(CHARS_MAX).map(shown).collect()
}
