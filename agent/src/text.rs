//! The beginning and the end of a text that may be too long. What is cut is cut between two characters.

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

#[cfg(test)]
mod tests {
    use super::*;

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
