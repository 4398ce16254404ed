//! Root's policy, which anybody may read: what of the gateway's own ladders it refuses. That would else be seen on the
//! day on which a ladder is climbed.

use std::path::Path;

use super::finding;
use crate::config::{CheckedConfig, Step};
use crate::engine::io::{Act, Trigger};
use crate::engine::observation::{Finding, Severity};
use crate::helper::Policy;

/// What is wrong with the policy itself is its helper's to tell.
pub(super) fn look(config: &CheckedConfig, file: &Path, found: &mut Vec<Finding>) {
    let Ok(policy) = Policy::read(file) else { return };
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
        found.push(finding(Severity::Warning, "policy_refuses", name.as_str(), what, &advice));
    }
}
