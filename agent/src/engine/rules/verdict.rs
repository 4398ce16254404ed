//! What a rule compares, and what that says of a number: bad, good, or between the two. Keeps nothing over rounds.

use std::time::Duration;

use crate::config::{Anomaly, AttributeValue, Rule, RuleTest};
use crate::engine::metric::Value;

const MINUTE: Duration = Duration::from_secs(60);

/// What a rule compares.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    Limit(Limit),
    Rate(Limit),
    Equals(Value),
    Missing(Duration),
    Anomaly(Anomaly),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limit {
    side: Side,
    raise: f64,
    clear: Option<f64>,
}

/// On which side of the limit it is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Below,
    Above,
}

/// What a round says about a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The test holds.
    Bad,
    /// It holds no longer, and what clears the alarm does not hold yet.
    Between,
    /// What clears the alarm holds.
    Good,
}

impl Test {
    pub(super) fn of(rule: &Rule) -> Self {
        let below = |raise| Limit { side: Side::Below, raise, clear: rule.clear_above };
        let above = |raise| Limit { side: Side::Above, raise, clear: rule.clear_below };
        match &rule.test {
            RuleTest::Below(limit) => Self::Limit(below(*limit)),
            RuleTest::Above(limit) => Self::Limit(above(*limit)),
            RuleTest::RateBelow(limit) => Self::Rate(below(*limit)),
            RuleTest::RateAbove(limit) => Self::Rate(above(*limit)),
            RuleTest::Equals(value) => Self::Equals(value_of(value)),
            RuleTest::MissingFor(limit) => Self::Missing(*limit),
            RuleTest::Anomaly(kind) => Self::Anomaly(*kind),
        }
    }

    /// What raises the alarm, and names its limit when it is cleared as well; `None` where the detector says.
    pub(super) fn threshold(&self) -> Option<Value> {
        Some(match self {
            Self::Limit(limit) | Self::Rate(limit) => Value::Float(limit.raise),
            Self::Equals(value) => value.clone(),
            Self::Missing(limit) => Value::Float(limit.as_secs_f64()),
            Self::Anomaly(_) => return None,
        })
    }

    /// The time for which what it says of a count is meant, where limits are for `limits`. What a detector knows of one
    /// is of minutes: a line in a second is no surge of sixty.
    pub(super) fn counts_over(&self, limits: Duration) -> Duration {
        if matches!(self, Self::Anomaly(_)) { limits.max(MINUTE) } else { limits }
    }

    pub(super) const fn detector(&self) -> &'static str {
        match self {
            Self::Limit(_) | Self::Equals(_) => "threshold",
            Self::Rate(_) => "rate",
            Self::Missing(_) => "missing",
            Self::Anomaly(kind) => kind.word(),
        }
    }
}

impl Limit {
    pub(super) fn verdict(&self, number: f64) -> Verdict {
        let (is_bad, is_beyond) = match self.side {
            Side::Below => (number < self.raise, self.clear.is_none_or(|clear| number > clear)),
            Side::Above => (number > self.raise, self.clear.is_none_or(|clear| number < clear)),
        };
        match (is_bad, is_beyond) {
            (true, _) => Verdict::Bad,
            (false, true) => Verdict::Good,
            (false, false) => Verdict::Between,
        }
    }
}

/// Words as they are; everything else as numbers, so that 1 is also 1.0 and true.
pub(super) fn is_same(left: &Value, right: &Value) -> bool {
    match (left.number(), right.number()) {
        #[expect(clippy::float_cmp, reason = "the config asks for exactly this value")]
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

fn value_of(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::Text(text) => text.as_str().into(),
        AttributeValue::Flag(flag) => (*flag).into(),
        AttributeValue::Float(number) => (*number).into(),
        AttributeValue::Integer(number) => match u64::try_from(*number) {
            Ok(count) => count.into(),
            #[expect(clippy::cast_precision_loss, reason = "precise enough for any threshold")]
            Err(_) => (*number as f64).into(),
        },
    }
}
