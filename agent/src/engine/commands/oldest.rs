//! What a full ledger of commands forgets before it has expired: the agent's, and that of root's helper. Nothing that
//! is forgotten may run again, so whatever was issued no later is refused from then on unless it is remembered.

/// Why a command is refused that may have been forgotten.
pub(crate) const MAY_HAVE_RUN: &str =
    "issued before all that is remembered, so that it may have run: send it anew, with a new id";

/// What makes room.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Oldest<Id> {
    /// These are forgotten.
    pub(crate) ids: Vec<Id>,
    /// What was issued before (in seconds since 1970) is refused unless it is remembered: to be written with the rest.
    pub(crate) before_s: i64,
}

/// Of what is remembered (`iat` and id), the oldest of which there are `surplus` too many. A newcomer has to be younger
/// than each of them, or its like would be refused as it is taken; and what a wrong clock dated ahead of the present
/// stays, or nothing would be obeyed until that date.
pub(crate) fn oldest<Id: Ord>(
    remembered: impl Iterator<Item = (i64, Id)>,
    surplus: usize,
    newcomer_s: i64,
    present_s: i64,
) -> Option<Oldest<Id>> {
    let mut old: Vec<(i64, Id)> = remembered.filter(|(iat, _)| *iat < newcomer_s && *iat <= present_s).collect();
    old.sort_unstable();
    old.truncate(surplus);
    let before_s = old.last()?.0.saturating_add(1);
    Some(Oldest { ids: old.into_iter().map(|(_, id)| id).collect(), before_s })
}
