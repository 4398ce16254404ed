//! Dates as they are written: RFC 3339, in UTC, from 1970 on. No time zones, and nothing is read.

use std::fmt::Display;
use std::time::{Duration, UNIX_EPOCH};

use crate::engine::time::Unix;

/// The first instant that RFC 3339 has no year for: that of the year 10000.
const END_MS: u64 = 253_402_300_800_000;

/// To the millisecond, as `2026-06-01T08:30:00.250Z`; `None` before 1970 and after 9999.
#[must_use]
pub fn rfc3339(unix: Unix) -> Option<String> {
    Some(shown(unix)?.to_string())
}

/// The same, to be written somewhere.
pub(super) fn shown(unix: Unix) -> Option<impl Display> {
    let ms = u64::try_from(unix.0).ok().filter(|ms| *ms < END_MS)?;
    Some(humantime::format_rfc3339_millis(UNIX_EPOCH.checked_add(Duration::from_millis(ms))?))
}

/// The day only, as `2026-06-01`.
#[must_use]
pub fn day(unix: Unix) -> Option<String> {
    let mut text = rfc3339(unix)?;
    text.truncate("2026-06-01".len());
    Some(text)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_date_is_written_whatever_32_bits_would_make_of_it() {
        for (unix, text) in [
            (i64::from(i32::MAX) * 1_000 + 999, "2038-01-19T03:14:07.999Z"),
            (i64::from(i32::MAX) * 1_000 + 1_000, "2038-01-19T03:14:08.000Z"),
            (i64::from(u32::MAX) * 1_000 + 1_000, "2106-02-07T06:28:16.000Z"),
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(Unix(unix)).as_deref(), Some(text));
        }
    }

    #[test]
    fn what_is_no_date_of_a_gateway_is_not_written() {
        for unix in [i64::MIN, -1, 253_402_300_800_000, i64::MAX] {
            assert_eq!((rfc3339(Unix(unix)), day(Unix(unix))), (None, None), "{unix}");
        }
    }

    proptest! {
        #[test]
        fn any_date_is_written_as_others_write_it(unix in 0_i64..=253_000_000_000_000) {
            let other = Timestamp::from_millisecond(unix).unwrap();
            prop_assert_eq!(rfc3339(Unix(unix)).unwrap(), format!("{other:.3}"));
            prop_assert_eq!(day(Unix(unix)).unwrap(), other.strftime("%Y-%m-%d").to_string());
        }
    }
}
