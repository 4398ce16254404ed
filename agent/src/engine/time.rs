//! The engine's notion of time. Age and order are measured by boot id and monotonic time (CLOCK_BOOTTIME); the wall
//! clock is only ever attached at the edge, by an [`Anchor`], and only when the kernel says that it is synchronised.
//! Nothing here reads a clock.

use std::fmt;
use std::time::Duration;

use minicbor::{Decode, Encode};

/// Milliseconds since this boot, suspended time included (CLOCK_BOOTTIME, `clock_gettime(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Mono(#[n(0)] pub u64);

impl Mono {
    /// The instant `later` after this one; stays at the end of time rather than wrapping.
    #[must_use]
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The instant so much before this one; not before the boot.
    #[must_use]
    pub fn before(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(earlier.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z. Signed, so that a clock before 1970 is a value and not a wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Unix(#[n(0)] pub i64);

impl Unix {
    /// So many seconds since 1970; stays at the end of time rather than wrapping.
    #[must_use]
    pub const fn of_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }
}

/// What the wall clock says, and whether the kernel calls it synchronised (`adjtimex(2)`, STA_UNSYNC clear).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wall {
    /// The reading.
    pub unix: Unix,
    /// Whether it may be believed.
    pub trusted: bool,
}

/// One instant, read by the runtime and handed to the engine with every input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Time since boot.
    pub mono: Mono,
    /// Wall clock.
    pub wall: Wall,
}

impl Now {
    /// The same; but a clock that reads a time before this program was built is wrong, whoever says that it is right.
    #[must_use]
    pub fn doubted_before(self, built: Unix) -> Self {
        let trusted = self.wall.trusted && self.wall.unix >= built;
        Self { wall: Wall { trusted, ..self.wall }, ..self }
    }
}

/// The kernel's boot id (`/proc/sys/kernel/random/boot_id`): another one means another boot, whatever the clock says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct BootId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl BootId {
    /// Reads the kernel's text form: 32 hexadecimal digits, dashes ignored. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text
            .trim()
            .bytes()
            .filter(|b| *b != b'-')
            .map(|b| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()?;
        let bytes: Vec<u8> =
            digits.chunks_exact(2).filter_map(|pair| Some(pair.first()? << 4 | pair.get(1)?)).collect();
        if digits.len() != 32 {
            return None;
        }
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'-'; 36];
        let mut places = text.iter_mut();
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                places.next();
            }
            for (digit, place) in [byte >> 4, byte & 15].into_iter().zip(&mut places) {
                *place = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
            }
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({self})")
    }
}

/// Where the wall clock stood at the start of a boot: what turns a record's monotonic time into a date, however late
/// the clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Anchor(#[n(0)] pub Unix);

impl Anchor {
    /// The anchor that `now` implies; `None` while the clock isn't trusted.
    #[must_use]
    pub fn of(now: Now) -> Option<Self> {
        let mono = i64::try_from(now.mono.0).ok()?;
        now.wall.trusted.then(|| Self(Unix(now.wall.unix.0.saturating_sub(mono))))
    }

    /// The date of `mono` in the boot that this anchor belongs to.
    #[must_use]
    pub fn date(self, mono: Mono) -> Unix {
        Unix(self.0.0.saturating_add(i64::try_from(mono.0).unwrap_or(i64::MAX)))
    }
}
