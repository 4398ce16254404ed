//! Carries out the engine's effects. Nothing here waits: what can't be taken over at once is completed as refused.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use tokio::sync::{mpsc, oneshot};

use super::mqtt::link::{self, LinkEvent, LinkHandle};
use super::mqtt::tell;
use super::mqtt::transport::{Password, Target, password_in};
use super::retry::FullJitter;
use super::{Options, RunError};
use crate::act::{Able, Actor, Order, jobs};
use crate::audit::Audit;
use crate::collect::Collectors;
use crate::collect::clock::{Clock, ClockReading, boottime};
use crate::collect::worker::Worker;
use crate::config::CheckedConfig;
use crate::engine::Engine;
use crate::engine::io::{
    ActOutcome, Effect, EffectId, Ending, Input, LinkFault, LinkFaultKind, LogLevel, StoreFault, StoreOp, StoreStats,
};
use crate::engine::packet::Version;
use crate::engine::time::Now;
use crate::store::{Backing, Found, StoreHandle};

/// Where systemd puts what `LoadCredential=` names: systemd.exec(5).
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The hands of the engine.
pub(super) struct Dispatcher {
    store: StoreHandle,
    stats: StoreStats,
    /// Operations that the store has not answered.
    store_waits: BTreeSet<EffectId>,
    collectors: Worker,
    audit: Audit,
    config_files: Vec<PathBuf>,
    battery_root: Option<PathBuf>,
    target: Arc<Target>,
    password: Option<Password>,
    link: Option<(EffectId, LinkHandle)>,
    link_in: mpsc::Sender<LinkEvent>,
    backoff: FullJitter,
    actor: Arc<Actor>,
    acts: BTreeMap<EffectId, oneshot::Sender<()>>,
    /// Who asks root's helper what it may do ends with this.
    asking: Option<SyncSender<()>>,
    inputs: mpsc::Sender<Input>,
    /// Completions of effects that were refused.
    refused: Vec<Input>,
    alive: bool,
    over: bool,
}

impl Dispatcher {
    pub(super) fn new(
        options: &Options,
        store: Backing,
        stats: StoreStats,
        inputs: mpsc::Sender<Input>,
        link_in: mpsc::Sender<LinkEvent>,
    ) -> Result<Self, RunError> {
        let config = &options.config;
        let thread = |source| RunError::System { what: "start a thread", source };
        let password = password(config)?;
        Ok(Self {
            store: StoreHandle::spawn(store, inputs.clone()).map_err(thread)?,
            stats,
            store_waits: BTreeSet::new(),
            collectors: Worker::spawn(collectors(config, options.battery_root.clone()), inputs.clone())
                .map_err(thread)?,
            audit: audit(config, &options.config_files, &options.key_files),
            config_files: options.config_files.clone(),
            battery_root: options.battery_root.clone(),
            target: Arc::new(Target::new(config.mqtt.url.clone(), Some(config.mqtt.tls.clone()))),
            password,
            link: None,
            link_in,
            backoff: FullJitter::new(&config.mqtt.reconnect),
            actor: Arc::clone(&options.actor),
            acts: BTreeMap::new(),
            asking: None,
            inputs,
            refused: Vec::new(),
            alive: false,
            over: false,
        })
    }

    /// Everything is said and stored.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// Operations that the store has not answered.
    pub(super) fn store_backlog(&self) -> usize {
        self.store_waits.len()
    }

    /// Whether there was a sign of life since the last time of asking.
    pub(super) fn take_sign_of_life(&mut self) -> bool {
        std::mem::take(&mut self.alive)
    }

    /// Takes over what another configuration changes outside the engine.
    pub(super) fn reconfigure(&mut self, config: &CheckedConfig, key_files: &[PathBuf]) {
        self.backoff.retune(&config.mqtt.reconnect);
        self.target.reload();
        self.audit = audit(config, &self.config_files, key_files);
        self.renew_collectors(config);
        self.ask_helper();
    }

    fn renew_collectors(&mut self, config: &CheckedConfig) {
        match Worker::spawn(collectors(config, self.battery_root.clone()), self.inputs.clone()) {
            Ok(worker) => self.collectors = worker,
            Err(error) => tracing::error!("collect: the old collectors stay: start a thread: {error}"),
        }
    }

