//! The tokio shell around the engine: it owns the clock, the store's thread, the collectors' thread, the socket to the
//! broker and the actions, and has no opinions. It reads an input, hands it to the engine with the time, and carries
//! out the effects that come back; each that has an id ends in exactly one completion input.

#![expect(clippy::disallowed_methods, reason = "the shell is where time and tasks come from")]

mod code;
mod dispatch;
mod errors;
mod identity;
pub mod local;
pub mod mqtt;
pub(crate) mod retry;
mod service;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::act::{Actor, systemd};
use crate::collect::clock::Clock;
use crate::collect::errors::app::{self, AppSocket};
use crate::config::{self, CheckedConfig};
use crate::engine::Engine;
use crate::engine::effects::STORE_AT_ONCE;
use crate::engine::io::{Input, Recovered, StopReason, StoreOp};
use crate::engine::observation::ErrorBatch;
use crate::engine::time::Mono;
use crate::own_thread::on_own_thread;
use crate::store::{self, Absent, Backing, Found, Store, StoreSettings};
use dispatch::Dispatcher;
use errors::ErrorLines;

/// Inputs that may wait for the engine: completions of the store, of collectors and of actions.
const INPUTS_MAX: usize = 512;
/// Packets and other news of the link that may wait.
const LINK_EVENTS_MAX: usize = 64;
/// Requests on the local socket that may wait.
const REQUESTS_MAX: usize = 8;
/// Batches of applications' error lines that may wait; what finds no room is counted and dropped.
const APP_BATCHES_MAX: usize = 4;
/// While more operations than this wait for the store, nothing is read from the broker: each command is a write.
pub(crate) const STORE_BACKLOG_MAX: usize = store::STORE_QUEUE_MAX / 4;
/// What the engine hands on at once must find room, beside a burst that its own hold lets through.
const _: () = assert!(STORE_AT_ONCE < store::STORE_QUEUE_MAX);
/// Inputs handled before the loop looks at its other sources again.
const INPUTS_AT_ONCE: usize = 64;
/// The same for the link's events, of which each may be a command, and with it a write.
const EVENTS_AT_ONCE: usize = 16;

/// How long the last write to a store may take on a slow card.
const HANDING_OVER_MAX: Duration = Duration::from_secs(60);

/// What a run is made of.
pub struct Options {
    /// The configuration.
    pub config: CheckedConfig,
    /// Where it came from: read again on SIGHUP. Empty: SIGHUP changes nothing.
    pub config_files: Vec<PathBuf>,
    /// The files that stand in it in the place of keys.
    pub key_files: Vec<PathBuf>,
    /// What acts on the gateway.
    pub actor: Arc<Actor>,
    /// Where batteries are looked up, if not below `collect.root`: the demo's imitation.
    pub battery_root: Option<PathBuf>,
    /// Ends the run when it becomes true, as SIGTERM does.
    pub stop: watch::Receiver<bool>,
    /// Tells systemd how it goes, and obeys these. `None`, where another program owns the process.
    pub service: Option<Signals>,
}

