//! Dates as they are written: RFC 3339, in UTC. A calendar and no more: no time zones, and nothing is read.

use std::fmt::Write as _;

use crate::engine::time::Unix;

const DAY_MS: i64 = 86_400_000;

/// A date of the Gregorian calendar, carried back before its begin as ISO 8601 does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

impl Date {
    /// `days` since 1970-01-01. Years are counted from March here, so that the leap day is a year's last.
    const fn of(days: i64) -> Self {
        const DAYS_OF_400_YEARS: i64 = 146_097;
        // Since 0000-03-01, the first day of such a year.
        let days = days + 719_468;
        let (cycle, day) = (days.div_euclid(DAYS_OF_400_YEARS), days.rem_euclid(DAYS_OF_400_YEARS));
        // A leap day each 4 years, but for each 100, and yet each 400.
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        // Months from March on are 31, 30, 31, 30, 31 days long, over and over.
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        Self { year: cycle * 400 + year + carry, month, day }
    }
}

/// To the millisecond, as `2026-06-01T08:30:00.250Z`; `None` outside the years that RFC 3339 can write (0000 to 9999).
#[must_use]
pub fn rfc3339(unix: Unix) -> Option<String> {
    let mut text = day(unix)?;
    let ms = unix.0.rem_euclid(DAY_MS);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    write!(text, "T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000).ok()?;
    Some(text)
}

/// The day only, as `2026-06-01`.
#[must_use]
pub fn day(unix: Unix) -> Option<String> {
    let Date { year, month, day } = Date::of(unix.0.div_euclid(DAY_MS));
    (0..=9_999).contains(&year).then(|| format!("{year:04}-{month:02}-{day:02}"))
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
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (-62_167_219_200_000, "0000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(Unix(unix)).as_deref(), Some(text));
        }
    }

    #[test]
    fn what_rfc_3339_has_no_year_for_is_not_written() {
        for unix in [i64::MIN, -62_167_219_200_001, 253_402_300_800_000, i64::MAX] {
            assert_eq!((rfc3339(Unix(unix)), day(Unix(unix))), (None, None), "{unix}");
        }
    }

    proptest! {
        #[test]
        fn any_date_is_written_as_others_write_it(unix in -62_167_219_200_000_i64..=253_000_000_000_000) {
            let other = Timestamp::from_millisecond(unix).unwrap();
            prop_assert_eq!(rfc3339(Unix(unix)).unwrap(), format!("{other:.3}"));
            prop_assert_eq!(day(Unix(unix)).unwrap(), other.strftime("%Y-%m-%d").to_string());
        }
    }
}