    /// Root's policy may have changed, too, or was not told at the start: what it allows is asked until the helper says
    /// so, or it is asked anew. On a thread of its own: a helper that hangs is waited for.
    pub(super) fn ask_helper(&mut self) {
        let (actor, inputs) = (Arc::clone(&self.actor), self.inputs.clone());
        let (asking, wanted) = sync_channel(1);
        self.asking = Some(asking);
        let ask = move || {
            if let Some(Able { actions, withheld, quarantine }) = actor.able_by_helper_at_last(&wanted) {
                // The receiver is gone only when the agent ends.
                let _ = inputs.blocking_send(Input::Able { actions, withheld, quarantine });
            }
        };
        if let Err(error) = thread::Builder::new().name("ask-helper".to_owned()).spawn(ask) {
            tracing::error!("ask root's helper what it may do: start a thread: {error}");
        }
    }

    /// Hands a completion to the engine.
    pub(super) fn handle(&mut self, engine: &mut Engine, now: Now, input: Input) {
        match &input {
            Input::Store { id, stats, .. } => {
                self.store_waits.remove(id);
                self.stats = *stats;
            }
            Input::ActDone { id, outcome } => {
                let detail = outcome.detail.as_deref().unwrap_or_default();
                tracing::debug!("act: {:?} {} {detail}", outcome.status, outcome.reason.as_deref().unwrap_or_default());
                self.acts.remove(id);
            }
            _ => {}
        }
        engine.handle(now, input);
    }

    /// What the link says, in the engine's words; with a draw of the backoff where it is down.
    pub(super) fn link_input(&mut self, event: LinkEvent) -> Input {
        match event {
            LinkEvent::Up { id, lookup } => {
                tracing::debug!("broker: the connection stands");
                Input::LinkUp { id, lookup, password: self.password.as_ref().and_then(Password::last) }
            }
            LinkEvent::Packet { id, packet } => {
                tell("received", &packet);
                Input::Packet { id, packet }
            }
            LinkEvent::Down { id, fault } => self.link_down(id, fault),
        }
    }

    /// Carries out all effects, and hands back at once what was refused.
    pub(super) fn carry_out(&mut self, engine: &mut Engine, clock: &mut Clock) {
        if let Some(id) = self.collectors.hung(boottime()) {
            self.renew_collectors(engine.config());
            self.effect(Effect::Observe { id }, clock);
        }
        loop {
            while let Some(effect) = engine.poll_effect() {
                self.effect(effect, clock);
            }
            if self.refused.is_empty() {
                return;
            }
            for input in std::mem::take(&mut self.refused) {
                engine.handle(clock.now(), input);
            }
        }
    }

    /// Ends what runs; the store's thread finishes what is queued. Gives a store that was absent and was found again.
    pub(super) fn close(self) -> Option<Found> {
        drop(self.link);
        self.store.close()
    }

    fn effect(&mut self, effect: Effect, clock: &mut Clock) {
        match effect {
            Effect::Observe { id } => {
                if let Err(error) = self.collectors.request(id, clock.read()) {
                    self.refused.push(Input::Observed { id, result: Err(error.to_string()) });
                }
            }
            Effect::Audit { id, refused } => self.audit(id, clock.read(), refused),
            Effect::Store { id, op } => self.store(id, op),
            Effect::Connect { id, version } => self.connect(id, version),
            Effect::Send { id, packet } => {
                let Some((ours, handle)) = &self.link else { return };
                tell("sent", &packet);
                let sent = if *ours == id { handle.send(packet) } else { Ok(()) };
                if let Err(stalled) = sent {
                    let fault = LinkFault::new(LinkFaultKind::Stalled, stalled.to_string());
                    self.link = None;
                    let down = self.link_down(id, fault);
                    self.refused.push(down);
                }
            }
            Effect::Close { id } => match &mut self.link {
                Some((ours, handle)) if *ours == id => handle.close(),
                _ => {}
            },
            Effect::BackoffReset => self.backoff.reset(),
            Effect::Act { id, act, trigger, token, timeout } => {
                tracing::debug!("act: {} {}", act.action().word(), act.target());
                self.act(id, Order::new(act, trigger, token.map(String::from), timeout));
            }
            Effect::CancelAct { id } => {
                if let Some(cancel) = self.acts.remove(&id) {
                    // Gone already if the action has just ended: its completion is on the way.
                    let _ = cancel.send(());
                }
            }
            Effect::Log { level, text } => log(level, &text),
            Effect::Alive => self.alive = true,
            Effect::Exit => self.over = true,
        }
    }

