//! Texts as people read them: the beginning and the end of one that may be too long, cut between two characters; names
//! that may be many; and sizes.

use unit_prefix::NumberPrefix;

/// As much of its beginning as has at most so many bytes.
pub(crate) fn head(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// As much of its end as has at most so many bytes.
pub(crate) fn tail(text: &str, bytes_max: usize) -> &str {
    let from = text.len().saturating_sub(bytes_max);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text.get(from..).unwrap_or_default()
}

/// Names that are told of what may be any number of them.
const NAMED_MAX: usize = 8;

/// `a, b`, and how many more there are.
pub(crate) fn named<T: ToString>(all: &[T]) -> String {
    let mut names: Vec<String> = all.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    if all.len() > NAMED_MAX {
        names.push(format!("{} more", all.len() - NAMED_MAX));
    }
    names.join(", ")
}

/// `1.5 MiB`, `512 B`.
pub(crate) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    match NumberPrefix::binary(bytes as f64) {
        NumberPrefix::Standalone(_) => format!("{bytes} B"),
        NumberPrefix::Prefixed(prefix, number) => format!("{number:.1} {}B", prefix.symbol()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_said_in_the_largest_unit_that_it_fills() {
        let said = [0, 1_023, 1_024, 1_572_864, u64::MAX].map(size);
        assert_eq!(said, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "16.0 EiB"]);
    }

    #[test]
    fn of_many_names_the_first_are_said_and_how_many_there_are_beside_them() {
        let said = [0, 2, 8, 9].map(|count| named(&(0..count).collect::<Vec<_>>()));
        assert_eq!(said, ["", "0, 1", "0, 1, 2, 3, 4, 5, 6, 7", "0, 1, 2, 3, 4, 5, 6, 7, 1 more"]);
    }

    #[test]
    fn a_text_is_cut_between_two_characters() {
        let both = |bytes_max| (head("aéb", bytes_max), tail("aéb", bytes_max));
        assert_eq!(both(0), ("", ""));
        assert_eq!(both(2), ("a", "b"));
        assert_eq!(both(3), ("aé", "éb"));
        assert_eq!(both(4), ("aéb", "aéb"));
        assert_eq!(both(usize::MAX), ("aéb", "aéb"));
    }
}
