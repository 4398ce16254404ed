//! The latest boots, by which a boot loop is known. What is not done in one is decided elsewhere.

use std::time::Duration;

use minicbor::{Decode, Encode};

use super::Facts;
use crate::engine::keyed::{BOOTS_KEY, Write, write};
use crate::engine::record::Stamp;
use crate::engine::time::BootId;

/// So many boots within this: the gateway only observes and reports.
const LOOP_BOOTS: usize = 4;
const LOOP_WINDOW: Duration = Duration::from_secs(1_800);

/// When the agent first began in each boot of late.
#[derive(Debug, Default, Encode, Decode)]
pub(super) struct Boots {
    /// Oldest first; none before one that lasted, nor that one.
    #[n(0)]
    late: Vec<Stamp>,
    /// The last one that lasted.
    #[n(1)]
    lasted: Option<BootId>,
}

impl Boots {
    /// Those that were saved; none if that can't be read.
    pub(super) fn restore(saved: &[u8]) -> Self {
        minicbor::decode(saved).unwrap_or_default()
    }

    /// Remembers this boot, if it is another one: what is to be saved then.
    pub(super) fn count(&mut self, facts: Facts<'_>) -> Option<Write> {
        let last = self.late.last().map(|last| last.boot).or(self.lasted);
        if last == Some(facts.timeline.boot()) {
            return None;
        }
        self.late.push(facts.stamp());
        let surplus = self.late.len().saturating_sub(LOOP_BOOTS);
        self.late.drain(..surplus);
        Some(self.entry())
    }

    /// Takes a boot that lasts out of the list with those before it, which ends a loop also where no clock says so: what
    /// is to be saved then. Without a clock no later boot could tell how long ago it began.
    pub(super) fn outlast(&mut self, facts: Facts<'_>) -> Option<Write> {
        let this = *self.late.last().filter(|last| facts.age(**last) >= LOOP_WINDOW)?;
        self.late.clear();
        self.lasted = Some(this.boot);
        Some(self.entry())
    }

    /// What is to be saved.
    pub(super) fn entry(&self) -> Write {
        write(BOOTS_KEY, self)
    }

    /// So many boots of late that doing something is more likely to be the cause than the cure.
    pub(super) fn looping(&self, facts: Facts<'_>) -> Option<String> {
        let late = self.late.iter().filter(|boot| facts.age(**boot) < LOOP_WINDOW).count();
        (late >= LOOP_BOOTS).then(|| format!("{late} boots, none of them up for {} min", LOOP_WINDOW.as_secs() / 60))
    }
}