    /// On a thread of its own: what it reads may hang as the collectors' files may.
    fn audit(&self, id: EffectId, clock: ClockReading, refused: Option<Vec<String>>) {
        let (audit, inputs) = (self.audit.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let failed = jobs::failed().await;
            let answer = inputs.clone();
            let look = move || {
                let looked = catch_unwind(AssertUnwindSafe(|| audit.look(clock, &failed, refused.as_deref())));
                let result = looked.map_err(|_| "the auditor panicked: its words are on stderr".to_owned());
                // The receiver is gone only when the agent ends.
                let _ = answer.blocking_send(Input::Audited { id, result });
            };
            if let Err(error) = thread::Builder::new().name("audit".to_owned()).spawn(look) {
                let _ = inputs.send(Input::Audited { id, result: Err(format!("start a thread: {error}")) }).await;
            }
        });
    }

    fn store(&mut self, id: EffectId, op: StoreOp) {
        match self.store.submit(id, op) {
            Ok(()) => {
                self.store_waits.insert(id);
            }
            Err(fault) => self.refuse_store(id, fault),
        }
    }

    fn refuse_store(&mut self, id: EffectId, fault: StoreFault) {
        self.refused.push(Input::Store { id, result: Err(fault), stats: self.stats });
    }

    fn connect(&mut self, id: EffectId, version: Version) {
        // For this connection. Where there is none yet the broker isn't troubled.
        if let Some(Err(fault)) = self.password.as_mut().map(Password::read) {
            let down = self.link_down(id, fault);
            return self.refused.push(down);
        }
        tracing::debug!("broker: connecting to {} by MQTT {}", self.target.url(), version.word());
        let handle = link::spawn(id, version, Arc::clone(&self.target), self.link_in.clone());
        self.link = Some((id, handle));
    }

    fn link_down(&mut self, id: EffectId, fault: LinkFault) -> Input {
        if self.link.as_ref().is_some_and(|(ours, _)| *ours == id) {
            self.link = None;
        }
        Input::LinkDown { id, fault, retry_in: self.backoff.draw(fastrand::f64()) }
    }

    fn act(&mut self, id: EffectId, order: Order) {
        let (cancel, canceled) = oneshot::channel();
        self.acts.insert(id, cancel);
        let (actor, inputs) = (Arc::clone(&self.actor), self.inputs.clone());
        let news = inputs.clone();
        let performed = async move {
            let progress = |percent| {
                // A full queue costs a progress message, never the outcome.
                let _ = news.try_send(Input::ActProgress { id, percent });
            };
            actor.perform_or_go_down(order, canceled, progress).await
        };
        tokio::spawn(async move {
            let outcome = outcome_of(performed).await;
            // The receiver is gone only when the agent ends.
            let _ = inputs.send(Input::ActDone { id, outcome }).await;
        });
    }
}

/// The outcome of an act, also of one that panics: without a completion its command would never end, and its target
/// would stay taken for as long as the agent runs.
async fn outcome_of(act: impl Future<Output = ActOutcome> + Send + 'static) -> ActOutcome {
    tokio::spawn(act)
        .await
        .unwrap_or_else(|error| ActOutcome::failed(Ending::InternalError, format!("the agent failed at it: {error}")))
}

/// The password: of a file that may come later, or of systemd's, which has to be there.
fn password(config: &CheckedConfig) -> Result<Option<Password>, RunError> {
    let Some(path) = config.mqtt.password_file.clone() else { return Ok(None) };
    if std::env::var_os(CREDENTIALS_DIRECTORY).is_some_and(|handed_over| path.starts_with(handed_over)) {
        password_in(&path).map_err(|source| RunError::Password { path: path.clone(), source })?;
    }
    Ok(Some(Password::of(path)))
}

