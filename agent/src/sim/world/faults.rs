//! What befalls the gateway: when it begins, what it does to the world, and when it ends. In the calm nothing begins,
//! and what lasted has ended.

use std::time::Duration;

use super::super::network::millis;
use super::super::report::What;
use super::super::scenario::{Fault, FaultKind, When};
use super::{Active, Death, Event, World};
use crate::engine::io::{Input, StopReason};

impl World<'_> {
    /// Enters the first of each fault and each order.
    pub(super) fn plan_faults(&mut self) {
        for index in 0..self.scenario.faults.len() {
            let Some(fault) = self.scenario.faults.get(index) else { continue };
            match &fault.when {
                When::At(times) => {
                    for time in times.iter().map(|time| millis(*time)).filter(|at| *at < self.calm_at) {
                        self.agenda.enter(time, Event::FaultBegins(index));
                    }
                }
                When::Every(mean) => self.next_fault(index, *mean),
            }
        }
        for index in 0..self.scenario.commands.len() {
            let Some(order) = self.scenario.commands.get(index) else { continue };
            match &order.when {
                When::At(times) => {
                    for time in times {
                        self.agenda.enter(millis(*time), Event::Order(index));
                    }
                }
                When::Every(mean) => self.next_order(index, *mean),
            }
        }
    }

    pub(super) fn fault_begins(&mut self, index: usize) {
        let Some(fault) = self.scenario.faults.get(index) else { return };
        if let When::Every(mean) = fault.when {
            self.next_fault(index, mean);
        }
        let (low, high) = fault.lasts;
        let lasts = self.fault_dice.get_mut(index).map_or(low, |dice| dice.between(low, high));
        let lasts = millis(lasts).min(self.calm_at.saturating_sub(self.at));
        self.history.faults.push((index, self.at, lasts));
        let detail = detail(fault, lasts);
        self.diary.note(self.at, What::FaultBegan { name: fault.name.clone(), detail });
        self.last_occurrence += 1;
        let occurrence = self.last_occurrence;
        self.active.insert(occurrence, Active { index, kind: fault.kind.clone() });
        self.strike(&fault.kind, lasts);
        if fault.lasts.1 == Duration::ZERO {
            self.active.remove(&occurrence);
        } else {
            self.agenda.enter(self.at + lasts, Event::FaultEnds(occurrence));
        }
        self.apply_faults();
        self.follow_power();
    }

    pub(super) fn fault_ends(&mut self, occurrence: u64) {
        let Some(Active { index, kind }) = self.active.remove(&occurrence) else { return };
        let name = self.scenario.faults.get(index).map(|fault| fault.name.clone());
        self.diary.note(self.at, What::FaultEnded { name: name.unwrap_or_default() });
        self.gateway.end_fault(self.at, &kind);
        match kind {
            FaultKind::BrokerDown | FaultKind::BrokerForgets => self.broker_is_back(),
            _ => {}
        }
        self.apply_faults();
        self.gateway_changed();
    }

    /// From here on all is well.
    pub(super) fn calm(&mut self) {
        let lasting: Vec<u64> = self.active.keys().copied().collect();
        for occurrence in lasting {
            self.fault_ends(occurrence);
        }
        self.gateway.calm(self.at);
        self.gateway_changed();
    }

    /// Something on the gateway has changed by itself: power, coverage, error lines.
    pub(super) fn gateway_changed(&mut self) {
        self.gateway.look(self.at);
        if !self.gateway.powered() && self.times.powered_since.is_some() {
            self.lose_power("battery empty");
        }
        self.follow_power();
        let route = self.gateway.route();
        if route.is_some_and(|route| self.route.replace(route).is_some_and(|before| before != route)) {
            // Connections belong to the address of the link on which they began: what is sent on them vanishes.
            self.network.forget();
        }
        let covered = route.is_some();
        if covered != self.network.is_covered() {
            for (conn, way, fate) in self.network.set_covered(self.at, covered) {
                let super::super::network::Fate::Arrives(at, packet) = fate else { continue };
                let event = match way {
                    super::super::network::Way::Up => Event::Up(conn, packet),
                    super::super::network::Way::Down => Event::Down(conn, packet),
                };
                self.agenda.enter(at, event);
            }
        }
        let errors = self.gateway.take_errors(self.at);
        if let (Some(agent), Some(batch)) = (&mut self.agent, errors) {
            agent.inbox.push_back(Input::Errors(batch));
        }
    }

    fn next_fault(&mut self, index: usize, mean: Duration) {
        let Some(dice) = self.fault_dice.get_mut(index) else { return };
        let at = self.at + millis(dice.until_next(mean));
        if at < self.calm_at {
            self.agenda.enter(at, Event::FaultBegins(index));
        }
    }

    /// What happens in an instant, and what its begin does.
    fn strike(&mut self, kind: &FaultKind, lasts: u64) {
        match kind {
            FaultKind::Crash => self.strike_soon(Death::Killed),
            FaultKind::Restart => {
                if let Some(agent) = &mut self.agent {
                    self.left_alone_since = None;
                    agent.inbox.push_back(Input::Stop { reason: StopReason::Stopped });
                }
            }
            FaultKind::PowerCut => {
                if self.agent.is_some() && lasts > 0 {
                    self.strike_soon(Death::Power("power cut"));
                } else {
                    self.lose_power("power cut");
                }
            }
            FaultKind::Reboot if self.machine_up => {
                self.left_alone_since = None;
                self.reboot_machine();
            }
            FaultKind::Cut => {
                if let Some(conn) = self.connection() {
                    self.cut(conn);
                }
            }
            FaultKind::HalfOpen => self.network.forget(),
            FaultKind::BrokerDown | FaultKind::BrokerForgets => {
                if let Some(conn) = self.connection() {
                    self.cut(conn);
                }
                if *kind == FaultKind::BrokerForgets {
                    self.forget_sessions();
                }
            }
            FaultKind::DiskDamage { state } => self.disk.damage(*state),
            FaultKind::ClockJump { by_s } => self.clock.jump(self.at, *by_s),
            other => self.gateway.begin_fault(self.at, other),
        }
    }

    /// What lasts, as it stands now: of two faults of a kind the one that is left goes on.
    fn apply_faults(&mut self) {
        let most = |pick: fn(&FaultKind) -> Option<f64>, none: f64| {
            self.active.values().filter_map(|active| pick(&active.kind)).fold(none, f64::max)
        };
        let slow = most(|fault| if let FaultKind::Slow { times } = fault { Some(*times) } else { None }, 1.0);
        let errors = most(
            |fault| if let FaultKind::DiskErrors { probability } = fault { Some(*probability) } else { None },
            0.0,
        );
        let slow_disk = most(|fault| if let FaultKind::DiskSlow { times } = fault { Some(*times) } else { None }, 1.0);
        let full = self.is_active(|fault| matches!(fault, FaultKind::DiskFull));
        self.network.set_slow(slow);
        self.disk.set_errors(errors);
        self.disk.set_slow(slow_disk);
        self.disk.set_full(full);
        self.clock.set_unsynced(self.is_active(|fault| matches!(fault, FaultKind::ClockUnsynced)));
    }
}

/// What a fault is, for the timeline.
fn detail(fault: &Fault, lasts_ms: u64) -> String {
    let kind = match &fault.kind {
        FaultKind::UnitFails { unit } => format!("{} of {unit}", fault.kind.word()),
        kind => kind.word().to_owned(),
    };
    match lasts_ms {
        0 => kind,
        ms => format!("{kind} for {}", humantime::format_duration(Duration::from_secs(ms.div_ceil(1_000)))),
    }
}
