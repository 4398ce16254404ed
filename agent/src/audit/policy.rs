//! Root's policy, which anybody may read: why root's helper would refuse everything by it, where it speaks of other
//! keys or another device than the agent's configuration, and what of the gateway's own ladders, trials and quarantines
//! it refuses or leaves out. All of that would else be seen on the day on which a command or a ladder is needed.

use std::io;
use std::path::Path;

use super::{agent, finding};
use crate::act::quarantine::terms::Source;
use crate::config::{Action, CheckedConfig, QuarantineLevel, RollbackKind, Step, TrustedKey};
use crate::engine::io::{Act, Own, Trigger};
use crate::engine::observation::{Finding, Severity};
use crate::helper::{Policy, PolicyError};

const UNTRUSTED: &str = "policy_untrusted";
const WRONG: &str = "policy_wrong";
const DIFFERS: &str = "policy_differs";
const REFUSES: &str = "policy_refuses";

/// Says for which of its checks it could not look.
pub(super) fn look(config: &CheckedConfig, file: &Path, found: &mut Vec<Finding>) -> &'static [&'static str] {
    match Policy::load(file) {
        Ok(policy) => {
            if agent::acts(config) {
                differences(config, &policy, file, found);
                cut_quarantine(config, &policy, file, found);
            }
            refused_steps(config, &policy, file, found);
            refused_rollbacks(config, &policy, file, found);
            &[]
        }
        Err(error) => unusable(config, &error, file, found),
    }
}

/// The helper goes by none then.
fn unusable(
    config: &CheckedConfig,
    error: &PolicyError,
    file: &Path,
    found: &mut Vec<Finding>,
) -> &'static [&'static str] {
    let (check, advice, hides): (_, _, &[_]) = match error {
        // Who only collects needs none.
        PolicyError::Io { why, .. } if why.kind() == io::ErrorKind::NotFound && !agent::acts(config) => return &[],
        PolicyError::Io { why, .. } if why.kind() == io::ErrorKind::NotFound => {
            (UNTRUSTED, "write one: fieldmedic init makes it beside agent.toml", &[WRONG, DIFFERS, REFUSES])
        }
        // What only root may read is looked at by root.
        PolicyError::Io { why, .. } if why.kind() == io::ErrorKind::PermissionDenied => {
            return &[UNTRUSTED, WRONG, DIFFERS, REFUSES];
        }
        PolicyError::Wrong(_) if !is_readable(file) => return &[WRONG, DIFFERS, REFUSES],
        PolicyError::Untrusted { .. } | PolicyError::Io { .. } => (
            UNTRUSTED,
            "make it root's and nobody else's to write, and all directories above it",
            &[WRONG, DIFFERS, REFUSES],
        ),
        PolicyError::Wrong(_) => {
            (WRONG, "sudo /usr/libexec/fieldmedic-act --check lists all, with their lines", &[DIFFERS, REFUSES])
        }
    };
    let what = format!("root's helper refuses everything, commands and ladders, as its policy can't be used: {error}");
    found.push(finding(Severity::Error, check, file.display().to_string(), what, advice));
    hides
}

fn is_readable(file: &Path) -> bool {
    rustix::fs::access(file, rustix::fs::Access::READ_OK).is_ok()
}

/// A command is judged by both files, so what only one of them knows is refused.
fn differences(config: &CheckedConfig, policy: &Policy, file: &Path, found: &mut Vec<Finding>) {
    let file = file.display();
    let mut tell = |severity, subject: &str, what: String, advice: String| {
        found.push(finding(severity, DIFFERS, subject, what, &advice));
    };
    let device = &config.device;
    if policy.device != device.id {
        let what = format!(
            "{file} is for the device {}, and the agent's configuration for {}: what takes root is refused \
             (wrong_audience)",
            policy.device, device.id
        );
        tell(Severity::Warning, "device.id", what, format!("set [device] id in both, or in neither ({file})"));
    }
    for group in device.groups.iter().filter(|group| !policy.groups.contains(group)) {
        let what = format!("{file} doesn't have the group {group}: of its commands, what takes root is refused");
        let advice = "add it to [device] groups there, or take it out of the agent's configuration";
        tell(Severity::Warning, group, what, advice.to_owned());
    }
    let (ours, roots) = (&config.commands.trusted_keys, &policy.commands.trusted_keys);
    let names = |keys: &[TrustedKey], kid: &str| keys.iter().any(|key| key.kid == kid);
    for key in ours.iter().filter(|key| !roots.contains(key)) {
        let (what, advice) = if names(roots, &key.kid) {
            let what = "isn't the one of the agent's configuration: what takes root is refused (bad_signature)";
            (what, "put the same one into both")
        } else {
            let what = "is not there and in the agent's configuration is: what takes root is refused (unknown_key)";
            (what, "add it to [commands] trusted_keys there, or take it out of the agent's configuration")
        };
        tell(Severity::Warning, &key.kid, format!("{file}: the key {:?} {what}", key.kid), advice.to_owned());
    }
    // Without signatures the agent asks for no key.
    let refused = roots.iter().filter(|key| config.commands.require_signature && !names(ours, &key.kid));
    for key in refused {
        let kid = &key.kid;
        let what = format!("{file}: the key {kid:?} is there, and the agent refuses it (unknown_key)");
        let advice = "add it to commands.trusted_keys of the agent's configuration, too, or take it out there";
        tell(Severity::Notice, kid, what, advice.to_owned());
    }
}

