//! Reads everything that the state holds, over pages that can't be read. Over a bad page sled's iterator gives the same
//! error for ever, so what lies behind it is sought: the first key from which sled reads again. From the other end
//! would be simpler; but sled seeks its end by a key of a MiB that stands in the program, and this would be the only
//! caller.

use super::Entries;
use super::tally::decode;

/// What sled's iterators give.
type Item = sled::Result<(sled::IVec, sled::IVec)>;

/// Pages that are passed over; a state with more is read up to there.
const BAD_PAGES_MAX: usize = 64;
/// Bytes of a key that are sought, one after the other. Two keys of the engine differ sooner.
const SOUGHT_BYTES_MAX: usize = 160;
/// Sorts behind every key: those are text, and text has no such byte.
const END: &[u8] = &[0xFF];

/// All entries that can be read, and how many things can't be: entries and pages.
pub(super) fn all(db: &sled::Db) -> (Entries, usize) {
    from(|key| db.range(key.to_vec()..))
}

/// The same of anything that can be read from a key on.
fn from<I: Iterator<Item = Item>>(seek: impl Fn(&[u8]) -> I) -> (Entries, usize) {
    let (mut entries, mut unreadable) = (Entries::new(), 0);
    let mut start = Vec::new();
    for _ in 0..BAD_PAGES_MAX {
        let Some(last) = take(seek(&start), start, &mut entries, &mut unreadable) else { break };
        unreadable += 1;
        let reads = |key: &[u8]| key > last.as_slice() && !matches!(seek(key).next(), Some(Err(_)));
        let Some(next) = first(reads) else { break };
        start = next;
    }
    (entries, unreadable)
}

/// Takes entries up to the first error. Returns the last key before it, or `None` if there was no error.
fn take(
    items: impl Iterator<Item = Item>,
    start: Vec<u8>,
    entries: &mut Entries,
    unreadable: &mut usize,
) -> Option<Vec<u8>> {
    let mut last = start;
    for item in items {
        let Ok((key, value)) = item else { return Some(last) };
        match decode(&key, &value) {
            Some((key, value)) => drop(entries.insert(key, value)),
            None => *unreadable += 1,
        }
        last = key.to_vec();
    }
    None
}

/// The first key from which it reads, byte by byte; `None` where it doesn't read at all. Of several stretches that can
/// be read it may be a later one's.
fn first(reads: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let mut found = reads(END).then(|| END.to_vec())?;
    let mut before = Vec::new();
    while before.len() < SOUGHT_BYTES_MAX {
        before.push(0);
        let Some(byte) = first_byte(|byte| {
            set_last(&mut before, byte);
            reads(&before)
        }) else {
            break;
        };
        set_last(&mut before, byte);
        found.clone_from(&before);
        // What lies between the byte before and this one begins with the former.
        let Some(lower) = byte.checked_sub(1) else { break };
        set_last(&mut before, lower);
    }
    Some(found)
}

/// The lowest byte from which on it holds.
fn first_byte(mut holds: impl FnMut(u8) -> bool) -> Option<u8> {
    let (mut low, mut high) = (0_u16, 256_u16);
    while low < high {
        let middle = low.midpoint(high);
        match u8::try_from(middle) {
            Ok(byte) if holds(byte) => high = middle,
            _ => low = middle + 1,
        }
    }
    u8::try_from(low).ok()
}

fn set_last(key: &mut [u8], byte: u8) {
    if let Some(last) = key.last_mut() {
        *last = byte;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::encode;
    use super::*;

    /// Keys by page, in order; a page without keys can't be read. Each page reaches up to the first key of the next.
    type Pages = [(&'static str, &'static [&'static str])];

    /// What sled gives from a key on: from a bad page on an error, for ever.
    fn seek(pages: &Pages, key: &[u8]) -> std::vec::IntoIter<Item> {
        let at = pages.iter().rposition(|(low, _)| low.as_bytes() <= key).unwrap();
        let mut items = Vec::new();
        for (_, keys) in &pages[at..] {
            if keys.is_empty() {
                items.push(Err(sled::Error::ReportableBug("bad page".to_owned())));
                break;
            }
            let behind = keys.iter().map(|key| key.as_bytes()).filter(|known| *known >= key);
            items.extend(behind.map(|key| Ok((key.into(), encode(std::str::from_utf8(key).unwrap(), b"v").into()))));
        }
        items.into_iter()
    }

    fn read(pages: &Pages) -> (Vec<String>, usize) {
        let (entries, unreadable) = from(|key| seek(pages, key));
        (entries.into_keys().collect(), unreadable)
    }

    #[test]
    fn behind_a_page_that_gives_an_error_for_ever_all_is_read() {
        let pages: &Pages = &[
            ("", &["\0tally", "alarm/a", "cmd/0001"]),
            ("cmd/0002", &[]),
            ("cmd/0107", &["cmd/0107", "cmd/0108"]),
            ("cmd/0200", &["cmd/0200", "remedy/ä"]),
        ];
        let (keys, unreadable) = read(pages);
        assert_eq!(keys, ["\0tally", "alarm/a", "cmd/0001", "cmd/0107", "cmd/0108", "cmd/0200", "remedy/ä"]);
        assert_eq!(unreadable, 1);
    }

    #[test]
    fn a_bad_page_at_either_end_costs_that_page() {
        assert_eq!(read(&[("", &[]), ("b", &["b", "c"])]), (vec!["b".to_owned(), "c".to_owned()], 1));
        assert_eq!(read(&[("", &["a"]), ("b", &[])]), (vec!["a".to_owned()], 1));
        assert_eq!(read(&[("", &[])]), (vec![], 1));
    }

    #[test]
    fn what_lies_behind_the_last_of_several_bad_pages_is_read() {
        let pages: &Pages = &[("", &["a"]), ("b", &[]), ("c", &["c"]), ("d", &[]), ("e", &["e"])];
        let (keys, unreadable) = read(pages);
        assert!(keys.contains(&"a".to_owned()) && keys.contains(&"e".to_owned()), "{keys:?}");
        assert!((1..=2).contains(&unreadable), "{unreadable}");
    }

    #[test]
    fn a_bound_that_is_no_whole_key_is_found_to_the_byte() {
        for bound in ["c", "cmd/0\0", "cmd/00ff", "cmd/a\u{7f}"] {
            let found = first(|key| key >= bound.as_bytes()).unwrap();
            assert_eq!(found, bound.as_bytes(), "{bound:?}");
        }
        assert_eq!(first(|_| false), None);
    }
}
