//! The latest boots, by which a boot loop is known. What is not done in one is decided elsewhere.

use std::time::Duration;

use super::Facts;
use crate::engine::keyed::{BOOTS_KEY, Write, write};
use crate::engine::record::Stamp;
use crate::engine::time::Mono;

/// So many boots within this: the gateway only observes and reports.
const LOOP_BOOTS: usize = 4;
const LOOP_WINDOW: Duration = Duration::from_secs(1_800);

/// Oldest first; none before one that lasted, nor that one.
#[derive(Debug, Default)]
pub(super) struct Boots(Vec<Stamp>);

impl Boots {
    /// Those that were saved; none if that can't be read.
    pub(super) fn restore(saved: &[u8]) -> Self {
        Self(minicbor::decode(saved).unwrap_or_default())
    }

    /// Remembers this boot, if it is another one and doesn't last already: what is to be saved then.
    pub(super) fn count(&mut self, facts: Facts<'_>) -> Option<Write> {
        let is_known = self.0.last().is_some_and(|last| last.boot == facts.timeline.boot());
        if is_known || lasts(facts) {
            return None;
        }
        self.0.push(facts.stamp());
        let surplus = self.0.len().saturating_sub(LOOP_BOOTS);
        self.0.drain(..surplus);
        Some(self.entry())
    }

    /// Forgets a boot that lasts with those before it, which ends a loop also where no clock says so: what is to be
    /// saved then. Without a clock no later boot could tell how long ago it began.
    pub(super) fn outlast(&mut self, facts: Facts<'_>) -> Option<Write> {
        (!self.0.is_empty() && lasts(facts)).then(|| {
            self.0.clear();
            self.entry()
        })
    }

    /// What is to be saved.
    pub(super) fn entry(&self) -> Write {
        write(BOOTS_KEY, &self.0)
    }

    /// So many boots of late that doing something is more likely to be the cause than the cure.
    pub(super) fn looping(&self, facts: Facts<'_>) -> Option<String> {
        let late = self.0.iter().filter(|boot| facts.age(**boot) < LOOP_WINDOW).count();
        (late >= LOOP_BOOTS).then(|| format!("{late} boots, none of them up for {} min", LOOP_WINDOW.as_secs() / 60))
    }
}

/// Whether this boot is part of no loop any more.
fn lasts(facts: Facts<'_>) -> bool {
    facts.now.mono.since(Mono(0)) >= LOOP_WINDOW
}
