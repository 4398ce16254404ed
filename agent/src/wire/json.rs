//! JSON text in the making, for the one payload of which there are many. Its pieces are short, and there are a hundred of
//! them in a sample: to copy each by its own length takes longer than to make it. So each is copied with all the room that
//! its kind may take, which is a constant, and what was too much of it the next piece covers. What is inlined here is so
//! against the release profile, which wants size: it is no more than the instructions that a call takes.
//!
//! Every value is followed by a comma; whoever closes an object or an array puts the bracket in its place.

/// Room for a key or a word.
pub(super) const PIECE_BYTES: usize = 32;
/// A number beyond this is written as a float with an exponent: its digits would not fit an integer.
const FIXED_MAX: f64 = 1e15;

/// A text that is written often, made once.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    start: [u8; PIECE_BYTES],
    start_len: usize,
    /// Of a long one, what is more than that.
    rest: Box<[u8]>,
}

impl Piece {
    /// A name as a key: `"voltage_v":`.
    pub(super) fn key(name: &str) -> Self {
        let mut text = Text::default();
        text.key(name);
        Self::of(&text.finish())
    }

    /// A name as the key of an object that begins: `"battery":{`.
    pub(super) fn group(name: &str) -> Self {
        let mut text = Text::default();
        text.open(name);
        Self::of(&text.finish())
    }

    fn of(text: &[u8]) -> Self {
        let (start, rest) = text.split_at_checked(PIECE_BYTES).unwrap_or((text, &[]));
        let mut piece = Self { start: [0; PIECE_BYTES], start_len: start.len(), rest: rest.into() };
        for (place, byte) in piece.start.iter_mut().zip(start) {
            *place = *byte;
        }
        piece
    }
}

/// Decimals worth writing: a thousandth of a percent, a millionth of anything else (the kernel's own µV, µA and µW).
#[derive(Debug, Clone, Copy)]
pub(super) enum Decimals {
    Three,
    Six,
}

/// The text. Behind its end there may be bytes that mean nothing.
#[derive(Debug, Default)]
pub(super) struct Text {
    bytes: Vec<u8>,
    len: usize,
}

impl Text {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes], len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Takes back what was added since it was so long.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.truncate(self.len);
        self.bytes
    }

    /// Adds the first `len` bytes of a chunk.
    #[inline(always)]
    fn put<const N: usize>(&mut self, chunk: [u8; N], len: usize) {
        match self.bytes.get_mut(self.len..).and_then(<[u8]>::first_chunk_mut) {
            Some(room) => *room = chunk,
            None => self.make_room_for(&chunk),
        }
        self.len += len;
    }

    #[cold]
    #[inline(never)]
    fn make_room_for(&mut self, chunk: &[u8]) {
        let mut roomier = Self::with_capacity((self.len + chunk.len()) * 2);
        for text in [self.bytes.get(..self.len).unwrap_or_default(), chunk] {
            roomier.raw(text);
        }
        self.bytes = roomier.bytes;
    }

    #[inline(always)]
    pub(super) fn piece(&mut self, piece: &Piece) {
        self.put(piece.start, piece.start_len);
        if !piece.rest.is_empty() {
            self.raw(&piece.rest);
        }
    }

    /// Begins an object under a key that is no [`Piece`].
    pub(super) fn open(&mut self, name: &str) {
        self.key(name);
        self.put([b'{'], 1);
    }

    /// Ends an object.
    pub(super) fn close(&mut self) {
        self.take_comma();
        self.put(*b"},", 2);
    }

    /// Takes back the comma behind the last value, if there is one.
    pub(super) fn take_comma(&mut self) {
        let last = self.len.checked_sub(1);
        self.len = last.filter(|last| self.bytes.get(*last) == Some(&b',')).unwrap_or(self.len);
    }

    /// Adds what is not often the same.
    pub(super) fn raw(&mut self, text: &[u8]) {
        match self.bytes.get_mut(self.len..).and_then(|room| room.get_mut(..text.len())) {
            Some(room) => room.copy_from_slice(text),
            None => self.make_room_for(text),
        }
        self.len += text.len();
    }

    /// A key that is no [`Piece`].
    pub(super) fn key(&mut self, name: &str) {
        self.string(name);
        self.take_comma();
        self.put([b':'], 1);
    }

    pub(super) fn string(&mut self, text: &str) {
        if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
            self.put([b'"'], 1);
            self.raw(text.as_bytes());
            self.put(*b"\",", 2);
        } else {
            self.serialize(text);
        }
    }

    pub(super) fn null(&mut self) {
        self.put(*b"null,", 5);
    }

    /// An instant as RFC 3339 has it, in UTC: its date, and the milliseconds since that began.
    pub(super) fn instant(&mut self, date: &str, ms: u64) {
        self.put([b'"'], 1);
        self.raw(date.as_bytes());
        self.put([b'T'], 1);
        for (unit_ms, end) in [(3_600_000, b':'), (60_000, b':'), (1_000, b'.')] {
            let [_, tens, ones] = three(ms / unit_ms % 60).digits;
            self.put([tens, ones, end], 3);
        }
        self.put(three(ms).digits, 3);
        self.put(*b"Z\",", 3);
    }

    #[inline(always)]
    pub(super) fn flag(&mut self, flag: bool) {
        if flag {
            self.put(*b"true,", 5);
        } else {
            self.put(*b"false,", 6);
        }
    }

    #[inline(always)]
    pub(super) fn count(&mut self, number: u64) {
        self.whole(number);
        self.put([b','], 1);
    }

    /// A finite number, rounded, with one decimal at least: a float is told from a count by it.
    pub(super) fn float(&mut self, value: f64, decimals: Decimals) {
        let scaled = value * 1e6;
        if matches!(decimals, Decimals::Six) && scaled.abs() < FIXED_MAX {
            return self.millionths(rounded(scaled));
        }
        let scaled = value * 1e3;
        if matches!(decimals, Decimals::Three) && scaled.abs() < FIXED_MAX {
            return self.millionths(rounded(scaled) * 1_000);
        }
        self.serialize(&value);
    }

    fn millionths(&mut self, number: i64) {
        if number < 0 {
            self.put([b'-'], 1);
        }
        let number = number.unsigned_abs();
        self.whole(number / 1_000_000);
        self.put([b'.'], 1);
        let (thousandths, rest) = (three(number / 1_000), three(number));
        if rest.decimals == 0 {
            self.put(thousandths.digits, usize::from(thousandths.decimals.max(1)));
        } else {
            self.put(thousandths.digits, 3);
            self.put(rest.digits, usize::from(rest.decimals));
        }
        self.put([b','], 1);
    }

    #[inline(always)]
    fn whole(&mut self, number: u64) {
        if number < 1_000 {
            let three = three(number);
            self.put(three.short, usize::from(three.short_len));
        } else {
            self.long(number);
        }
    }

    /// By thousands: at most six times one in the other.
    fn long(&mut self, number: u64) {
        self.whole(number / 1_000);
        self.put(three(number).digits, 3);
    }

    /// The rare values, in serde's form.
    #[cold]
    fn serialize(&mut self, value: &(impl serde::Serialize + ?Sized)) {
        self.bytes.truncate(self.len);
        // Memory takes what is written, and neither numbers nor texts are refused: there is nothing that could fail.
        let written = serde_json::to_writer(&mut self.bytes, value);
        debug_assert!(written.is_ok(), "write a value: {written:?}");
        self.bytes.push(b',');
        self.len = self.bytes.len();
    }
}

