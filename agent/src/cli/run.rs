//! `fieldmedic run`: the daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::{BAD_USAGE, DONE, fail, runtime};
use crate::act::diagnostics::Diagnostics;
use crate::act::link::Interfaces;
use crate::act::quarantine::terms::Source;
use crate::act::quarantine::{self, Loader, Quarantine};
use crate::act::rollback::Rollbacks;
use crate::act::units::Manager;
use crate::act::{Actor, client};
use crate::collect::clock;
use crate::config;
use crate::runtime::{self as agent, Options, Signals};

/// Runs until it is told to stop. A configuration with mistakes is not run at all.
pub(super) fn run(files: &[PathBuf]) -> u8 {
    // First of all: a reload that is asked for while it starts must wait, and not end it.
    let begun = runtime().and_then(|rt| {
        let signals = rt.block_on(async { Signals::listen() })?;
        Ok((rt, signals))
    });
    let (rt, signals) = match begun {
        Ok(begun) => begun,
        Err(error) => return fail(&error),
    };
    let loaded = match config::load(files) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            eprintln!("fieldmedic: {} in the configuration: not started", config::counted(&problems));
            return BAD_USAGE;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config::Loaded { config, key_files, .. } = loaded;
    let mut actor = Actor::new(Manager::Systemd, config.runbooks.dir.clone())
        .inhibited_below(config.collect.root.clone())
        .on_terms_of(Source::of(&config))
        .with_diagnostics(Diagnostics::new(config.collect.root.clone(), config.to_toml()))
        .with_rollbacks(Rollbacks::new(config.rollback.clone(), false, clock::this_boot(&config.collect.root).ok()));
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        let dir = PathBuf::from(quarantine::DEFAULT_DIR);
        let quarantine = Quarantine::new(dir, Loader::find(), uid.as_raw());
        actor = actor.with_interfaces(Interfaces::find()).with_quarantine(quarantine);
    }
    let actor = actor.behind(Path::new(client::DEFAULT_SOCKET));
    let actor = Arc::new(actor);
    // Nobody but a signal ends the daemon; the sender is kept, so that its end isn't taken for a wish.
    let (_keep, stop) = watch::channel(false);
    let options = Options {
        config,
        config_files: files.to_vec(),
        key_files,
        actor,
        battery_root: None,
        stop,
        service: Some(signals),
    };
    let ended = rt.block_on(agent::run(options));
    // The store is closed. A name that is still being looked up has no bound of its own, and must not hold up a stop.
    rt.shutdown_background();
    match ended {
        Ok(()) => DONE,
        Err(error) => fail(&error.into()),
    }
}