/// Why an agent could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store can't be used.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// A store that could not be opened when the agent started can be opened now.
    #[error("the store at {0} can be used again: to be started again with it")]
    StoreIsBack(PathBuf),
    /// The gateway's agent runs, and this one could only get into its way.
    #[error(
        "an agent answers on {0}, and this one can't use the store: stop that one first (systemctl stop fieldmedic)"
    )]
    RunsAlready(PathBuf),
    /// systemd has handed over no password. What it hands over is a copy of the start: only another start can mend it.
    #[error("read mqtt.password_file {path}")]
    Password {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no threads, signals or random numbers.
    #[error("{what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The kernel's boot id can't be read: nothing could be dated or told apart.
    #[error("read the kernel's boot id")]
    BootId(#[source] std::io::Error),
}

/// Runs an agent until it is told to stop. Everything is on one thread but the store and the collectors.
///
/// # Errors
/// If it can't begin. Once it runs, nothing ends it but a stop.
pub async fn run(mut options: Options) -> Result<(), RunError> {
    let mut clock = Clock::new(options.config.clock.trust, &options.config.collect.root);
    let identity = identity::discover(&options.config, &options.actor)?;
    let settings = StoreSettings { path: options.config.store.path.clone(), max_bytes: options.config.store.max_bytes };
    let (store, recovered) = open_store(&settings)?;
    let stats = recovered.stats;
    let socket = &options.config.local.socket;
    if recovered.absent && local::is_answered(socket) {
        // It would take the session of the one that runs, and keep nothing.
        return Err(RunError::RunsAlready(socket.clone()));
    }

    let (inputs_in, mut inputs) = mpsc::channel(INPUTS_MAX);
    let (link_in, mut link_events) = mpsc::channel(LINK_EVENTS_MAX);
    let (requests_in, mut requests) = mpsc::channel(REQUESTS_MAX);
    let mut signals = options.service.take();
    let mut service = service::Service::new(signals.is_some());
    let _socket = local::serve(&options.config.local.socket, requests_in);

    let (app_errors_in, mut app_errors) = mpsc::channel(APP_BATCHES_MAX);
    let mut app_socket = open_app_socket(&options.config.collect, app_errors_in.clone());

    let mut engine = Engine::new(clock.now(), options.config.clone(), identity, recovered);
    let mut shell = Dispatcher::new(&options, store, stats, inputs_in, link_in)?;
    if options.actor.has_silent_helper() {
        shell.ask_helper();
    }
    let mut errors = read_errors(&engine);
    shell.carry_out(&mut engine, &mut clock);
    service.ready(engine.config());
    let mut completing = std::pin::pin!(options.actor.complete());
    let mut code_is_idle = code::interval();

    while !shell.is_over() {
        let wait = until(engine.poll_deadline(), clock.now().mono);
        let link_may_speak = shell.store_backlog() < STORE_BACKLOG_MAX;
        tokio::select! {
            Some(input) = inputs.recv() => {
                for input in waiting(input, &mut inputs).take(INPUTS_AT_ONCE) {
                    shell.handle(&mut engine, clock.now(), input);
                }
            }
            Some(event) = link_events.recv(), if link_may_speak => {
                for event in waiting(event, &mut link_events).take(EVENTS_AT_ONCE) {
                    let input = shell.link_input(event);
                    engine.handle(clock.now(), input);
                }
            }
            batch = errors.next() => engine.handle(clock.now(), Input::Errors(batch)),
            Some(batch) = app_errors.recv() => engine.handle(clock.now(), Input::Errors(batch)),
            Some(request) = requests.recv() => match request {
                local::Request::Status(request) => request.answer(&engine.status(clock.now())),
                local::Request::Released => engine.handle(clock.now(), Input::LookAtQuarantine),
            },
            () = tokio::time::sleep(wait) => engine.handle(clock.now(), Input::Wake),
            never = &mut completing => match never {},
            _ = code_is_idle.tick() => code::let_go(),
            () = service.watchdog_is_due() => engine.handle(clock.now(), Input::ProveAlive),
            wish = wish(&mut signals) => match wish {
                Wish::Stop => {
                    service.stopping();
                    let is_rebooting = systemd::is_rebooting().await;
                    let reason = if is_rebooting { StopReason::RebootedByOthers } else { StopReason::Stopped };
                    engine.handle(clock.now(), Input::Stop { reason });
                }
                Wish::Reload => {
                    let files = &options.config_files;
                    reload(&mut engine, &mut shell, &mut errors, &mut service, &mut clock, files);
                    let collect = &engine.config().collect;
                    app_socket = app_socket
                        .filter(|_| collect.errors.enabled)
                        .or_else(|| open_app_socket(collect, app_errors_in.clone()));
                }
            },
            Ok(()) = options.stop.changed() => {
                if *options.stop.borrow() {
                    engine.handle(clock.now(), Input::Stop { reason: StopReason::Stopped });
                }
            }
        }
        shell.carry_out(&mut engine, &mut clock);
        if shell.take_sign_of_life() {
            service.pet_watchdog();
        }
    }
    // The store's thread finishes what is queued; its answers have nobody to wait for them any more.
    drop(inputs);
    if let Some(found) = shell.close() {
        hand_over(&engine, found, settings.path, &mut service).await?;
    }
    Ok(())
}

/// What was received, and what waits behind it.
fn waiting<T>(first: T, queue: &mut mpsc::Receiver<T>) -> impl Iterator<Item = T> {
    std::iter::once(first).chain(std::iter::from_fn(|| queue.try_recv().ok()))
}

/// The store, or what stands in for it. Only one that another agent uses keeps this one from running: a gateway that
/// can't store is still a gateway that can be seen.
fn open_store(settings: &StoreSettings) -> Result<(Backing, Recovered), RunError> {
    match Store::open(settings) {
        Ok((store, recovered)) => Ok((store.into(), recovered)),
        Err(error @ store::OpenError::InUse { .. }) => Err(error.into()),
        Err(error) => {
            let (absent, recovered) = Absent::new(settings.clone(), &error);
            let what = recovered.losses.first().map_or_else(String::new, |loss| loss.what.clone());
            tracing::error!(
                "store: {what}; running without one: nothing is kept over an outage, and no command is obeyed"
            );
            Ok((absent.into(), recovered))
        }
    }
}

/// Tells a store that was absent, and was found again, what only this run knows; why the run has ended.
async fn hand_over(
    engine: &Engine,
    (mut store, found): Found,
    path: PathBuf,
    service: &mut service::Service,
) -> Result<Infallible, RunError> {
    let entries = engine.hand_over(&found);
    let put = on_own_thread("hand-over", move || store.apply(StoreOp::Put { entries }));
    let put = service.alive_during(HANDING_OVER_MAX, put).await;
    put.map_err(|error| RunError::System { what: "write to the store", source: error.into() })?
        .map_err(store::OpenError::Fault)?;
    Err(RunError::StoreIsBack(path))
}

fn read_errors(engine: &Engine) -> ErrorLines {
    let collect = &engine.config().collect;
    ErrorLines::begin(&collect.errors, &collect.root, engine.error_cursor())
}

/// Where applications report their errors, if they may.
fn open_app_socket(collect: &config::Collect, batches: mpsc::Sender<ErrorBatch>) -> Option<AppSocket> {
    let path = collect.errors.app_socket.as_deref().filter(|_| collect.errors.enabled)?;
    app::serve(path, &collect.root, batches)
}

/// Reads the configuration again. One that doesn't check leaves the running one in force.
fn reload(
    engine: &mut Engine,
    shell: &mut Dispatcher,
    errors: &mut ErrorLines,
    service: &mut service::Service,
    clock: &mut Clock,
    files: &[PathBuf],
) {
    service.reloading();
    match config::load(files) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            clock.set_trust(loaded.config.clock.trust);
            engine.handle(clock.now(), Input::Reconfigure(Box::new(loaded.config)));
            shell.reconfigure(engine.config(), &loaded.key_files);
            *errors = read_errors(engine);
            tracing::info!("configuration read again");
        }
        Err(problems) => {
            for problem in &problems {
                tracing::error!("{problem}");
            }
            tracing::error!("the configuration has {}: the running one stays in force", config::counted(&problems));
            let first = problems.first().map(ToString::to_string).unwrap_or_default();
            engine.handle(clock.now(), Input::ConfigRefused { errors: problems.len() as u64, first });
        }
    }
    service.ready(engine.config());
}

