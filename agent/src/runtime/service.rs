//! What systemd is told (sd_notify(3)): ready, reloading, stopping, and that the agent is alive. The watchdog is petted
//! only while the store answers, because an agent that can't write is an agent that hangs.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::config::CheckedConfig;
use crate::engine::time::Mono;

/// The way to the service manager; does nothing where there is none.
pub(super) struct Service {
    active: bool,
    watchdog: Option<(Duration, Interval)>,
}

impl Service {
    pub(super) fn new(active: bool) -> Self {
        let mut usec = 0;
        let armed = active && sd_notify::watchdog_enabled(false, &mut usec) && usec > 0;
        let watchdog = armed.then(|| {
            let within = Duration::from_micros(usec);
            let mut ticks = interval(within / 3);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            (within, ticks)
        });
        Self { active, watchdog }
    }

    pub(super) fn ready(&self, config: &CheckedConfig) {
        let status = format!("{} to {}", config.device.id, config.mqtt.url);
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    pub(super) fn reloading(&self, now: Mono) {
        // Type=notify-reload wants CLOCK_MONOTONIC in microseconds; older systemd ignores it.
        let usec = i128::from(now.0) * 1000;
        self.tell(&[NotifyState::Reloading, NotifyState::Custom(&format!("MONOTONIC_USEC={usec}"))]);
    }

    pub(super) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Waits for the next time to pet, and pets if the store isn't stuck. Never ends without a watchdog.
    pub(super) async fn pet(&mut self, store_waits: Duration) {
        let Some((within, ticks)) = &mut self.watchdog else { return std::future::pending().await };
        ticks.tick().await;
        if store_waits < *within / 2 {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.active {
            if let Err(error) = sd_notify::notify(false, states) {
                tracing::debug!("sd_notify: {error}");
            }
        }
    }
}
