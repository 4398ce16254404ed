//! stand-in
use super::report::{Moment, Summary, Unmet};
use super::scenario::Scenario;
pub(super) fn judge(_: &Scenario, _: &[Moment], _: &Summary) -> Vec<Unmet> {
    Vec::new()
}