/// Makes the collectors of a configuration, on the thread that they stay on.
fn collectors(config: &CheckedConfig, battery_root: Option<PathBuf>) -> impl FnOnce() -> Collectors + use<> {
    let (collect, releases, rules) = (config.collect.clone(), config.rollback.clone(), config.rules.clone());
    move || {
        let collectors = Collectors::new(&collect).with_releases_of(releases).with_sockets_for(&rules);
        match battery_root {
            Some(root) => collectors.with_batteries_below(root),
            None => collectors,
        }
    }
}

fn log(level: LogLevel, text: &str) {
    match level {
        LogLevel::Error => tracing::error!("{text}"),
        LogLevel::Warn => tracing::warn!("{text}"),
        LogLevel::Info => tracing::info!("{text}"),
        LogLevel::Debug => tracing::debug!("{text}"),
    }
}

/// Whoever may write a key file is obeyed as whoever may write the configuration.
fn audit(config: &CheckedConfig, config_files: &[PathBuf], key_files: &[PathBuf]) -> Audit {
    Audit::new(config.clone(), [config_files, key_files].concat()).of_the_agent()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "it makes the files that are looked at")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use tokio::sync::watch;

    use super::*;
    use crate::act::units::Manager;
    use crate::config;
    use crate::engine::io::ActStatus;
    use crate::store::{Store, StoreSettings};
    use crate::wire::keys::{SigningKey, public_pem};

    #[tokio::test]
    async fn the_agent_looks_at_the_files_of_the_keys_that_it_obeys_after_a_reload_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (file, root) = (dir.path().join("agent.toml"), dir.path().join("root"));
        let keys = ["a.pub", "b.pub"].map(|name| dir.path().join(name));
        let load = |key: &Path| {
            fs::write(key, public_pem(SigningKey::from_seed([7; 32]).unwrap().public())).unwrap();
            fs::set_permissions(key, fs::Permissions::from_mode(0o666)).unwrap();
            let commands = format!("[collect]\nroot = {root:?}\n[commands]\ntrusted_keys = [{key:?}]\n");
            fs::write(&file, format!("[mqtt]\nurl = \"mqtts://broker.example\"\n{commands}")).unwrap();
            config::load(std::slice::from_ref(&file)).unwrap()
        };
        let told = |shell: &Dispatcher, config: &CheckedConfig| {
            let clock = Clock::new(config.clock.trust, &root).read();
            let found = shell.audit.look(clock, &Ok(Vec::new()), None).findings;
            let subjects = found.into_iter().filter(|finding| finding.check == "writable_by_others");
            subjects.map(|finding| PathBuf::from(finding.subject)).collect::<Vec<_>>()
        };
        let loaded = load(&keys[0]);
        let settings = StoreSettings { path: dir.path().join("store"), max_bytes: loaded.config.store.max_bytes };
        let (store, recovered) = Store::open(&settings).unwrap();
        let (_keep, stop) = watch::channel(false);
        let options = Options {
            config: loaded.config,
            config_files: vec![file.clone()],
            key_files: loaded.key_files,
            actor: Arc::new(Actor::new(Manager::Systemd, dir.path().join("runbooks"))),
            battery_root: None,
            stop,
            service: None,
        };
        let (inputs, link) = (mpsc::channel(1).0, mpsc::channel(1).0);
        let mut shell = Dispatcher::new(&options, store.into(), recovered.stats, inputs, link).unwrap();
        assert_eq!(told(&shell, &options.config), keys[..1]);
        let loaded = load(&keys[1]);
        shell.reconfigure(&loaded.config, &loaded.key_files);
        assert_eq!(told(&shell, &loaded.config), keys[1..]);
    }

    #[tokio::test]
    async fn an_act_that_panics_ends_as_failed() {
        let outcome = outcome_of(async { panic!("a field that was never missing before") }).await;
        assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Failed, Some("internal_error")));
        let detail = outcome.detail.unwrap_or_default();
        assert!(detail.contains("a field that was never missing before"), "{detail}");
    }
}
