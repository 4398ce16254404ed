//! Texts as people read them: the beginning and the end of one that may be too long, cut between two characters, and
//! sizes.

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
    fn a_text_is_cut_between_two_characters() {
        let both = |bytes_max| (head("aéb", bytes_max), tail("aéb", bytes_max));
        assert_eq!(both(0), ("", ""));
        assert_eq!(both(2), ("a", "b"));
        assert_eq!(both(3), ("aé", "éb"));
        assert_eq!(both(4), ("aéb", "aéb"));
        assert_eq!(both(usize::MAX), ("aéb", "aéb"));
    }
}