/// A quarantine is put in force on the terms that both files name: without the broker it is not, and of the rest what
/// root's doesn't name is left out.
fn cut_quarantine(config: &CheckedConfig, policy: &Policy, file: &Path, found: &mut Vec<Finding>) {
    let enters = Act::Quarantine { level: Some(QuarantineLevel::Restrict) };
    if !config.remediation.allow.contains(&Action::Quarantine) || policy.permits(&enters).is_err() {
        return;
    }
    let (source, file) = (Source::of(config), file.display());
    let mut tell = |subject: &str, what: String, advice: String| {
        found.push(finding(Severity::Warning, DIFFERS, subject, what, &advice));
    };
    if let Err(refusal) = policy.keeps_broker(&source) {
        let what = format!("{file}: a quarantine is refused (not_allowed): {}", refusal.detail);
        let advice = format!("add {}, the port of mqtt.url, to [quarantine] broker_ports there", source.port);
        tell("quarantine.broker_ports", what, advice);
    }
    if let Some(left_out) = policy.leaves_out(&source) {
        let what = format!("{file}: a quarantine is put in force in part (degraded): {left_out}");
        let advice = "name it in [quarantine] there, too, or take it out of the agent's configuration";
        tell("quarantine", what, advice.to_owned());
    }
}

fn refused_steps(config: &CheckedConfig, policy: &Policy, file: &Path, found: &mut Vec<Finding>) {
    for (name, steps) in &config.ladders {
        let climbs = config.rules.iter().find(|rule| rule.remedy.as_ref() == Some(name));
        let Some(rule) = climbs.filter(|_| !config.remediation.dry_run) else { continue };
        let trigger = Trigger::Rule(rule.name.clone());
        let refused = |(index, step): (usize, &Step)| {
            let refusal = policy.lets(&Act::of(&step.remedy), &trigger).err()?;
            Some(format!("step {}: {}", index + 1, refusal.detail))
        };
        // Neither is asked of root.
        let asked = |(_, step): &(usize, &Step)| Act::of(&step.remedy).changes();
        let refused: Vec<String> = steps.iter().enumerate().filter(asked).filter_map(refused).collect();
        if refused.is_empty() {
            continue;
        }
        let what = format!(
            "the ladder {name} is refused at {} of {} steps: {}",
            refused.len(),
            steps.len(),
            refused.join("; ")
        );
        let advice = format!("name in {} what rules may do, or take the steps out of the ladder", file.display());
        found.push(finding(Severity::Warning, REFUSES, name.as_str(), what, &advice));
    }
}

/// A release on trial is left by nobody's command.
fn refused_rollbacks(config: &CheckedConfig, policy: &Policy, file: &Path, found: &mut Vec<Finding>) {
    let remediation = &config.remediation;
    if remediation.dry_run || !remediation.allow.contains(&Action::Rollback) {
        return;
    }
    for (target, rollback) in &config.rollback {
        let act = Act::Rollback { target: target.clone(), to: None };
        let (refused, what) = match rollback.kind {
            // Which of its releases runs can't be seen, so that none is on trial.
            RollbackKind::Command { .. } => (policy.permits(&act), "going back is refused"),
            RollbackKind::Slots { .. } | RollbackKind::Rauc => {
                (policy.lets(&act, &Trigger::Own(Own::Trial)), "a release on trial that is no good is not left")
            }
        };
        if let Err(refusal) = refused {
            let what = format!("[rollback.{target}]: {what}: {}", refusal.detail);
            let advice = format!("name it in {}, or take [rollback.{target}] out of agent.toml", file.display());
            found.push(finding(Severity::Warning, REFUSES, format!("rollback.{target}"), what, &advice));
        }
    }
}