/// How long to sleep. Bounded, because suspended time counts for deadlines (CLOCK_BOOTTIME) but not for timers.
fn until(deadline: Option<Mono>, now: Mono) -> Duration {
    const SLEEP_MAX: Duration = Duration::from_secs(60);
    deadline.map_or(SLEEP_MAX, |at| at.since(now)).min(SLEEP_MAX)
}

/// What a signal asks for.
enum Wish {
    Stop,
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP. One that comes before the agent runs is kept until it does.
pub struct Signals([Signal; 3]);

impl Signals {
    /// From here on none of them ends the process by itself. Within tokio's runtime only.
    ///
    /// # Errors
    /// The system gives none.
    pub fn listen() -> Result<Self, RunError> {
        let open = |kind| signal(kind).map_err(|source| RunError::System { what: "listen to signals", source });
        // Nobody waits for it: where files may not be so large (RLIMIT_FSIZE), a write fails as on a full disk.
        drop(open(SignalKind::from_raw(libc::SIGXFSZ))?);
        Ok(Self([open(SignalKind::terminate())?, open(SignalKind::interrupt())?, open(SignalKind::hangup())?]))
    }
}

async fn wish(signals: &mut Option<Signals>) -> Wish {
    let Some(Signals([terminate, interrupt, hangup])) = signals else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => Wish::Stop,
        _ = interrupt.recv() => Wish::Stop,
        _ = hangup.recv() => Wish::Reload,
    }
}
