//! What systemd is told (sd_notify(3)): ready, reloading, stopping, and that the agent is alive. When the watchdog is
//! due the engine is asked for a sign of life, which goes through the store and back: an agent that can't write is an
//! agent that hangs. And what systemd tells: how the run before ended.

#![expect(clippy::disallowed_methods, reason = "the unit leaves how a run ended in a file")]

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::collect::printable;
use crate::config::CheckedConfig;

/// Where the unit's ExecStopPost= leaves `$SERVICE_RESULT` (systemd/fieldmedic.service): below its runtime directory,
/// which a reboot empties.
const ENDED_FILE: &str = "ended";
/// How long a PID 1 that reads nothing may hold us up. One that has crashed is frozen for good (systemd(1),
/// CrashAction=), and all else goes on without it.
const TELL_MAX: Duration = Duration::from_millis(500);
/// The longest of systemd's words has some fifteen.
const WORD_CHARS_MAX: usize = 32;

/// How the run before ended, in systemd's word; told once.
pub(super) fn ended_as() -> Option<String> {
    take_word(&PathBuf::from(std::env::var_os("RUNTIME_DIRECTORY")?).join(ENDED_FILE))
}

fn take_word(file: &Path) -> Option<String> {
    let word = printable(fs::read_to_string(file).ok()?.trim(), WORD_CHARS_MAX);
    // One that stays is told again with the next start: once too often rather than never.
    let _ = fs::remove_file(file);
    (!word.is_empty()).then_some(word)
}

/// The way to the service manager; does nothing where there is none.
pub(super) struct Service {
    /// Where PID 1 listens.
    notify: Option<OsString>,
    /// Three signs of life are asked for in the time in which one must come.
    watchdog: Option<Interval>,
}

impl Service {
    pub(super) fn new(active: bool) -> Self {
        let mut usec = 0;
        let armed = active && sd_notify::watchdog_enabled(false, &mut usec) && usec > 0;
        let watchdog = armed.then(|| {
            let mut ticks = interval(Duration::from_micros(usec) / 3);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let notify = if active { std::env::var_os("NOTIFY_SOCKET") } else { None };
        Self { notify, watchdog }
    }

    pub(super) fn ready(&self, config: &CheckedConfig) {
        let status = format!("{} to {}", config.device.id, config.mqtt.url);
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    pub(super) fn reloading(&self) {
        // For Type=notify-reload: of CLOCK_MONOTONIC, which stands while the machine is suspended.
        let since = NotifyState::monotonic_usec_now().ok();
        let states: Vec<_> = [NotifyState::Reloading].into_iter().chain(since).collect();
        self.tell(&states);
    }

    pub(super) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Waits until the next sign of life is due. Never ends without a watchdog.
    pub(super) async fn watchdog_is_due(&mut self) {
        let Some(ticks) = &mut self.watchdog else { return std::future::pending().await };
        ticks.tick().await;
    }

    /// Waits for what takes longer than the watchdog does, and is no hang for so long.
    pub(super) async fn alive_during<T>(&mut self, most: Duration, work: impl Future<Output = T>) -> T {
        let (mut work, until) = (std::pin::pin!(work), Instant::now() + most);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.watchdog_is_due(), if Instant::now() < until => self.pet_watchdog(),
            }
        }
    }

    pub(super) fn pet_watchdog(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if let Some(Err(error)) = self.notify.as_ref().map(|socket| tell(Path::new(socket), states)) {
            tracing::debug!("sd_notify: {error}");
        }
    }
}

/// As sd_notify(3) does, with a bound: its queue may be full.
fn tell(socket: &Path, states: &[NotifyState<'_>]) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(TELL_MAX))?;
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    sender.send_to(text.as_bytes(), socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_1_that_hangs_does_not_hold_the_agent_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("notify");
        let pid_1 = UnixDatagram::bind(&socket).unwrap();
        let told = || tell(&socket, &[NotifyState::Watchdog]);
        let error = std::iter::repeat_with(told).find_map(Result::err).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let mut text = [0; 64];
        let len = pid_1.recv(&mut text).unwrap();
        assert_eq!(&text[..len], b"WATCHDOG=1\n");
        assert!(told().is_ok(), "there is room again");
    }

    #[tokio::test]
    async fn the_watchdog_is_petted_while_something_takes_long_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("notify");
        let pid_1 = tokio::net::UnixDatagram::bind(&socket).unwrap();
        // The first tick is due at once.
        let watchdog = || Some(interval(Duration::from_secs(60)));
        let mut service = Service { notify: Some(socket.into_os_string()), watchdog: watchdog() };
        let told = async {
            let mut text = [0; 64];
            let len = pid_1.recv(&mut text).await.unwrap();
            text[..len].to_vec()
        };
        assert_eq!(service.alive_during(Duration::from_secs(60), told).await, b"WATCHDOG=1\n");
        service.watchdog = watchdog();
        service.alive_during(Duration::ZERO, tokio::task::yield_now()).await;
        assert!(pid_1.try_recv(&mut [0; 64]).is_err());
    }

    #[test]
    fn how_the_run_before_ended_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(ENDED_FILE);
        assert_eq!(take_word(&file), None);
        fs::write(&file, "watchdog\n").unwrap();
        assert_eq!(take_word(&file).as_deref(), Some("watchdog"));
        assert_eq!(take_word(&file), None);
        fs::write(&file, "\n").unwrap();
        assert_eq!(take_word(&file), None);
    }
}
