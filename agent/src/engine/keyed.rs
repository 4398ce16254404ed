//! What stands in the store's keyed state: every key, the form of a value, and a change of one. What a value says is
//! the business of the part that it belongs to.

use bytes::Bytes;
use minicbor::Encode;

/// A change of the keyed state: what stands under this key from then on; `None`: nothing.
pub type Write = (String, Option<Bytes>);

/// The store's word, as an entry of the keyed state, that this was begun anew after a loss. It stays until what follows
/// from that is written with its deletion: whoever opened the store first may have died before, or have been somebody
/// else.
pub const STATE_LOST_KEY: &str = "state_lost";

/// The end of the numbers that were taken in advance.
pub(super) const SEQ_KEY: &str = "seq";
/// How late it is at least.
pub(super) const FLOOR_KEY: &str = "floor";
/// How late it is by a command's word.
pub(super) const CLAIM_KEY: &str = "claim";
/// A boot's clock, by its id.
pub(super) const ANCHOR_KEY: &str = "anchor/";
/// How far the journal of errors was read.
pub(super) const CURSOR_KEY: &str = "cursor";
/// What was counted of error lines before the cursor, and not told.
pub(super) const OPEN_KEY: &str = "open";
/// What the broker knows that we subscribed to.
pub(super) const SUBSCRIBED_KEY: &str = "subscribed";
/// Records given up, by reason.
pub(super) const DROPPED_KEY: &str = "dropped";
/// How much of what the store evicted is among the dropped; saved with them.
pub(super) const ACCOUNTED_KEY: &str = "accounted";
/// Records given up that are yet to be told; saved with them.
pub(super) const LOST_KEY: &str = "lost";
/// The run before this one, and how it ended.
pub(super) const RUN_KEY: &str = "run";
/// By when this boot had begun.
pub(super) const BOOTED_KEY: &str = "booted";
/// The boots of late.
pub(super) const BOOTS_KEY: &str = "boots";
/// Crashes of the kernel's that were told.
pub(super) const CRASHES_KEY: &str = "crashes";
/// Losses of the store's that were told.
pub(super) const LOSSES_KEY: &str = "losses";
/// Losses that a run found which could not tell them any more.
pub(super) const UNTOLD_KEY: &str = "untold";
/// The date before which no command is obeyed.
pub(super) const CAREFUL_KEY: &str = "careful";
/// The moment that it is the date of, while that can't be told.
pub(super) const CAREFUL_SINCE_KEY: &str = "careful_since";
/// When what the ledger has forgotten was issued.
pub(super) const FORGOTTEN_KEY: &str = "forgotten";
/// The ledger of commands, by their ids.
pub(super) const COMMAND_KEY: &str = "cmd/";
/// What was spent of a budget, by its action.
pub(super) const BUDGET_KEY: &str = "budget/";
/// A ladder, by its rule.
pub(super) const REMEDY_KEY: &str = "remedy/";
/// A raised alarm, by its rule.
pub(super) const ALARM_KEY: &str = "alarm/";
/// What a detector has learned, by its rule.
pub(super) const LEARNED_KEY: &str = "learned/";
/// What is told with a change of other state, by the key of that.
pub(super) const TELLING_KEY: &str = "telling/";
/// A target's releases, by its name.
pub(super) const RELEASE_KEY: &str = "release/";
/// The level in force.
pub const QUARANTINE_KEY: &str = "quarantine";
/// What was counted of data.
pub(super) const DATA_KEY: &str = "data_use";
/// What the audit of ourselves has found.
pub(super) const AUDIT_KEY: &str = "audit";

/// The change after which this value stands under this key.
pub(super) fn write<T: Encode<()>>(key: impl Into<String>, value: &T) -> Write {
    (key.into(), Some(encode(value)))
}

/// CBOR into memory has no failure; should it ever, an empty value is reported as unreadable at the next start.
pub(super) fn encode<T: Encode<()>>(value: &T) -> Bytes {
    minicbor::to_vec(value).unwrap_or_default().into()
}
