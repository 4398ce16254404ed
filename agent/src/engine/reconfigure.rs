//! Another configuration at run time: what can change without loss is taken over, the rest is told and waits for a
//! restart.

use super::io::LogLevel;
use super::observation::Severity;
use super::record::{Event, EventKind};
use super::remedies::Remedies;
use super::time::Now;
use super::{Engine, start};
use crate::config::{self, CheckedConfig, Collect, CollectErrors, Device, Mqtt, Quarantine};
use crate::wire::Reason;

impl Engine {
    /// The configuration in force.
    #[must_use]
    pub const fn config(&self) -> &CheckedConfig {
        &self.config
    }

    pub(super) fn reconfigure(&mut self, now: Now, wanted: &CheckedConfig) {
        // The runtime starts new collectors with each configuration: a round that is under way in the old ones is over,
        // and begins anew. What they may still say is older than what the new ones read: counters would seem to fall.
        self.effects.forget_rounds();
        if self.pace.look_again(now.mono) {
            self.miss_round(now);
        }
        // Whoever has raised the broker's limit or put its ACL right says so by a reload, whatever else it changes.
        self.session.try_refused();
        let next = live_part(&self.config, wanted.clone());
        let taken_over = config::changes(&self.config, &next);
        let waiting = config::changes(&next, wanted);
        self.needs_restart.clone_from(&waiting);
        if taken_over.is_empty() && waiting.is_empty() {
            return;
        }
        if !waiting.is_empty() {
            let text =
                format!("configuration: {} can't change while running: restart to take it over", waiting.join(", "));
            self.effects.log(LogLevel::Warn, text);
        }
        let event = Event::new(Severity::Notice, EventKind::Lifecycle, "config_changed")
            .group("config")
            .with("taken_over", taken_over)
            .with("needs_restart", waiting);
        self.record_event(now, event);
        let required = self.config.commands.require_signature;
        let may_give_way = next.remediation != self.config.remediation;
        self.config = next;
        if required {
            self.warn_of_unsigned();
        }
        self.apply(now);
        if may_give_way {
            for reason in [Reason::BudgetSpent, Reason::MinUptime, Reason::LowBattery] {
                self.is_over(now, reason);
            }
        }
    }

    /// A fleet that pushed a bad configuration has to see that it was not taken over.
    pub(super) fn config_refused(&mut self, now: Now, errors: u64, first: &str) {
        let event = Event::new(Severity::Error, EventKind::Audit, "config_refused")
            .with("errors", errors)
            .with("detail", first);
        self.record_event(now, event);
    }

    /// Hands the configuration to the parts that keep their share of it.
    fn apply(&mut self, now: Now) {
        self.pace.retime(now.mono, &self.config.telemetry);
        self.incidents.set_settings(start::incident_settings(&self.config.collect.errors));
        self.forget_unread();
        self.link.set_settings(start::link_settings(&self.config));
        // First the ladders: one that goes with its rule has healed nothing.
        self.with_remedies(now, Remedies::reconfigure);
        self.reconfigure_rules(now);
        self.resume_remedies(now);
        self.session.flow.set_ration(self.config.mqtt.drain.publishes_per_second);
        self.attributes.touch();
        if self.link.is_online() {
            self.subscribe(now, true);
        }
    }
}

/// `wanted`, but for what the running agent is built on.
fn live_part(running: &CheckedConfig, wanted: CheckedConfig) -> CheckedConfig {
    CheckedConfig {
        device: Device { id: running.device.id.clone(), ..wanted.device },
        mqtt: Mqtt {
            drain: wanted.mqtt.drain,
            inflight_max: wanted.mqtt.inflight_max,
            reconnect: wanted.mqtt.reconnect,
            ..running.mqtt.clone()
        },
        store: running.store.clone(),
        collect: Collect {
            root: running.collect.root.clone(),
            errors: CollectErrors { app_socket: running.collect.errors.app_socket.clone(), ..wanted.collect.errors },
            ..wanted.collect
        },
        quarantine: Quarantine {
            lockout_after: wanted.quarantine.lockout_after,
            sample_interval: wanted.quarantine.sample_interval,
            ..running.quarantine.clone()
        },
        rollback: running.rollback.clone(),
        runbooks: running.runbooks.clone(),
        local: running.local.clone(),
        ..wanted
    }
}
