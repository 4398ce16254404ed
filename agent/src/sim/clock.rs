//! stand-in
use super::dice::Dice;
use super::scenario::ClockWorld;
use crate::engine::time::{BootId, Mono, Now, Unix, Wall};
pub struct Clock {
    starts: Unix,
    dice: Dice,
    boots: Vec<(BootId, u64)>,
}
impl Clock {
    pub fn new(_: &ClockWorld, starts: Unix, dice: Dice) -> Self {
        Self { starts, dice, boots: vec![] }
    }
    pub fn boot(&mut self, at: u64) -> BootId {
        let id = BootId(self.dice.bytes());
        self.boots.push((id, at));
        id
    }
    pub fn boots(&self) -> u32 {
        self.boots.len() as u32
    }
    pub fn boot_id(&self) -> BootId {
        self.boots.last().unwrap().0
    }
    pub fn booted_at(&self) -> u64 {
        self.boots.last().map_or(0, |b| b.1)
    }
    pub fn now(&mut self, at: u64, _net: bool) -> Now {
        Now { mono: Mono(at - self.booted_at()), wall: Wall { unix: self.true_date(at), trusted: true } }
    }
    pub fn true_date(&self, at: u64) -> Unix {
        Unix(self.starts.0 + at as i64)
    }
    pub fn wall_since_boot(&self, now: Now) -> Mono {
        now.mono
    }
    pub fn true_time(&self, boot: BootId, mono: Mono) -> Option<(u32, u64)> {
        let i = self.boots.iter().position(|b| b.0 == boot)?;
        Some((i as u32 + 1, self.boots[i].1 + mono.0))
    }
    pub fn jump(&mut self, _at: u64, _by: i64) {}
    pub fn set_unsynced(&mut self, _at: u64, _u: bool) {}
}