/// Three digits, as whole numbers and as decimals have them.
#[derive(Debug, Clone, Copy)]
struct Three {
    digits: [u8; 3],
    /// Without zeros at the end.
    decimals: u8,
    /// Without zeros at the beginning, but for one of 0.
    short: [u8; 3],
    short_len: u8,
}

#[expect(clippy::indexing_slicing, reason = "it is worked out by the compiler")]
static THREES: [Three; 1_000] = {
    let mut threes = [Three::of(0); 1_000];
    let mut number = 0;
    while number < threes.len() {
        threes[number] = Three::of(number);
        number += 1;
    }
    threes
};

impl Three {
    #[expect(clippy::cast_possible_truncation, reason = "digits")]
    const fn of(number: usize) -> Self {
        let digits @ [_, tens, ones] =
            [b'0' + (number / 100) as u8, b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8];
        let (short, short_len) = match number {
            0..=9 => ([ones, 0, 0], 1),
            10..=99 => ([tens, ones, 0], 2),
            _ => (digits, 3),
        };
        let decimals = match number {
            0 => 0,
            _ if number % 100 == 0 => 1,
            _ if number % 10 == 0 => 2,
            _ => 3,
        };
        Self { digits, decimals, short, short_len }
    }
}

/// The last three digits of a number.
#[inline(always)]
fn three(number: u64) -> Three {
    let index = usize::try_from(number % 1_000).unwrap_or_default();
    THREES.get(index).copied().unwrap_or(const { Three::of(0) })
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "below 10^15")]
fn rounded(scaled: f64) -> i64 {
    (scaled + 0.5_f64.copysign(scaled)) as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;

    /// What a value is written as, and that nothing but its comma stands behind it.
    fn written(write: impl FnOnce(&mut Text)) -> String {
        let mut text = Text::default();
        write(&mut text);
        let mut json = String::from_utf8(text.finish()).unwrap();
        assert_eq!(json.pop(), Some(','));
        json
    }

    proptest! {
        #[test]
        fn a_number_is_written_to_its_decimals(value in prop_oneof![-1e6..1e6_f64, any::<f64>(), Just(-0.0), Just(1e-9)]) {
            prop_assume!(f64::is_finite(value));
            for (decimals, scale) in [(Decimals::Three, 1e3), (Decimals::Six, 1e6)] {
                let text = written(|json| json.float(value, decimals));
                let read: f64 = text.parse().unwrap();
                let rounded = if value.abs() < 1e8 { (value * scale).round() / scale } else { value };
                prop_assert!((read - rounded).abs() <= value.abs() * 1e-9, "{value} as {text}");
                prop_assert!(serde_json::from_str::<Json>(&text).unwrap().is_f64(), "{text} is no float");
            }
        }

        #[test]
        fn a_float_has_no_digit_too_many(thousandths in -2_000_000_i32..2_000_000) {
            let value = f64::from(thousandths) / 1e3;
            for decimals in [Decimals::Three, Decimals::Six] {
                prop_assert_eq!(written(|json| json.float(value, decimals)), format!("{value:?}"));
            }
        }

        #[test]
        fn a_count_is_written_as_it_is(count: u64, bits in 0..64_u32) {
            let count = count >> bits;
            prop_assert_eq!(written(|json| json.count(count)), count.to_string());
        }

        #[test]
        fn a_text_is_read_back_as_it_was(text in "[ -~\n\u{1}\u{e4}\\\"]{0,40}") {
            let json = written(|json| json.string(&text));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }

    #[test]
    fn pieces_of_every_length_are_added_whole() {
        for len in 1..=3 * PIECE_BYTES {
            let name = "n".repeat(len);
            let mut text = Text::default();
            text.piece(&Piece::group(&name));
            text.piece(&Piece::key(&name));
            text.flag(true);
            text.close();
            assert_eq!(String::from_utf8(text.finish()).unwrap(), format!("\"{name}\":{{\"{name}\":true}},"));
        }
    }
}
